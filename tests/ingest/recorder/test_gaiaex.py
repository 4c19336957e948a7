"""Detection latency of a stale GaiaEx relay."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import pytest

from ingest.journal.reader import read_journal
from ingest.journal.records import RecordKind
from ingest.pipeline.gaiaex_handler import RELAY_LAG, RELAY_STALE, UPSTREAM_STALE
from ingest.pipeline.processor import Pipeline
from ingest.recorder.status import RecorderStatus
from ingest.simulator.faults.faults import Fault, RelayFrozen, RelayStale
from ingest.simulator.venue import SimulatedVenue
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.drills.homes import assert_equal, read_tables, recordings, replay_all
from tests.drills.running import live_market, port_of, quick, running
from tests.patience import assert_within

RELAYED: Final = "gaiaex|perp|BTC"
LAG_S: Final = 0.2


def gap_cause(vitals: RecorderStatus) -> str:
    """Return why the relayed book is stalled now; empty while it is not."""
    held = vitals.instruments.get(RELAYED)
    gap = held.last_gap if held is not None else None
    return gap.cause if gap is not None and gap.to_ns is None else ""


async def record(settings: Settings, fault: Fault, cause: str, **gaiaex: Any) -> tuple[Settings, float]:
    """Record a relay until its failure is detected; return the settings, and the seconds until detection."""
    async with SimulatedVenue(
        live_market(coins=("BTC",)), clock="real", relay_lag_s=LAG_S, heartbeat_s=1.0
    ) as venue:
        settings = quick(
            settings, port_of(venue), record={"coins": ("BTC",)}, gaiaex={"symbols": ("BTC",), **gaiaex}
        )
        async with running(settings) as run:
            await run.until(lambda vitals: vitals.channels.get("gaiaex orderbook") is not None)
            frames = run.vitals.channels["gaiaex orderbook"].frames
            await run.until(lambda vitals: vitals.channels["gaiaex orderbook"].frames > frames + 3)
            began_s = time.monotonic()
            venue.inject(fault)
            await run.until(lambda vitals: gap_cause(vitals) == cause)
            seconds = time.monotonic() - began_s
            bars = run.vitals.bars
            await run.until(lambda vitals: vitals.bars > bars + 4)
    return settings, seconds


def relayed_bars(settings: Settings) -> list[dict[str, Any]]:
    """Return the relayed book's bars, the last revision of each."""
    with Lake.open(settings, read_only=True) as lake:
        found: list[dict[str, Any]] = lake.query(
            "SELECT status, cause, bid, trades_applicable FROM bars_latest WHERE instrument = ? ORDER BY ts_open",
            [RELAYED],
        ).to_pylist()
    return found


@pytest.mark.timed
async def test_stale_shows_as_such_with_the_message_that_says_it(settings: Settings, tmp_path: Path) -> None:
    settings, seconds = await record(settings, RelayStale(symbol="BTC"), UPSTREAM_STALE)
    assert_within(seconds, 5.0)
    (folder,) = recordings(settings)
    pipeline, said = Pipeline(folder.name, settings, is_capture=False), False
    for item in read_journal(folder):
        if pipeline.state.ledger.is_stalled(RELAYED):
            break
        assert not said, "the message that says it is the one that shows it"
        said = item.kind is RecordKind.FRAME and (
            b'"type":"stale"' in item.body or b'"stale":true' in item.body
        )
        pipeline.process(item)
    assert said
    bars = relayed_bars(settings)
    assert bars[-1]["status"] == "blind"
    assert bars[-1]["cause"].startswith(UPSTREAM_STALE)
    assert bars[-1]["bid"] is None, "a stale quote is no quote"
    assert not bars[-1]["trades_applicable"]
    assert_equal(read_tables(settings), read_tables(replay_all(settings, tmp_path / "replayed")))


@pytest.mark.parametrize(
    ("relay_stale_s", "most_s"),
    [
        pytest.param(2.0, 7.0, marks=pytest.mark.drill),
        pytest.param(
            10.0,
            15.0,
            marks=pytest.mark.drill,
        ),
    ],
    ids=["soon", "by default"],
)
async def test_a_relay_that_froze_without_a_word_is_found_by_hyperliquids_own_quote(
    settings: Settings,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    relay_stale_s: float,
    most_s: float,
) -> None:
    settings, seconds = await record(
        settings, RelayFrozen(symbol="BTC"), RELAY_STALE, relay_stale_s=relay_stale_s
    )
    with capsys.disabled():
        print(f"\nfrozen relay found after {seconds:.1f} s (gaiaex.relay_stale_s = {relay_stale_s:g})")
    assert relay_stale_s <= seconds
    assert_within(seconds, most_s)
    bars = relayed_bars(settings)
    assert bars[-1]["status"] == "blind"
    assert bars[-1]["cause"].startswith(RELAY_STALE)
    with Lake.open(settings, read_only=True) as lake:
        lags = lake.query("SELECT p50_ms, frames FROM lags WHERE channel = ?", [RELAY_LAG]).to_pylist()
    assert lags
    # What a busy machine adds to it is its own.
    assert all(0.7 * LAG_S * 1000 <= row["p50_ms"] <= 5 * LAG_S * 1000 for row in lags)
    assert_equal(read_tables(settings), read_tables(replay_all(settings, tmp_path / "replayed")))
