"""Instruments over time: GaiaEx beside Hyperliquid, restarts, and listings in the lake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.instruments.registry import InstrumentRegistry
from ingest.venues.gaiaex import protocol as gaiaex
from serving.cli import main
from storage.clock import NS
from storage.contracts.tables import INSTRUMENTS
from storage.contracts.validation import validate
from storage.errors import InstrumentError
from storage.lake.lake import Lake
from storage.settings import Settings, load_settings
from tests.conftest import recorded
from tests.ingest.instruments.listing_answers import META, NOW, brief, full, meta, row


def test_gaiaex_symbols_are_instruments_of_their_own() -> None:
    """F31: a symbol counts as gone when the list no longer has it."""
    registry = full()
    listing = {
        "symbols": [{"symbol": "BTC", "maxLeverage": 40}, {"symbol": "xyz:AAPL"}],
        "count": 2,
        "timestamp": 1,
    }
    rows = registry.apply_answer(gaiaex.question("symbols/list"), listing, NOW)
    assert [(item["instrument"], item["dex"]) for item in rows] == [
        ("gaiaex|perp|BTC", ""),
        ("gaiaex|perp|xyz:AAPL", "xyz"),
    ]
    assert validate(INSTRUMENTS, INSTRUMENTS.rows(rows))[1].num_rows == 0
    assert registry.expand(["xyz:*"], gaiaex.VENUE) == registry.listed(gaiaex.VENUE)[1:]
    gone = registry.apply_answer(gaiaex.question("symbols/list"), {"symbols": [{"symbol": "BTC"}]}, NOW + NS)
    assert [(item["instrument"], item["state"]) for item in gone][-1] == ("gaiaex|perp|xyz:AAPL", "absent")
    assert registry.is_listed("hyperliquid|perp|xyz:AAPL")
    with pytest.raises(InstrumentError, match="on gaiaex"):
        registry.expand(["xyz:AAPL"], gaiaex.VENUE)


def test_gaiaex_spot_pairs_are_instruments_too() -> None:
    pairs = {"symbols": [{"symbol": "@145", "quoteToken": "USDC", "szDecimals": 0}]}
    rows = InstrumentRegistry().apply_answer(gaiaex.question("spot/symbols"), pairs, NOW)
    assert [(item["instrument"], item["quote"], item["size_decimals"]) for item in rows] == [
        ("gaiaex|spot|@145", "USDC", 0)
    ]


ANSWERS = st.lists(
    st.lists(
        st.tuples(st.sampled_from("ABC"), st.integers(0, 2), st.booleans()),
        min_size=1,
        max_size=3,
        unique_by=lambda r: r[0],
    ).map(lambda rows: meta(*(row(name, decimals, isDelisted=gone) for name, decimals, gone in rows))),
    min_size=1,
    max_size=6,
)


@given(ANSWERS, st.integers(0, 5))
def test_a_restored_registry_continues_like_one_that_never_stopped(answers: list[Any], cut: int) -> None:
    """A restart changes no id and repeats no row."""
    whole = InstrumentRegistry()
    rows = [whole.apply_answer(META, answer, NOW + number * NS) for number, answer in enumerate(answers)]
    resumed = InstrumentRegistry()
    resumed.restore(item for made in rows[:cut] for item in made)
    later = [
        resumed.apply_answer(META, answer, NOW + number * NS)
        for number, answer in enumerate(answers)
        if number >= cut
    ]
    assert later == rows[cut:]
    assert [resumed.instrument_id(name) for name in "ABC"] == [whole.instrument_id(name) for name in "ABC"]


@given(ANSWERS)
def test_rows_have_unique_keys_and_each_states_a_change(answers: list[Any]) -> None:
    registry = InstrumentRegistry()
    rows = [item for answer in answers for item in registry.apply_answer(META, answer, NOW)]
    keys = [(item["instrument"], item["ts_knowable_ns"]) for item in rows]
    assert len(set(keys)) == len(keys)
    last: dict[str, dict[str, Any]] = {}
    for item in rows:
        said = {key: value for key, value in item.items() if key != "ts_knowable_ns"}
        assert last.get(item["instrument"]) != said
        last[item["instrument"]] = said


def test_validity_intervals_in_the_lake(settings: Settings) -> None:
    registry = InstrumentRegistry()
    with Lake.open(settings) as lake:
        for number, answer in enumerate([meta("A"), meta(row("A", isDelisted=True)), meta(row("A", 5))]):
            rows = registry.apply_answer(META, answer, NOW + number * NS)
            lake.commit({"instruments": INSTRUMENTS.rows(rows)}, batch_id=str(number))
        found = lake.query(
            "SELECT instrument, state, valid_from_ns, valid_to_ns FROM instruments_valid ORDER BY valid_from_ns"
        ).to_pylist()
        held = lake.query("SELECT * FROM instruments").to_pylist()
    assert [tuple(item.values()) for item in found] == [
        ("hyperliquid|perp|A", "listed", NOW, NOW + NS),
        ("hyperliquid|perp|A", "delisted", NOW + NS, None),
        ("hyperliquid|perp|A~2", "listed", NOW + 2 * NS, None),
    ]
    again = InstrumentRegistry()
    again.restore(held)
    assert again.apply_answer(META, meta(row("A", 5)), NOW + 9 * NS) == []
    assert again.instrument_id("A") == "hyperliquid|perp|A~2"


@pytest.mark.real_lakes
def test_a_lake_of_the_first_release_gets_the_new_columns(settings: Settings, tmp_path: Path) -> None:
    """Rows of the first release lack the columns; their meaning stays the same."""
    first = {"instrument": "hyperliquid|perp|A", "venue": "hyperliquid", "kind": "perp", "symbol": "A"}
    with Lake.open(settings) as lake:
        columns = {"dex", "asset_index", "quote", "max_leverage", "state", "generation", "session"}
        lake._connection.execute("DROP VIEW instruments_valid")
        for name in columns:
            lake._connection.execute(f"ALTER TABLE instruments DROP COLUMN {name}")
        values = [*first.values(), 2, False, NOW, NOW, "old"]
        lake._connection.execute(f"INSERT INTO instruments VALUES ({', '.join('?' * len(values))})", values)
    with Lake.open(load_settings(overrides={"home": settings.home}, environ={})) as lake:
        registry = InstrumentRegistry()
        registry.restore(lake.query("SELECT * FROM instruments").to_pylist())
        rows = registry.apply_answer(META, meta("A"), NOW + NS)
        assert brief(rows) == [("perp|A", "listed")]
        assert lake.commit({"instruments": INSTRUMENTS.rows(rows)}, batch_id="new").rows == {"instruments": 1}
        newest = lake.query(
            "SELECT state, generation, batch FROM instruments ORDER BY ts_knowable_ns"
        ).to_pylist()
    assert newest == [
        {"state": None, "generation": None, "batch": "old"},
        {"state": "listed", "generation": 1, "batch": "new"},
    ]


@pytest.mark.parametrize(
    ("file", "names", "quotes"),
    [
        ("http_meta_perp_sample", ("BTC", "ETH", "ATOM"), {None}),
        (
            "http_all_perp_metas_non_usdc_collateral",
            ("BTC", "km:US500", "hyna:BTC"),
            {"USDC", "USDH", "USDE"},
        ),
    ],
)
def test_recorded_answers_are_parsed(file: str, names: tuple[str, ...], quotes: set[str | None]) -> None:
    answer = json.loads(recorded(f"hyperliquid/messages/{file}.json").read_text())
    tokens = json.loads(recorded("hyperliquid/messages/http_spot_meta_non_usdc_collateral.json").read_text())
    registry = InstrumentRegistry()
    registry.apply_answer({"type": "spotMeta"}, tokens, NOW)
    rows = registry.apply_answer(
        {"type": "allPerpMetas" if isinstance(answer, list) else "meta"}, answer, NOW
    )
    assert tuple(item["symbol"] for item in rows) == registry.listed() == names
    assert {item["quote"] for item in rows} == quotes


def test_the_command_lists_current_and_optionally_past_instruments(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = InstrumentRegistry()
    with Lake.open(settings) as lake:
        for number, answer in enumerate([meta("A", "BTC"), meta(row("A", 5), row("BTC", isDelisted=True))]):
            rows = registry.apply_answer(META, answer, NOW + number * NS)
            lake.commit({"instruments": INSTRUMENTS.rows(rows)}, batch_id=str(number))

    def listed(*words: str) -> list[tuple[str, str]]:
        main(["--home", str(settings.home), "instruments", *words, "--format", "json"])
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return [(line["instrument"].removeprefix("hyperliquid|perp|"), line["state"]) for line in lines]

    assert listed() == [("A~2", "listed")]
    assert listed("--all") == [("A", "delisted"), ("A~2", "listed"), ("BTC", "delisted")]
    assert listed("B*", "--all") == [("BTC", "delisted")]
    with pytest.raises(SystemExit):
        main(["--home", str(settings.home), "instruments", "a*"])
    assert "no listed instrument has a symbol like 'a*'" in capsys.readouterr().err
