"""Instrument registry: ids and states follow the venues' answers."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.instruments.registry import InstrumentRegistry
from ingest.venues.gaiaex import protocol as gaiaex
from ingest.venues.hyperliquid import messages as wire
from storage.clock import DAY_NS, NS
from storage.contracts.tables import INSTRUMENTS
from storage.contracts.validation import validate
from storage.errors import VenueError
from tests.conftest import recorded
from tests.ingest.instruments.listing_answers import DEXS, META, NOW, SPOT, brief, meta, of_dex, row, taught


def test_a_first_answer_gives_a_row_for_each_name_and_a_second_like_it_none() -> None:
    registry = InstrumentRegistry()
    rows = registry.apply_answer(META, meta("BTC", row("kPEPE", 0), row("OLD", isDelisted=True)), NOW)
    assert brief(rows) == [("perp|BTC", "listed"), ("perp|kPEPE", "listed"), ("perp|OLD", "delisted")]
    assert [(item["asset_index"], item["size_decimals"]) for item in rows] == [(0, 2), (1, 0), (2, 2)]
    assert (
        registry.apply_answer(META, meta("BTC", row("kPEPE", 0), row("OLD", isDelisted=True)), NOW + NS) == []
    )
    assert validate(INSTRUMENTS, INSTRUMENTS.rows(rows))[1].num_rows == 0


def test_every_kind_of_instrument_has_its_dex_its_token_and_its_calendar() -> None:
    registry = InstrumentRegistry()
    rows = registry.apply_answer({"type": "perpDexs"}, DEXS, NOW)
    rows += registry.apply_answer({"type": "spotMeta"}, SPOT, NOW)
    rows += registry.apply_answer(META, meta("BTC"), NOW)
    rows += registry.apply_answer(of_dex("xyz"), meta("xyz:AAPL", token=360), NOW)
    facts = {item["instrument"]: (item["kind"], item["dex"], item["quote"], item["session"]) for item in rows}
    assert facts == {
        "hyperliquid|spot|PURR/USDC": ("spot", "", "USDC", "always"),
        "hyperliquid|spot|@107": ("spot", "", "USDC", "always"),
        "hyperliquid|perp|BTC": ("perp", "", "USDC", "always"),
        "hyperliquid|perp|xyz:AAPL": ("perp", "xyz", "USDH", "us_equities"),
    }
    assert validate(INSTRUMENTS, INSTRUMENTS.rows(rows))[1].num_rows == 0


def test_a_token_that_is_named_later_names_the_margin_later() -> None:
    """Both answers may come at one instant; the rows still have different keys."""
    registry = InstrumentRegistry()
    first = registry.apply_answer(META, meta("BTC"), NOW)
    second = registry.apply_answer({"type": "spotMeta"}, SPOT, NOW)
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
def test_the_same_contract_keeps_its_id(answers: list[dict[str, Any]]) -> None:
    registry = taught((META, meta("A")), *((META, answer) for answer in answers))
    assert registry.instrument_id("A") == "hyperliquid|perp|A"


@pytest.mark.parametrize(("away_ns", "id_"), [(DAY_NS, "perp|A"), (DAY_NS + 1, "perp|A~2")])
def test_a_name_that_comes_back_after_a_day_of_absence_is_another(away_ns: int, id_: str) -> None:
    registry = taught((META, meta("A", "B")))
    assert brief(registry.apply_answer(META, meta(row("B") | {"name": "Z"}, "B"), NOW + NS))[-1] == (
        "perp|A",
        "absent",
    )
    rows = registry.apply_answer(META, meta("A", "B"), NOW + NS + away_ns)
    assert (id_, "listed") in brief(rows)


def test_the_end_of_an_instrument_is_written_before_its_name_is_taken() -> None:
    """The delisting was missed, so the rows of both come from one answer."""
    registry = taught((META, meta("A")))
    assert brief(registry.apply_answer(META, meta(row("A", 3)), NOW + NS)) == [
        ("perp|A", "delisted"),
        ("perp|A~2", "listed"),
    ]
    assert brief(registry.apply_answer(META, meta(row("A", 1)), NOW + 2 * NS)) == [
        ("perp|A~2", "delisted"),
        ("perp|A~3", "listed"),
    ]


def test_a_delisting_and_a_leverage_are_rows_of_the_same_instrument() -> None:
    registry = taught((META, meta("A")))
    changed = registry.apply_answer(META, meta(row("A") | {"maxLeverage": 10}), NOW + NS)
    delisted = registry.apply_answer(
        META, meta(row("A", isDelisted=True) | {"maxLeverage": 10}), NOW + 2 * NS
    )
    assert [(item["max_leverage"], item["state"], item["is_delisted"]) for item in (*changed, *delisted)] == [
        (10, "listed", False),
        (10, "delisted", True),
    ]
    assert not registry.is_listed("hyperliquid|perp|A")


def test_a_dex_that_is_gone_takes_its_names_with_it() -> None:
    """F20."""
    registry = taught(({"type": "perpDexs"}, DEXS), (META, meta("BTC")), (of_dex("xyz"), meta("xyz:AAPL")))
    assert brief(registry.apply_answer({"type": "perpDexs"}, [None, {"name": "vntl"}], NOW + 9 * NS)) == [
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
def test_an_implausible_answer_is_refused_and_not_applied(
    request_: dict[str, Any], response: Any, reason: str
) -> None:
    registry = taught((META, meta("BTC", "ETH")))
    with pytest.raises(VenueError, match=reason):
        registry.apply_answer(request_, response, NOW + NS)
    assert registry.listed() == registry.universe() == ("BTC", "ETH")


def test_other_requests_have_no_effect() -> None:
    registry = InstrumentRegistry()
    for request in ({"type": "exchangeStatus"}, {"type": "ntp"}, gaiaex.question("time"), {}):
        assert registry.apply_answer(request, {"time": 1}, NOW) == []


# Contexts by position (F17).


def test_contexts_are_named_by_position_only_while_the_lengths_agree() -> None:
    registry = taught((META, meta("BTC", "ETH")), (of_dex("xyz"), meta("xyz:AAPL")))
    assert registry.pair_up("", [1, 2]) == [("BTC", 1), ("ETH", 2)]
    assert registry.pending_requests == []
    with pytest.raises(VenueError, match="3 contexts of dex '' cannot be named: its universe has 2 names"):
        registry.pair_up("", [1, 2, 3])
    with pytest.raises(VenueError, match="1 contexts of dex 'flx'"):
        registry.pair_up("flx", [1])
    assert registry.pending_requests == [META, of_dex("flx")]
    registry.apply_answer({"type": "spotMeta"}, SPOT, NOW + 5 * NS)
    assert registry.pending_requests == [META, of_dex("flx")]
    registry.apply_answer(META, meta("BTC", "ETH", "SOL"), NOW + 6 * NS)
    assert registry.pair_up("", [1, 2, 3])[2] == ("SOL", 3)
    assert registry.pending_requests == [of_dex("flx")]


def test_a_recorded_frame_of_all_dexes_fits_a_universe_of_its_lengths() -> None:
    message: Any = wire.decode(recorded("hyperliquid/messages/ws_all_dexs_asset_ctxs.json").read_bytes())
    registry = InstrumentRegistry()
    for dex, ctxs in message.data.ctxs:
        names = [f"{dex}:N{place}" if dex else f"N{place}" for place in range(len(ctxs))]
        registry.apply_answer(of_dex(dex), meta(*names), NOW)
    named = {name: ctx for dex, ctxs in message.data.ctxs for name, ctx in registry.pair_up(dex, ctxs)}
    assert len(named) == 412
    assert named["N0"].oracle_px == 77605.0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["universe", "tokens", "symbols", "name", "szDecimals", "index"]), inner
        )
    ),
    max_leaves=10,
)
KINDS = ["meta", "metaAndAssetCtxs", "allPerpMetas", "perpDexs", "spotMeta", "spotMetaAndAssetCtxs"]


@given(st.sampled_from([*({"type": kind} for kind in KINDS), gaiaex.question("symbols/list")]), JSON)
def test_malformed_answers_never_break_the_registry(request_: dict[str, Any], response: Any) -> None:
    registry = taught((META, meta("BTC")))
    with contextlib.suppress(VenueError):
        rows = registry.apply_answer(request_, response, NOW + NS)
        assert {item["instrument"] for item in rows}.isdisjoint(
            {"hyperliquid|perp|BTC"}
        ) or "universe" in str(response)
