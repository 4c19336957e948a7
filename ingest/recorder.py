"""How does a recording run: sockets to journal to tables, until told to stop?

Every frame is stamped, journalled and processed in the order it came, on one thread. Syncing the journal and
committing to the lake happen in another, and only what is synced is committed. Ctrl-C and SIGTERM end the
recording: the journal is sealed and everything drained. After a `kill -9` the next start replays what the
tables had not been given.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import pyarrow as pa

from ingest.feed import Feed, Wanted
from ingest.journal import JournalWriter, segments
from ingest.pipeline import Counts, Pipeline
from ingest.records import Kind
from ingest.replay import CAPTURE, COMMIT_FRAMES, replay
from ingest.resume import resume
from ingest.venues.hyperliquid import (
    CHANNELS,
    CLOCK_PREFIX,
    SIMULATED_MARK,
    ask,
    check_coins,
    instrument_id,
    parse_meta,
    parse_venue_time_ns,
)
from storage.clock import NS, ManualTime, TimeSource, WallTime
from storage.errors import JournalError, LakeError, TickwalkError
from storage.lake import Lake
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)

_SEALED: Final = "sealed"
# Batches that the lake would not take are kept; past this many the recorder gives up, its journal whole.
_MAX_UNSENT: Final = 60


@dataclass(slots=True)
class Recording:
    """What a recording came to."""

    name: str
    counts: Counts
    written: dict[str, int] = field(default_factory=dict)


class Recorder:
    """One recording from its first frame to its seal."""

    def __init__(
        self,
        settings: Settings,
        lake: Lake,
        *,
        name: str | None = None,
        ends_with_venue: bool = False,
        on_progress: Callable[[Counts, int], None] | None = None,
        random_source: random.Random | None = None,
    ) -> None:
        """Prepare a recording; `run` starts it.

        Args:
            settings: what to record and where to.
            lake: takes the rows.
            name: the recording's name; made from the time by default.
            ends_with_venue: a clean close by the venue ends the recording.
            on_progress: is told, about once a second, what went through and the present.
            random_source: draws the waits before reconnects.
        """
        self._settings = settings
        self._lake = lake
        self._ends_with_venue = ends_with_venue
        self._on_progress = on_progress
        self._random = random_source
        self._follows_venue = settings.record.clock == "venue"
        self._venue_time = ManualTime()
        self._clock: TimeSource = self._venue_time if self._follows_venue else WallTime()
        self._name = name or ""
        self._unsent: list[tuple[str, dict[str, object], dict[str, pa.Table]]] = []
        self._committing = asyncio.Lock()
        self._bars_out = asyncio.Event()
        self._ending = asyncio.Event()
        self._first_frame = 0
        self._journal: JournalWriter
        self._pipeline: Pipeline

    async def run(self, stop: asyncio.Event) -> Recording:
        """Record until `stop` is set (or the venue ends, where that was asked).

        Raises:
            VenueError: the venue cannot be reached at the start.
            InstrumentError: a coin is not traded.
            JournalError: the disk refuses frames.
        """
        record = self._settings.record
        meta = await ask(record.info_url, {"type": "meta"}, timeout_s=record.connect_timeout_s)
        if self._follows_venue:
            status = await ask(
                record.info_url, {"type": "exchangeStatus"}, timeout_s=record.connect_timeout_s
            )
            self._venue_time.advance_to(parse_venue_time_ns(status))
        check_coins(record.coins, parse_meta(meta))
        if not self._name:
            origin = "simulated" if json.loads(meta).get(SIMULATED_MARK) else record.venue
            self._name = f"{origin}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}"
        await asyncio.to_thread(recover, self._settings, self._lake)
        folder = self._settings.journal_dir / self._name
        self._journal = JournalWriter(folder, segment_bytes=record.segment_bytes)
        self._pipeline = Pipeline(self._name, self._settings, is_capture=False)
        instruments = [instrument_id(coin, record.venue) for coin in record.coins]
        result = Recording(self._name, self._pipeline.counts)
        self._begin(meta, instruments)
        logger.info("recording", name=self._name, coins=len(record.coins), url=record.ws_url)
        try:
            await self._run_tasks(stop, result)
        except JournalError:
            # What the journal does not hold must not reach the tables: the next start replays what it does hold.
            logger.warning("recording left unsealed", name=self._name, batches=len(self._unsent))
            raise
        except BaseException:
            await self._finish(result)
            raise
        await self._finish(result)
        return result

    # The feed's news.

    def opened(self, connection: int, url: str) -> None:
        """Journal that a connection was opened."""
        self._take(Kind.OPENED, connection, url.encode())

    def closed(self, connection: int, cause: str) -> None:
        """Journal that a connection was lost."""
        self._take(Kind.CLOSED, connection, cause.encode())

    def frame(self, connection: int, body: bytes) -> None:
        """Journal and process a frame; a simulated venue's clock frame moves the clock instead."""
        if self._follows_venue and body.startswith(CLOCK_PREFIX):
            self._venue_time.advance_to(int(json.loads(body)["data"]))
            return
        self._take(Kind.FRAME, connection, body)

    # How.

    def _begin(self, meta: bytes, instruments: list[str]) -> None:
        record = self._settings.record
        about = {"source": "socket", "coins": list(record.coins), "url": record.ws_url}
        exchange = {"request": {"type": "meta"}, "response": json.loads(meta)}
        started = self._journal.append(self._clock.now_ns(), Kind.STARTED, -1, json.dumps(about).encode())
        resume(self._pipeline, self._lake, instruments, started.recv_ns)
        self._pipeline.process(started)
        self._take(Kind.ANSWER, -1, json.dumps(exchange).encode())

    def _take(self, kind: Kind, connection: int, body: bytes) -> None:
        bars = self._pipeline.counts.bars
        self._pipeline.process(self._journal.append(self._clock.now_ns(), kind, connection, body))
        if self._pipeline.counts.bars > bars and not self._follows_venue:
            self._bars_out.set()
        # On the venue's clock batches are cut by count and not by the wall, so that every run has the same.
        if self._follows_venue and self._journal.frames - self._first_frame >= COMMIT_FRAMES:
            self._cut()

    async def _finish(self, result: Recording) -> None:
        """End the journal and drain what is pending; seal the recording if the lake has all of it."""
        self._take(Kind.STOPPED, -1, b"recorder stopped")
        self._cut()
        await self._commit(result)
        self._journal.close()
        if self._unsent:
            logger.warning("recording left unsealed", name=self._name, batches=len(self._unsent))
            return
        (self._journal.folder / _SEALED).touch()
        logger.info(
            "recording sealed", name=self._name, frames=self._journal.frames, trades=result.counts.trades
        )

    async def _run_tasks(self, stop: asyncio.Event, result: Recording) -> None:
        record = self._settings.record
        wanted = [Wanted(channel, coin) for coin in record.coins for channel in CHANNELS]
        feed = Feed(
            record.ws_url,
            wanted,
            self,
            record,
            has_timers=not self._follows_venue,
            ends_with_venue=self._ends_with_venue,
            random_source=self._random,
        )
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._sync_loop())
                group.create_task(self._commit_loop(result))
                group.create_task(self._progress_loop())
                if not self._follows_venue:
                    group.create_task(self._tick_loop())
                await feed.run(stop)
                # A loop in the middle of a commit or a sync ends it first: cancelling would leave its thread running.
                self._ending.set()
                self._bars_out.set()
        except* TickwalkError as failures:
            raise failures.exceptions[0] from None

    async def _tick_loop(self) -> None:
        """Close bars by the wall, so that a silent feed still closes its bars."""
        while not self._ending.is_set():
            now_ns = self._clock.now_ns()
            due_ns = self._pipeline.next_tick_ns
            if due_ns and now_ns > due_ns:
                self._take(Kind.CLOCK, -1, b"")
                continue
            await self._rest(min(1.0, max(0.001, (due_ns - now_ns) / NS)) if due_ns else 0.1)

    async def _sync_loop(self) -> None:
        while not self._ending.is_set():
            await self._rest(self._settings.record.block_ms / 1000)
            await asyncio.to_thread(self._journal.sync)

    async def _commit_loop(self, result: Recording) -> None:
        while not self._ending.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._bars_out.wait(), self._settings.record.commit_s)
            self._bars_out.clear()
            await self._commit(result)

    def _cut(self) -> None:
        """Make a batch of what has been derived since the last one."""
        first, last = self._first_frame, self._journal.frames - 1
        tables = self._pipeline.drain()
        if tables:
            inputs: dict[str, object] = {"recording": self._name, "frames": [first, last]}
            self._unsent.append((f"live:{self._name}:{first}-{last}", inputs, tables))
        self._first_frame = last + 1

    async def _commit(self, result: Recording) -> None:
        """Sync the journal, then give the lake what was made from it."""
        async with self._committing:
            if not self._follows_venue:
                self._cut()
            await asyncio.to_thread(self._journal.sync)
            while self._unsent:
                batch_id, inputs, tables = self._unsent[0]
                try:
                    commit = await asyncio.to_thread(
                        self._lake.commit, tables, batch_id=batch_id, inputs=inputs
                    )
                except LakeError as error:
                    logger.warning(
                        "commit postponed", batch=batch_id, waiting=len(self._unsent), reason=str(error)
                    )
                    if len(self._unsent) > _MAX_UNSENT:
                        raise
                    return
                self._unsent.pop(0)
                for name, rows in commit.rows.items():
                    result.written[name] = result.written.get(name, 0) + rows

    async def _progress_loop(self) -> None:
        while self._on_progress is not None and not self._ending.is_set():
            self._on_progress(self._pipeline.counts, self._clock.now_ns())
            await self._rest(1.0)

    async def _rest(self, seconds: float) -> None:
        """Sleep, but no longer than the recording goes on."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), seconds)


def recover(settings: Settings, lake: Lake) -> list[str]:
    """Replay recordings that were never sealed, unless another recorder still holds them.

    One that cannot be replayed is left as it is, and does not keep a new recording from starting.

    Returns:
        The names of those that were.
    """
    recovered = []
    for folder in sorted(settings.journal_dir.iterdir()) if settings.journal_dir.exists() else []:
        if folder.name.startswith(CAPTURE) or (folder / _SEALED).exists() or not segments(folder):
            continue
        try:
            done = replay(folder, settings, lake)
        except TickwalkError as error:
            logger.warning("recording not recovered", name=folder.name, reason=str(error))
            continue
        (folder / _SEALED).touch()
        logger.warning(
            "recording recovered", name=folder.name, frames=done.counts.frames, written=done.written
        )
        recovered.append(folder.name)
    return recovered
