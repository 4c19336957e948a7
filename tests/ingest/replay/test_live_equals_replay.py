"""Live equals replay: a recording's tables, whatever was recorded and however fast."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest

from ingest.journal.captures import read_capture
from ingest.recorder.recorder import Recorder, RecordingResult
from ingest.simulator.market.capture import CaptureMarket, read_frame, scan_listings
from ingest.simulator.venue import SimulatedVenue
from storage.clock import NS
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.conftest import recorded
from tests.drills.homes import (
    Key,
    assert_bars_hold_trades,
    assert_equal,
    read_tables,
    replay_all,
    stored_prints,
)
from tests.drills.running import port_of, quick

BUSY: Final = "binance/ws_20240808_btc_eth_as_hyperliquid.ndjson.gz"
FOUR_COINS: Final = "hyperliquid/ws_20250904_4coins.ndjson.gz"
SOME_FRAMES: Final = {BUSY: 7_500, FOUR_COINS: 4_600}

Frames = list[tuple[int, bytes]]


class TapeTime:
    """A machine clock set to the time of a capture."""

    def __init__(self, start_ns: int) -> None:
        self._behind_ns = time.time_ns() - start_ns

    def now_ns(self) -> int:
        return time.time_ns() - self._behind_ns


def printed(frames: Iterable[tuple[int, bytes]]) -> set[Key]:
    """Return the keys of all prints in a capture."""
    return {
        (item.coin, item.time_ms, item.tid)
        for _, raw in frames
        if (frame := read_frame(raw)) is not None
        for item in frame.prints
    }


async def record(settings: Settings, frames: Frames, *, speed: float) -> RecordingResult:
    """Record a capture served over a real socket: at its own speed, or (0) as fast as possible."""
    channels = Counter(frame.channel for _, raw in frames if (frame := read_frame(raw)) is not None)
    listings = scan_listings(frames)
    wanted = tuple(name for name in ("trades", "bbo", "l2Book", "activeAssetCtx", "candle") if channels[name])
    twins = 2 if speed else 1
    streams = len(listings) * (len(wanted) + twins - 1)
    venue = SimulatedVenue(
        CaptureMarket(frames, listings=listings),
        clock="real" if speed else "virtual",
        speed=speed,
        wait_for_subscriptions=streams,
    )
    async with venue:
        coins = tuple(item.name for item in listings)
        feed = {"coins": coins, "channels": wanted, "clock": "wall" if speed else "venue", "twins": twins}
        settings = quick(settings, port_of(venue), record=feed, bars={"widths": ("1s", "1m")})
        settings = dataclasses.replace(settings, record=dataclasses.replace(settings.record, explorer_url=""))
        with Lake.open(settings) as lake:
            recorder = Recorder(
                settings, lake, name="tape", ends_with_venue=True, wall=TapeTime(frames[0][0] - NS)
            )
            return await recorder.run(asyncio.Event())


async def assert_live_equals_replay(
    settings: Settings, other: Path, frames: Frames, *, speed: float
) -> dict[str, int]:
    """Record a capture, replay the recording, compare; return the rows by table."""
    done = await record(settings, frames, speed=speed)
    stored = stored_prints(settings)
    assert len(stored) == len(set(stored))
    assert set(stored) == printed(frames), "what was printed is stored, and nothing else"
    assert done.counts.quarantined == 0
    assert assert_bars_hold_trades(settings) > 0
    return assert_equal(read_tables(settings), read_tables(replay_all(settings, other)))


@pytest.mark.parametrize("name", [BUSY, pytest.param(FOUR_COINS, marks=pytest.mark.drill)])
async def test_some_frames_of_a_tape_flat_out(settings: Settings, tmp_path: Path, name: str) -> None:
    frames = list(itertools.islice(read_capture(recorded(name)), SOME_FRAMES[name]))
    rows = await assert_live_equals_replay(settings, tmp_path / "replayed", frames, speed=0)
    assert rows["trades"] > 1_000
    assert rows["bars"] > 25


@pytest.mark.drill
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize(("name", "speed"), [(BUSY, 0.0), (FOUR_COINS, 0.0), (BUSY, 1.0)])
async def test_a_whole_tape(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, speed: float
) -> None:
    frames, began_s = list(read_capture(recorded(name))), time.monotonic()
    rows = await assert_live_equals_replay(settings, tmp_path / "replayed", frames, speed=speed)
    with capsys.disabled():
        pace = "at the pace it was recorded" if speed else "flat out"
        counts = ", ".join(f"{table} {count:,}" for table, count in rows.items())
        print(
            f"\n{name}, {pace}: {len(frames):,} frames, {time.monotonic() - began_s:.0f} s; equal rows: {counts}"
        )
