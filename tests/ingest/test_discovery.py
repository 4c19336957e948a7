"""Instruments: ids, states and validity follow the venues' answers, and nothing is named by a wrong position."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.discovery import Registry
from ingest.venues import gaiaex
from storage.clock import DAY_NS, NS
from storage.contracts import INSTRUMENTS
from storage.errors import InstrumentError, VenueError
from storage.lake import Lake
from storage.settings import Settings, load_settings
from tests.conftest import recorded

META = {"type": "meta"}
NOW = 1_700_000_000 * NS


def row(name: str, decimals: int = 2, **more: Any) -> dict[str, Any]:
    return {"name": name, "szDecimals": decimals, "maxLeverage": 40, **more}


def meta(*rows: dict[str, Any] | str, token: int = 0) -> dict[str, Any]:
    universe = [row(item) if isinstance(item, str) else item for item in rows]
    return {"universe": universe, "marginTables": [], "collateralToken": token}


SPOT = {
    "tokens": [
        {"name": "USDC", "szDecimals": 8, "index": 0, "weiDecimals": 8},
        {"name": "PURR", "szDecimals": 0, "index": 1, "weiDecimals": 5},
        {"name": "USDH", "szDecimals": 2, "index": 360, "weiDecimals": 8},
    ],
    "universe": [
        {"name": "PURR/USDC", "tokens": [1, 0], "index": 0, "isCanonical": True},
        {"name": "@107", "tokens": [360, 0], "index": 107},
    ],
}
DEXS = [None, {"name": "xyz", "fullName": "XYZ", "deployer": "0x1"}, {"name": "vntl"}]


def taught(*answers: tuple[dict[str, Any], object]) -> Registry:
    """Return a registry that took answers, a second apart."""
    registry = Registry()
    for number, (request, response) in enumerate(answers):
        registry.take(request, response, NOW + number * NS)
    return registry


def of_dex(dex: str) -> dict[str, Any]:
    return {"type": "meta", "dex": dex}


def brief(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(item["instrument"].removeprefix("hyperliquid|"), item["state"]) for item in rows]


def test_a_first_answer_gives_a_row_for_each_name_and_a_second_like_it_none() -> None:
    registry = Registry()
    rows = registry.take(META, meta("BTC", row("kPEPE", 0), row("OLD", isDelisted=True)), NOW)
    assert brief(rows) == [("perp|BTC", "listed"), ("perp|kPEPE", "listed"), ("perp|OLD", "delisted")]
    assert [(item["asset_index"], item["size_decimals"]) for item in rows] == [(0, 2), (1, 0), (2, 2)]
    assert registry.take(META, meta("BTC", row("kPEPE", 0), row("OLD", isDelisted=True)), NOW + NS) == []
    assert INSTRUMENTS.validate(INSTRUMENTS.rows(rows))[1].num_rows == 0


def test_every_kind_of_instrument_has_its_dex_its_token_and_its_calendar() -> None:
    registry = Registry()
    rows = registry.take({"type": "perpDexs"}, DEXS, NOW)
    rows += registry.take({"type": "spotMeta"}, SPOT, NOW)
    rows += registry.take(META, meta("BTC"), NOW)
    rows += registry.take(of_dex("xyz"), meta("xyz:AAPL", token=360), NOW)
    facts = {item["instrument"]: (item["kind"], item["dex"], item["quote"], item["session"]) for item in rows}
    assert facts == {
        "hyperliquid|spot|PURR/USDC": ("spot", "", "USDC", "always"),
        "hyperliquid|spot|@107": ("spot", "", "USDC", "always"),
        "hyperliquid|perp|BTC": ("perp", "", "USDC", "always"),
        "hyperliquid|perp|xyz:AAPL": ("perp", "xyz", "USDH", "us_equities"),
    }
    assert INSTRUMENTS.validate(INSTRUMENTS.rows(rows))[1].num_rows == 0


def test_a_token_that_is_named_later_names_the_margin_later() -> None:
    """Both answers may come at one instant; the rows still have keys of their own."""
    registry = Registry()
    first = registry.take(META, meta("BTC"), NOW)
    second = registry.take({"type": "spotMeta"}, SPOT, NOW)
    about = [item for item in (*first, *second) if item["symbol"] == "BTC"]
    assert [(item["quote"], item["ts_knowable_ns"]) for item in about] == [(None, NOW), ("USDC", NOW + 1)]


def test_the_answer_for_all_dexes_says_the_same_as_one_each() -> None:
    one_each = taught(
        (META, meta("BTC")), (of_dex("xyz"), meta("xyz:AAPL")), (of_dex("vntl"), meta("vntl:OPENAI"))
    )
    every = [meta("BTC"), meta("xyz:AAPL"), meta("vntl:OPENAI")]
    by_order = taught(({"type": "perpDexs"}, DEXS), ({"type": "allPerpMetas"}, every))
    by_prefix = taught(({"type": "allPerpMetas"}, every))
    for registry in (by_order, by_prefix):
        assert registry.listed() == one_each.listed() == ("BTC", "xyz:AAPL", "vntl:OPENAI")
        assert registry.universe("xyz") == ("xyz:AAPL",)


# When a name is another instrument (F21).


RECYCLED = {
    "other lots after a delisting": [meta(row("A", isDelisted=True)), meta(row("A", 3))],
    "another place after a delisting": [
        meta(row("A", isDelisted=True)),
        meta(row("A", isDelisted=True), "A"),
    ],
    "other lots, the delisting not seen": [meta(row("A", 3))],
    "another place, the delisting not seen": [meta("B", "A")],
    "other lots after an absence": [meta("B"), meta(row("A", 3))],
}


@pytest.mark.parametrize("answers", RECYCLED.values(), ids=list(RECYCLED))
def test_a_recycled_name_gets_a_new_id(answers: list[dict[str, Any]]) -> None:
    registry = taught((META, meta("A")), *((META, answer) for answer in answers))
    assert registry.instrument_id("A") == "hyperliquid|perp|A~2"
    assert registry.is_listed("hyperliquid|perp|A~2")
    assert not registry.is_listed("hyperliquid|perp|A")


SAME = {
    "relisted unchanged": [meta(row("A", isDelisted=True)), meta("A")],
    "other leverage": [meta(row("A") | {"maxLeverage": 10})],
    "lacking for one answer": [meta("B"), meta("A")],
    "delisted for good": [meta(row("A", isDelisted=True))],
}


@pytest.mark.parametrize("answers", SAME.values(), ids=list(SAME))
def test_what_is_the_same_contract_keeps_its_id(answers: list[dict[str, Any]]) -> None:
    registry = taught((META, meta("A")), *((META, answer) for answer in answers))
    assert registry.instrument_id("A") == "hyperliquid|perp|A"


@pytest.mark.parametrize(("away_ns", "id_"), [(DAY_NS, "perp|A"), (DAY_NS + 1, "perp|A~2")])
def test_a_name_that_comes_back_after_a_day_of_absence_is_another(away_ns: int, id_: str) -> None:
    registry = taught((META, meta("A", "B")))
    assert brief(registry.take(META, meta(row("B") | {"name": "Z"}, "B"), NOW + NS))[-1] == (
        "perp|A",
        "absent",
    )
    rows = registry.take(META, meta("A", "B"), NOW + NS + away_ns)
    assert (id_, "listed") in brief(rows)


def test_the_end_of_an_instrument_is_written_before_its_name_is_taken() -> None:
    """The delisting was missed, so the rows of both come from one answer."""
    registry = taught((META, meta("A")))
    assert brief(registry.take(META, meta(row("A", 3)), NOW + NS)) == [
        ("perp|A", "delisted"),
        ("perp|A~2", "listed"),
    ]
    assert brief(registry.take(META, meta(row("A", 1)), NOW + 2 * NS)) == [
        ("perp|A~2", "delisted"),
        ("perp|A~3", "listed"),
    ]


def test_a_delisting_and_a_leverage_are_rows_of_the_same_instrument() -> None:
    registry = taught((META, meta("A")))
    changed = registry.take(META, meta(row("A") | {"maxLeverage": 10}), NOW + NS)
    delisted = registry.take(META, meta(row("A", isDelisted=True) | {"maxLeverage": 10}), NOW + 2 * NS)
    assert [(item["max_leverage"], item["state"], item["is_delisted"]) for item in (*changed, *delisted)] == [
        (10, "listed", False),
        (10, "delisted", True),
    ]
    assert not registry.is_listed("hyperliquid|perp|A")


def test_a_dex_that_is_gone_takes_its_names_with_it() -> None:
    """F20."""
    registry = taught(({"type": "perpDexs"}, DEXS), (META, meta("BTC")), (of_dex("xyz"), meta("xyz:AAPL")))
    assert brief(registry.take({"type": "perpDexs"}, [None, {"name": "vntl"}], NOW + 9 * NS)) == [
        ("perp|xyz:AAPL", "absent")
    ]
    assert registry.universe("xyz") == ()
    assert registry.listed() == ("BTC",)


@pytest.mark.parametrize(
    ("request_", "response", "reason"),
    [
        (META, {"universe": []}, "lists nothing for hyperliquid perp, where something traded before"),
        (META, {"universe": [{"name": "BTC"}]}, r"meta does not fit: .*`szDecimals` - at `\$.universe"),
        (META, "<html>", "meta does not fit"),
        ({"type": "allPerpMetas"}, [meta(), meta("xyz:AAPL")], "lists nothing"),
        ({"type": "spotMeta"}, SPOT | {"universe": None}, "spotMeta does not fit"),
        ({"type": "perpDexs"}, [], "perpDexs is empty"),
        (gaiaex.question("symbols/list"), {"symbols": [{}]}, "symbols/list does not fit"),
    ],
)
def test_an_answer_that_cannot_be_meant_teaches_nothing(
    request_: dict[str, Any], response: Any, reason: str
) -> None:
    registry = taught((META, meta("BTC", "ETH")))
    with pytest.raises(VenueError, match=reason):
        registry.take(request_, response, NOW + NS)
    assert registry.listed() == registry.universe() == ("BTC", "ETH")


def test_other_questions_teach_nothing() -> None:
    registry = Registry()
    for request in ({"type": "exchangeStatus"}, {"type": "ntp"}, gaiaex.question("time"), {}):
        assert registry.take(request, {"time": 1}, NOW) == []


# Contexts by position (F17).


def test_contexts_are_named_by_position_only_while_the_lengths_agree() -> None:
    registry = taught((META, meta("BTC", "ETH")), (of_dex("xyz"), meta("xyz:AAPL")))
    assert registry.pair_up("", [1, 2]) == [("BTC", 1), ("ETH", 2)]
    assert registry.wishes == []
    with pytest.raises(VenueError, match="3 contexts of dex '' cannot be named: its universe has 2 names"):
        registry.pair_up("", [1, 2, 3])
    with pytest.raises(VenueError, match="1 contexts of dex 'flx'"):
        registry.pair_up("flx", [1])
    assert registry.wishes == [META, of_dex("flx")]
    registry.take({"type": "spotMeta"}, SPOT, NOW + 5 * NS)
    assert registry.wishes == [META, of_dex("flx")]
    registry.take(META, meta("BTC", "ETH", "SOL"), NOW + 6 * NS)
    assert registry.pair_up("", [1, 2, 3])[2] == ("SOL", 3)
    assert registry.wishes == [of_dex("flx")]


def test_a_recorded_frame_of_all_dexes_fits_a_universe_of_its_lengths() -> None:
    from ingest import decode as wire

    message: Any = wire.decode(recorded("hyperliquid/messages/ws_all_dexs_asset_ctxs.json").read_bytes())
    registry = Registry()
    for dex, ctxs in message.data.ctxs:
        names = [f"{dex}:N{place}" if dex else f"N{place}" for place in range(len(ctxs))]
        registry.take(of_dex(dex), meta(*names), NOW)
    named = {name: ctx for dex, ctxs in message.data.ctxs for name, ctx in registry.pair_up(dex, ctxs)}
    assert len(named) == 412
    assert named["N0"].oracle_px == 77605.0


# Patterns.


def full() -> Registry:
    names = (row("BTC"), row("kPEPE", 0), row("OLD", isDelisted=True))
    return taught(
        (META, meta(*names)), (of_dex("xyz"), meta("xyz:AAPL", "xyz:GOLD")), ({"type": "spotMeta"}, SPOT)
    )


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["kPEPE", "BTC", "BTC"], ("kPEPE", "BTC")),
        (["xyz:*"], ("xyz:AAPL", "xyz:GOLD")),
        (["@*"], ("@107",)),
        (["k*", "*/USDC"], ("kPEPE", "PURR/USDC")),
        (["*"], ("BTC", "kPEPE", "xyz:AAPL", "xyz:GOLD", "PURR/USDC", "@107")),
        (["#120", "BTC"], ("#120", "BTC")),
        (["flx:TSLA"], ("flx:TSLA",)),
    ],
)
def test_patterns_stand_for_what_trades(patterns: list[str], names: tuple[str, ...]) -> None:
    """An outcome comes only by name, and a dex of which nothing was answered is taken as written."""
    assert full().expand(patterns) == names


@pytest.mark.parametrize(
    ("pattern", "reason", "hint"),
    [
        ("KPEPE", "'KPEPE' is not listed on hyperliquid", "did you mean kPEPE?"),
        ("OLD", "'OLD' is delisted on hyperliquid", "did you mean xyz:GOLD?"),
        ("xyz:APPL", "'xyz:APPL' is not listed", "did you mean xyz:AAPL?"),
        ("@9", "'@9' is not listed", "tickwalk instruments"),
        ("K*", "no coin that trades on hyperliquid fits 'K\\*'", "tickwalk instruments"),
        ("#*", "no coin that trades", "tickwalk instruments"),
    ],
)
def test_a_name_that_does_not_trade_is_refused_with_the_nearest(pattern: str, reason: str, hint: str) -> None:
    with pytest.raises(InstrumentError, match=reason) as caught:
        full().expand([pattern])
    assert hint in caught.value.hint


# GaiaEx, and what was known before.


def test_gaiaex_symbols_are_instruments_of_their_own() -> None:
    """F31: a symbol counts as gone when the list no longer has it."""
    registry = full()
    listing = {
        "symbols": [{"symbol": "BTC", "maxLeverage": 40}, {"symbol": "xyz:AAPL"}],
        "count": 2,
        "timestamp": 1,
    }
    rows = registry.take(gaiaex.question("symbols/list"), listing, NOW)
    assert [(item["instrument"], item["dex"]) for item in rows] == [
        ("gaiaex|perp|BTC", ""),
        ("gaiaex|perp|xyz:AAPL", "xyz"),
    ]
    assert INSTRUMENTS.validate(INSTRUMENTS.rows(rows))[1].num_rows == 0
    assert registry.expand(["xyz:*"], gaiaex.VENUE) == registry.listed(gaiaex.VENUE)[1:]
    gone = registry.take(gaiaex.question("symbols/list"), {"symbols": [{"symbol": "BTC"}]}, NOW + NS)
    assert [(item["instrument"], item["state"]) for item in gone][-1] == ("gaiaex|perp|xyz:AAPL", "absent")
    assert registry.is_listed("hyperliquid|perp|xyz:AAPL")
    with pytest.raises(InstrumentError, match="on gaiaex"):
        registry.expand(["xyz:AAPL"], gaiaex.VENUE)


def test_gaiaex_spot_pairs_are_instruments_too() -> None:
    pairs = {"symbols": [{"symbol": "@145", "quoteToken": "USDC", "szDecimals": 0}]}
    rows = Registry().take(gaiaex.question("spot/symbols"), pairs, NOW)
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
def test_a_registry_that_was_restored_goes_on_like_one_that_never_stopped(
    answers: list[Any], cut: int
) -> None:
    """The law that a restart changes no id and repeats no row."""
    whole = Registry()
    rows = [whole.take(META, answer, NOW + number * NS) for number, answer in enumerate(answers)]
    resumed = Registry()
    resumed.restore(item for made in rows[:cut] for item in made)
    later = [
        resumed.take(META, answer, NOW + number * NS)
        for number, answer in enumerate(answers)
        if number >= cut
    ]
    assert later == rows[cut:]
    assert [resumed.instrument_id(name) for name in "ABC"] == [whole.instrument_id(name) for name in "ABC"]


@given(ANSWERS)
def test_no_two_rows_share_a_key_and_a_row_says_something_new(answers: list[Any]) -> None:
    registry = Registry()
    rows = [item for answer in answers for item in registry.take(META, answer, NOW)]
    keys = [(item["instrument"], item["ts_knowable_ns"]) for item in rows]
    assert len(set(keys)) == len(keys)
    last: dict[str, dict[str, Any]] = {}
    for item in rows:
        said = {key: value for key, value in item.items() if key != "ts_knowable_ns"}
        assert last.get(item["instrument"]) != said
        last[item["instrument"]] = said


def test_what_holds_when_is_seen_in_the_lake(settings: Settings) -> None:
    registry = Registry()
    with Lake.open(settings) as lake:
        for number, answer in enumerate([meta("A"), meta(row("A", isDelisted=True)), meta(row("A", 5))]):
            rows = registry.take(META, answer, NOW + number * NS)
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
    again = Registry()
    again.restore(held)
    assert again.take(META, meta(row("A", 5)), NOW + 9 * NS) == []
    assert again.instrument_id("A") == "hyperliquid|perp|A~2"


def test_a_lake_of_the_first_release_gets_the_new_columns(settings: Settings, tmp_path: Path) -> None:
    """Its rows have none of them; they are read as what they said."""
    first = {"instrument": "hyperliquid|perp|A", "venue": "hyperliquid", "kind": "perp", "symbol": "A"}
    with Lake.open(settings) as lake:
        columns = {"dex", "asset_index", "quote", "max_leverage", "state", "generation", "session"}
        lake._connection.execute("DROP VIEW instruments_valid")
        for name in columns:
            lake._connection.execute(f"ALTER TABLE instruments DROP COLUMN {name}")
        values = [*first.values(), 2, False, NOW, NOW, "old"]
        lake._connection.execute(f"INSERT INTO instruments VALUES ({', '.join('?' * len(values))})", values)
    with Lake.open(load_settings(overrides={"home": settings.home}, environ={})) as lake:
        registry = Registry()
        registry.restore(lake.query("SELECT * FROM instruments").to_pylist())
        rows = registry.take(META, meta("A"), NOW + NS)
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
def test_recorded_answers_are_understood(file: str, names: tuple[str, ...], quotes: set[str | None]) -> None:
    answer = json.loads(recorded(f"hyperliquid/messages/{file}.json").read_text())
    tokens = json.loads(recorded("hyperliquid/messages/http_spot_meta_non_usdc_collateral.json").read_text())
    registry = Registry()
    registry.take({"type": "spotMeta"}, tokens, NOW)
    rows = registry.take({"type": "allPerpMetas" if isinstance(answer, list) else "meta"}, answer, NOW)
    assert tuple(item["symbol"] for item in rows) == registry.listed() == names
    assert {item["quote"] for item in rows} == quotes
