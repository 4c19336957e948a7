"""Answers are on disk before use, and Ctrl-C stops a backfill cleanly. For `kill -9` see `test_kill`."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import sys
from collections.abc import Callable

import pytest

from ingest.backfill.rest.journaled_client import PREFIX
from ingest.journal.reader import read_journal
from ingest.journal.recording import SEALED
from ingest.journal.records import RecordKind
from ingest.journal.retention import apply_retention
from ingest.replay.recovery import recover
from ingest.simulator.server.history_endpoint import RecordedHistory
from storage.clock import DAY_NS, WallTime
from storage.errors import LakeError
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.ingest.backfill.histories import NOW_NS, candles, fill_in, serving, settings_for
from tests.paths import ROOT

ASKED = [
    "--from",
    "2025-05-19T18:00",
    "--to",
    "2025-05-20",
    "--coin",
    "BTC",
    "--coin",
    "ETH",
    "--coin",
    "SOL",
]
COINS = ("BTC", "ETH", "SOL")


class Counted(RecordedHistory):
    """A history that counts the requests for candles."""

    asked = 0
    on_asked: Callable[[int], None] = staticmethod(lambda _: None)  # type: ignore[assignment]

    def candles(self, coin: str, interval: str, start_ms: int, end_ms: int) -> list[str]:
        self.asked += 1
        self.on_asked(self.asked)
        return super().candles(coin, interval, start_ms, end_ms)


def past() -> Counted:
    held = {(coin, "1m"): candles(400, flat=(150, 151), absent=(200,)) for coin in COINS}
    return Counted(NOW_NS, held, answered=50)


async def process(settings: Settings, info_url: str, *arguments: str) -> asyncio.subprocess.Process:
    """Start the command in a process of its own."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("TICKWALK_")}
    values = ("record.rest_weight_per_minute=1000000", f"record.info_url={info_url}")
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "serving.cli", "--home", str(settings.home),
        *(part for value in values for part in ("--set", value)), "backfill", *arguments,
        cwd=ROOT, env=environ | {"PYTHONPATH": str(ROOT)}, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def test_an_answer_is_on_disk_before_its_rows_and_the_next_recorder_start_replays_it(
    settings: Settings, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lake refuses the first page: it is in the journal, which stays unsealed, and recovery makes its rows."""

    def refuse(*_: object, **__: object) -> None:
        raise LakeError("the disk is full")

    async with serving(past()) as venue:
        chosen = settings_for(settings, venue)
        with monkeypatch.context() as patched:
            patched.setattr(Lake, "commit", refuse)
            with pytest.raises(LakeError, match="the disk is full"):
                await fill_in(lake, chosen)
    (folder,) = settings.journal_dir.glob(f"{PREFIX}*")
    kinds = [record.kind for record in read_journal(folder)]
    assert (kinds[0], set(kinds[1:-1]), kinds[-1]) == (
        RecordKind.STARTED,
        {RecordKind.ANSWER},
        RecordKind.STOPPED,
    )
    assert not (folder / SEALED).exists()
    assert recover(settings, lake) == [folder.name]
    assert lake.query("FROM candles").num_rows == 119
    assert lake.query("FROM bars").num_rows == 119


async def test_a_fully_committed_recording_may_be_removed(settings: Settings, lake: Lake) -> None:
    async with serving(past()) as venue:
        await fill_in(lake, settings_for(settings, venue))
    (folder,) = settings.journal_dir.glob(f"{PREFIX}*")
    kept = dataclasses.replace(settings, keep=dataclasses.replace(settings.keep, journal_days=1.0))
    done = apply_retention(kept, now_ns=WallTime().now_ns() + 2 * DAY_NS)
    assert (done.removed, done.failed) == ([folder.name], {})


async def test_ctrl_c_stops_between_two_steps_and_reports_what_is_left(
    settings: Settings, lake: Lake
) -> None:
    venue_past = past()
    begun: list[asyncio.subprocess.Process] = []
    venue_past.on_asked = (  # type: ignore[method-assign]
        lambda number: begun[0].send_signal(signal.SIGINT) if number == 1 else None
    )
    async with serving(venue_past) as venue:
        begun.append(await process(settings, venue.info_url, "candles", *ASKED))
        out, error = await begun[0].communicate()
    assert begun[0].returncode == 0, error.decode()
    assert "steps are left; the same command continues" in out.decode()
    (folder,) = settings.journal_dir.glob(f"{PREFIX}*")
    assert (folder / SEALED).exists()
    assert (
        lake.query("SELECT count(*) AS n FROM batches WHERE batch_id LIKE 'candles:%'")["n"][0].as_py() == 1
    )
