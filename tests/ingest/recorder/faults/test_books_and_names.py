"""Books with a gap, names that must not be changed, markets that mirror each other."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from ingest.recorder.recorder import Recorder
from ingest.simulator.faults.faults import EmptySide, Halt, NullBook
from ingest.simulator.market.spec import WHOLE_VENUE, CoinSpec
from ingest.simulator.venue import SimulatedVenue
from storage.errors import InstrumentError
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.ingest.recorder.faults.rig import BTC, SOL, configured, market, since_s, statuses, taped

ALL = ("trades", "bbo", "l2Book", "activeAssetCtx")


async def test_an_empty_side_is_null_in_quotes_books_contexts_and_bars(settings: Settings) -> None:
    run = await taped(
        settings,
        EmptySide(coin="BTC", side="bid", at_s=30.0, for_s=30.0),
        NullBook(coin="SOL", at_s=0.0),
        streams=8,
        tables=("quotes", "contexts", "books"),
        record={"channels": ALL},
    )
    quotes = [row for row in run.of("quotes", BTC) if 30.0 < since_s(row["ts_event"]) < 60.0]
    assert quotes
    assert {row["bid"] for row in quotes} == {row["bid_size"] for row in quotes} == {None}
    assert all(row["ask"] > 0 for row in quotes)
    emptied = [row for row in run.of("contexts", BTC) if row["mid"] is None]
    assert {row["premium"] for row in emptied} == {None}
    assert all(row["oracle"] > 0 and row["mark"] > 0 for row in emptied)
    assert len(emptied) >= 2
    books = [row for row in run.of("books", BTC) if 31.0 < since_s(row["ts_event"]) < 59.0]
    assert books
    assert all(row["bid_px"] == [] and row["ask_px"] for row in books)
    (bar,) = run.bars(BTC, 40.0, 50.0)
    assert (bar["bid"], bar["bid_size"]) == (None, None)
    assert bar["ask"] > 0
    assert run.of("books", SOL) == [], "a null book is no book"
    assert run.tables["quarantine"] == []


async def test_a_market_without_any_quote_is_halted_and_not_quiet(settings: Settings) -> None:
    run = await taped(settings, Halt(coin="SOL", at_s=25.0, for_s=40.0), streams=8, record={"channels": ALL})
    assert statuses(run.bars(SOL, 30.0, 60.0)) == ["halted"] * 3
    assert {row["volume"] for row in run.bars(SOL, 30.0, 60.0)} == {0.0}
    assert set(statuses(run.bars(BTC, 30.0, 60.0))) <= {"printed", "quiet"}


NAMES = ("kPEPE", "xyz:AAPL", "PURR/USDC", "@107")


async def test_names_are_kept_byte_for_byte(settings: Settings) -> None:
    run = await taped(
        settings, source=market(coins=WHOLE_VENUE), streams=8, tables=("quotes",), record={"coins": NAMES}
    )
    wanted = {f"hyperliquid|{'perp' if n < 2 else 'spot'}|{name}" for n, name in enumerate(NAMES)}
    for table in ("trades", "quotes", "bars"):
        assert {row["instrument"] for row in run.of(table)} == wanted, table
    assert {name: run.venue.stats.distinct[name] for name in NAMES} == {
        name: len([row for row in run.of("trades") if row["instrument"].endswith(f"|{name}")])
        for name in NAMES
    }


@pytest.mark.parametrize("name", ["KPEPE", "XYZ:AAPL", "aapl", "purr/usdc"])
async def test_a_name_in_another_case_is_another_name(settings: Settings, name: str) -> None:
    async with SimulatedVenue(market(coins=WHOLE_VENUE)) as venue:
        settings = configured(settings, venue, record={"coins": (name,)})
        with Lake.open(settings) as lake, pytest.raises(InstrumentError, match="is not listed"):
            await Recorder(settings, lake).run(asyncio.Event())


def outcome(name: str, like: CoinSpec) -> CoinSpec:
    """Return one side of an outcome market; `#71` mirrors `#70`."""
    return dataclasses.replace(like, name=name, size_decimals=0, start_price=0.4, prints_per_minute=30.0)


async def test_both_sides_of_an_outcome_are_left_out_by_default(settings: Settings) -> None:
    coins = (*(coin for coin in WHOLE_VENUE if coin.name in ("BTC", "SOL")),)
    coins += (outcome("#70", coins[1]), outcome("#71", coins[1]))
    run = await taped(
        settings,
        source=market(coins=coins),
        streams=5,
        tables=("mids",),
        record={"coins": ("*",), "channels": ("trades", "bbo", "allMids")},
    )
    assert {row["instrument"] for row in run.of("trades")} == {BTC, SOL}
    assert {row["instrument"] for row in run.of("mids")} == {BTC, SOL}
    assert run.venue.stats.made["#70"] == run.venue.stats.made["#71"] > 0
