"""Shutdown time of a recorder, whatever hangs."""

from __future__ import annotations

import asyncio
import fcntl
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

import pytest

from ingest.journal.recording import SEALED
from ingest.replay.recovery import recover
from ingest.simulator.venue import SimulatedVenue
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.drills.command import tickwalk, until_said
from tests.drills.homes import (
    assert_bars_hold_trades,
    assert_equal,
    journalled_prints,
    read_tables,
    recordings,
    replay_all,
    stored_prints,
)
from tests.drills.kills import SETTINGS
from tests.drills.proxy import FaultProxy
from tests.drills.running import live_market, port_of
from tests.drills.venue_process import addresses
from tests.patience import HANG_S, assert_within

MOST_S: Final = 5.0
PATIENT: Final = {
    **SETTINGS, "record.coins": "BTC,SOL", "metrics.port": 0, "record.clock_check_s": 0.3, "record.discover_s": 0.3,
    "record.rest_timeout_s": 3_600.0,  # whoever waited for an answer would not end
}  # fmt: skip


async def ended(process: subprocess.Popen[str], number: signal.Signals) -> tuple[float, str]:
    """Send a signal; return the seconds until the process ended, and its output."""
    began_s = time.monotonic()
    process.send_signal(number)
    said, _ = await asyncio.to_thread(process.communicate, timeout=HANG_S)
    return time.monotonic() - began_s, said


@pytest.mark.timed
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.drill)])
async def test_it_seals_within_5_s_though_questions_hang_and_another_process_holds_the_lake(
    settings: Settings, tmp_path: Path, number: signal.Signals
) -> None:
    async with (
        SimulatedVenue(live_market(), clock="real") as venue,
        FaultProxy("127.0.0.1", port_of(venue)) as proxy,
    ):
        values = PATIENT | addresses(port_of(venue))
        values["record.info_url"] = f"http://127.0.0.1:{proxy.port}/info"
        recorder = tickwalk(settings.home, values, "record")
        await asyncio.to_thread(until_said, recorder, "connected", "chain")
        proxy.stall()
        with (settings.lake_dir / "commit.lock").open("w") as lock:
            await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
            await asyncio.to_thread(until_said, recorder, "commit postponed")
            seconds, said = await ended(recorder, number)
        assert recorder.returncode == 0, said
        assert_within(seconds, MOST_S)
        assert "Traceback" not in said
    (folder,) = recordings(settings)
    assert not (folder / SEALED).exists(), "the lake has not taken all of it"
    with Lake.open(settings) as lake:
        assert recover(settings, lake) == [folder.name]
    assert sorted(stored_prints(settings)) == sorted(journalled_prints(folder))
    assert_bars_hold_trades(settings)
    assert_equal(read_tables(settings), read_tables(replay_all(settings, tmp_path / "replayed")))


@pytest.mark.timed
async def test_it_ends_while_the_venue_does_not_answer_its_first_question(settings: Settings) -> None:
    async with (
        SimulatedVenue(live_market(), clock="real") as venue,
        FaultProxy("127.0.0.1", port_of(venue)) as proxy,
    ):
        proxy.stall()
        values = PATIENT | addresses(port_of(venue))
        values["record.info_url"] = f"http://127.0.0.1:{proxy.port}/info"
        recorder = tickwalk(settings.home, values, "record")
        while not proxy.connections:  # noqa: ASYNC110 - a connection that is taken has no event
            await asyncio.sleep(0.02)
        seconds, said = await ended(recorder, signal.SIGTERM)
    assert recorder.returncode == 0, said
    assert_within(seconds, MOST_S)
    assert list(settings.journal_dir.iterdir()) == []
