"""F29 to F31: GaiaEx, a relay that may freeze, change its payloads, or not know a symbol."""

from __future__ import annotations

import json

import pytest

from ingest.venues.faults import ListingChange, RelayFrozen, RelayStale
from ingest.venues.gaiaex import question
from storage.clock import NS
from storage.settings import Settings
from tests.ingest.faults.rig import START_NS, Spoken, live, ms, since_s, statuses, taped, until

GAIA = "gaiaex|perp|BTC"
RELAYED = {"gaiaex": {"symbols": ("BTC",)}, "record": {"coins": ("BTC",)}}


async def test_f29_a_relay_that_says_stale_is_null_from_that_message_until_it_recovers(
    settings: Settings,
) -> None:
    run = await taped(settings, RelayStale(symbol="BTC", at_s=25.0, for_s=30.0), streams=3, **RELAYED)
    assert run.venue.stats.frames["stale"] == run.venue.stats.frames["recovered"] == 1
    bars = run.bars(GAIA)
    assert {row["trades_applicable"] for row in bars} == {False}
    assert {row["trades"] for row in bars} == {row["open"] for row in bars} == {None}
    dark = run.bars(GAIA, 30.0, 50.0)
    assert statuses(dark) == ["blind"] * 2
    assert {row["cause"] for row in dark} == {"upstream stale"}
    assert {row["bid"] for row in run.bars(GAIA, 20.0, 50.0)} == {None}, "no quote instead of an old one"
    lit = run.bars(GAIA, 60.0, 80.0)
    assert statuses(lit) == ["quiet"] * 2
    assert all(row["bid"] < row["ask"] for row in lit)
    (gap,) = run.gaps(GAIA, "book")
    assert since_s(gap["ts_from"]) == pytest.approx(25.0, abs=1.5)
    assert since_s(gap["ts_to"]) == pytest.approx(55.0, abs=1.5)


async def test_f29_a_relay_that_froze_without_a_word_is_found_by_hyperliquids_quote(
    settings: Settings,
) -> None:
    """Heartbeats go on; BTC's best prices move on Hyperliquid: found in under 15 seconds."""
    run = await taped(settings, RelayFrozen(symbol="BTC", at_s=30.0, for_s=30.0), streams=3, **RELAYED)
    assert run.venue.stats.frames["stale"] == 0
    assert run.venue.stats.frames["heartbeat"] > 10
    held = [row for row in run.bars(GAIA, 30.0, 60.0) if row["status"] == "blind"]
    assert {row["cause"] for row in held} == {"relay stale"}
    moved = min(row["ts_recv_ns"] for row in run.of("quotes", "hyperliquid|perp|BTC") if after(row, 30.0))
    found = min(row["ts_knowable_ns"] for row in run.of("bars", GAIA) if row["cause"] == "relay stale")
    assert found - moved < 15 * NS
    assert run.bars(GAIA, 40.0, 50.0)[0]["bid"] is None
    assert run.bars(GAIA, 70.0, 80.0)[0]["status"] == "quiet"


def after(row: dict[str, object], seconds: float) -> bool:
    received = row["ts_recv_ns"]
    assert isinstance(received, int)
    return received > START_NS + seconds * NS


@pytest.mark.parametrize("generation", ["G1", "G2"])
async def test_f30_books_of_both_generations_make_the_same_rows(settings: Settings, generation: str) -> None:
    run = await taped(settings, streams=3, venue={"gaia_generation": generation}, **RELAYED)
    books = run.of("books", GAIA)
    assert len(books) > 40
    assert all(row["bid_px"][0] < row["ask_px"][0] for row in books)
    assert {row["mode"] for row in books} == {"relay"}
    assert statuses(run.bars(GAIA, 10.0, 80.0)) == ["quiet"] * 7
    assert run.tables["quarantine"] == []
