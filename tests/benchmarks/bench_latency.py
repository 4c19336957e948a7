"""Benchmark of latency: receipt to synced on disk, and bar close to visible in the table.

The real recorder with its default pace (flush, `block_ms`, `commit_s`, grace) follows a venue of 20 instruments at 500
frames a second in another process, for half a minute. Bars are one second wide, so that there are enough of them; all
else is as shipped. A reader polls the lake for the newest bar. Times are the wall's: this waits for a disk.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from ingest.journal.writer import JournalWriter
from ingest.recorder.recorder import Recorder
from storage.lake.lake import Lake
from storage.settings import Settings, load_settings
from tests.benchmarks.harness import Figure, bench

SECONDS: Final = 30.0
INSTRUMENTS: Final = 20
FRAMES_PER_S: Final = 500
SYNCED_LIMIT_MS: Final = 100.0
VISIBLE_LIMIT_S: Final = 5.0
_POLL_S: Final = 0.25


class Synced:
    """Notes, for every record of a journal, how long it waited for the disk."""

    def __init__(self) -> None:
        self.waits_ms: list[Any] = []

    def watch(self, journal: JournalWriter) -> None:
        """Look at each sync of a journal from now on."""
        sync, extend = journal.sync, journal.extend
        taken: list[Any] = []

        def extend_noted(*columns: Any) -> Any:
            batch = extend(*columns)
            taken.append(batch.recv_ns)
            return batch

        def sync_noted() -> None:
            waiting = len(taken)
            sync()
            now_ns = time.time_ns()
            self.waits_ms += [(now_ns - recv_ns) / 1e6 for recv_ns in taken[:waiting]]
            del taken[:waiting]

        journal.extend, journal.sync = extend_noted, sync_noted  # type: ignore[method-assign]


def visible_s(settings: Settings, stop: threading.Event) -> list[float]:
    """Poll for new bars; return for each bar how long after its close it was seen first."""
    seen: list[float] = []
    newest = -1
    with Lake.open(settings, read_only=True) as lake:
        while not stop.wait(_POLL_S):
            rows = lake.query(
                """SELECT DISTINCT epoch_us(ts_close) AS close_us FROM bars
                   WHERE revision = 0 AND epoch_us(ts_close) > ?""",
                [newest],
            )
            now_us = time.time_ns() // 1000
            closes: list[int] = rows["close_us"].to_numpy().tolist()
            if newest >= 0:  # what was there before we looked tells nothing
                seen += [(now_us - close_us) / 1e6 for close_us in closes]
            newest = max([newest, *closes])
    return seen


async def _record(settings: Settings, synced: Synced) -> list[float]:
    stop, end = asyncio.Event(), threading.Event()
    with Lake.open(settings) as lake:
        began = asyncio.Event()
        recorder = Recorder(settings, lake, on_vitals=lambda _: began.set())
        running = asyncio.create_task(recorder.run(stop))
        await began.wait()
        synced.watch(recorder._intake.journal)
        reader = asyncio.create_task(asyncio.to_thread(visible_s, settings, end))
        await asyncio.sleep(SECONDS)
        end.set()
        seen = await reader
        stop.set()
        await running
    return seen


@bench
def receipt_to_disk_and_table() -> Iterator[Figure]:
    """Yield the 99th percentiles against their limits."""
    command = [sys.executable, "-m", "tests.drills.crowd", str(INSTRUMENTS), str(FRAMES_PER_S)]
    with (
        tempfile.TemporaryDirectory() as home,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as venue,
    ):
        try:
            assert venue.stdout is not None
            port = int(venue.stdout.readline())
            values = {
                "home": Path(home), "record.coins": ("*",), "record.ntp_server": "", "bars.widths": ("1s",),
                "record.channels": ("trades", "bbo"),
                "record.ws_url": f"ws://127.0.0.1:{port}/ws", "record.info_url": f"http://127.0.0.1:{port}/info",
            }  # fmt: skip
            settings = load_settings(overrides=values, environ={})
            settings.ensure_home()
            synced = Synced()
            seen_s = asyncio.run(_record(settings, synced))
        finally:
            venue.terminate()
    waits_ms = np.concatenate(synced.waits_ms)
    p99_ms, visible_p99_s = float(np.percentile(waits_ms, 99)), float(np.percentile(seen_s, 99))
    yield Figure(
        "receipt to synced on disk, p99", round(p99_ms, 1), f"ms, {waits_ms.size} records",
        f"{SYNCED_LIMIT_MS:g} ms", round(SYNCED_LIMIT_MS / p99_ms, 2),
    )  # fmt: skip
    yield Figure(
        "bar close to visible in the table, p99", round(visible_p99_s, 2), f"s, {len(seen_s)} bars",
        f"{VISIBLE_LIMIT_S:g} s", round(VISIBLE_LIMIT_S / visible_p99_s, 2),
    )  # fmt: skip
