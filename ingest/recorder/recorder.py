"""How does a recording run: sockets to journal to tables, until told to stop?

Frames are stamped, journalled and processed in the order they came, on one thread. Syncing the journal and
committing to the lake happen in another, and only what is synced is committed. Ctrl-C and SIGTERM end the
recording: the journal is sealed and everything drained. After a `kill -9` the next start replays what the
tables had not been given. Every `record.rotate_h` a recording is sealed and the next goes on over open sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ingest.bars.aggregate import bar_of, fold_groups
from ingest.bars.trade_buffer import TradeBuffer
from ingest.concurrency import run_whole
from ingest.feed.connection_pool import ConnectionPool
from ingest.feed.listing_client import AnsweredRequest, request_listings, update_registry
from ingest.feed.rest_client import RestClient
from ingest.feed.subscription_plan import ConnectionPlan, plan
from ingest.instruments.registry import InstrumentRegistry
from ingest.instruments.stored_listings import newest_listings
from ingest.journal.recording import SEALED, settings_for_header
from ingest.journal.retention import run_retention
from ingest.pipeline import dedupe
from ingest.pipeline.processor import Counts
from ingest.pipeline.warm_start import resume, resume_listings
from ingest.recorder.commit_queue import CommitQueue
from ingest.recorder.frame_sink import FrameSink
from ingest.recorder.heartbeat import clear_heartbeats, write_heartbeat
from ingest.recorder.memory import release_starters, trim
from ingest.recorder.ntp import watch_clock
from ingest.recorder.polling import Poller
from ingest.recorder.status import RecorderStatus, RunState
from ingest.recorder.status_sampler import StatusSampler
from ingest.recorder.steady_clock import SteadyTime
from ingest.replay.recovery import recover
from ingest.replay.replay import recorded_instruments
from ingest.sharding import parse_shard, shard_of
from ingest.venues.gaiaex import protocol as gaiaex
from ingest.venues.hyperliquid.protocol import SIMULATED_MARK, parse_venue_time_ns
from ingest.venues.hyperliquid.scanner import warm_up
from storage.clock import NS, ManualTime, TimeSource, WallTime
from storage.errors import JournalError, LakeError, TickwalkError
from storage.lake.lake import Lake
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)
T = TypeVar("T")

_FLUSH_S = 0.02
_LOOK_S = 1.0
_START_S = 10.0
_ROTATE_LOOK_S = 30.0
# Now and then much code runs that is not needed again for long: a large batch, a rotation.
_RELEASE_S = 300.0
# More than this waiting for a pipeline that is being made ready, and the sockets wait too.
_MOST_WAITING = 200_000


@dataclass(slots=True)
class RecordingResult:
    """What a recorder came to: its last recording's name, and counts over all of them."""

    name: str
    counts: Counts
    written: dict[str, int] = field(default_factory=dict)


class Recorder:
    """One recorder from its first frame to its last seal."""

    def __init__(
        self,
        settings: Settings,
        lake: Lake,
        *,
        name: str | None = None,
        ends_with_venue: bool = False,
        on_vitals: Callable[[RecorderStatus], None] | None = None,
        on_wanted: Callable[[list[str]], None] | None = None,
        random_source: random.Random | None = None,
        wall: TimeSource | None = None,
    ) -> None:
        """Prepare a recorder; `run` starts it.

        Args:
            settings: what to record and where to.
            lake: takes the rows.
            name: the first recording's name; made from the time by default.
            ends_with_venue: a clean close by the venue ends the recording.
            on_vitals: is told, once a second, how it is doing.
            on_wanted: is told, before the recording begins, which coins it will hold.
            random_source: draws the waits before reconnects.
            wall: the clock that may be set while we record; the machine's by default.
        """
        self._settings = settings
        self._lake = lake
        self._ends_with_venue = ends_with_venue
        self._on_vitals = on_vitals
        self._on_wanted = on_wanted
        self._random = random_source
        self._is_virtual = settings.record.clock == "venue"
        self._venue_time = ManualTime()
        self._wall = wall or WallTime()
        self._steady = SteadyTime(wall.now_ns) if wall else SteadyTime()
        self._clock = self._venue_time if self._is_virtual else self._steady
        self._name = name or ""
        self._origin = settings.record.venue
        self._intake = FrameSink(
            settings,
            self._clock,
            venue_time=self._venue_time if self._is_virtual else None,
            on_flush=self._flushed,
        )
        self._commits = CommitQueue(lake, self._intake, self._clock, is_counted=self._is_virtual)
        self._signs = StatusSampler(settings, self._clock, self._intake, self._commits)
        self._sockets: ConnectionPool | None = None
        self._plans: list[ConnectionPlan] = []
        self._bars_seen = 0
        self._bars_out = asyncio.Event()
        self._ending = asyncio.Event()
        self._sealed = Counts()
        self._told_ns = self._clock.now_ns()
        self.vitals: RecorderStatus | None = None
        """The newest vital signs."""

    async def run(self, stop: asyncio.Event) -> RecordingResult:
        """Record until `stop` is set (or the venue ends, where that was asked).

        Raises:
            VenueError: the venue cannot be reached at the start.
            InstrumentError: a coin is not traded.
            JournalError: the disk refuses frames.
        """
        await asyncio.to_thread(_warm_up)
        async with RestClient(self._settings, clock=self._clock) as rest:
            if self._is_virtual:
                status = await rest.ask({"type": "exchangeStatus"})
                self._venue_time.advance_to(parse_venue_time_ns(status.body))
            async with RestClient(self._impatient(), clock=self._clock) as first:
                asked = await _unless(stop, request_listings(first, self._settings))
            if asked is None:
                return RecordingResult(self._name, self._sealed)
            started_ns = await self._start(asked)
            try:
                await self._run_tasks(stop, rest, started_ns)
            except JournalError as error:
                # What the journal does not hold must not reach the tables: the next start replays what it does hold.
                logger.warning("recording left unsealed", name=self._name, batches=self._commits.waiting)
                self._beat("failed", error.message)
                raise
            except BaseException as error:
                # What failed may have left a batch half taken: the next start replays the journal.
                self._commits.let_go += 1
                await self._end("recorder failed")
                self._beat("failed", str(error))
                raise
            await self._end("recorder stopped")
            self._beat("ended")
        return RecordingResult(self._name, self._counts(), self._commits.written)

    def _impatient(self) -> Settings:
        """Return settings with which a wrong address is told of soon, while someone is still looking."""
        record = self._settings.record
        soon = dataclasses.replace(record, rest_timeout_s=min(record.rest_timeout_s, _START_S))
        return dataclasses.replace(self._settings, record=soon)

    # Beginning, rotating, ending.

    async def _start(self, asked: list[AnsweredRequest]) -> int:
        """Learn what is listed, and begin the first recording; return when it began."""
        registry = InstrumentRegistry(self._settings.record.venue)
        registry.restore(await run_whole(newest_listings, self._lake, self._clock.now_ns()))
        update_registry(registry, asked)
        metas = [answer.body for request, answer in asked if request == {"type": "meta"}]
        if any(json.loads(body).get(SIMULATED_MARK) for body in metas):
            self._origin = "simulated"
        self._name = self._name or self._made_name()
        if not self._is_virtual:
            clear_heartbeats(self._settings, shard=self._settings.record.shard, now_ns=time.time_ns())
        about, self._plans = self._about(registry), self._plan(registry)
        if self._on_wanted is not None:
            self._on_wanted(about["coins"])
        started_ns = self._intake.begin(self._name, about)
        for request, answer in asked:
            self._intake.answer(request, answer.body, answer.asked_ns)
        logger.info("recording", name=self._name, sockets=len(self._plans), url=self._settings.record.ws_url)
        return started_ns

    async def _catch_up(self, started_ns: int) -> None:
        """Give the tables what a crash kept from them, then begin to process; frames are journalled meanwhile."""
        task = asyncio.current_task()

        def is_over() -> bool:
            return self._ending.is_set() or (task is not None and task.cancelling() > 0)

        await run_whole(recover, self._settings, self._lake, but=self._name, is_over=is_over)
        if not self._ending.is_set():  # else the next start gives the tables this recording too
            await self._make_ready(started_ns)
            logger.info("caught up", name=self._name)

    def _about(self, registry: InstrumentRegistry, **more: object) -> dict[str, Any]:
        """Return what a recording says of itself in its first record."""
        record = self._settings.record
        part, parts = parse_shard(record.shard)
        coins, symbols = self._wanted(registry)
        return {
            "source": "socket",
            "url": record.ws_url,
            "coins": [coin for coin in coins if shard_of(coin, parts) == part],
            "symbols": [symbol for symbol in symbols if shard_of(symbol, parts) == part],
            "settings": settings_for_header(self._settings),
            **more,
        }

    def _wanted(self, registry: InstrumentRegistry) -> tuple[tuple[str, ...], tuple[str, ...]]:
        wanted, symbols = self._settings.record.coins, self._settings.gaiaex.symbols
        coins = registry.expand(wanted, leaves_out_gone=True)
        relayed = registry.expand(symbols, gaiaex.VENUE, leaves_out_gone=True)
        if not (coins or relayed) and self._sockets is None:
            registry.expand(wanted)  # nothing of it trades: say why
        return coins, relayed

    def _plan(self, registry: InstrumentRegistry) -> list[ConnectionPlan]:
        return plan(self._settings, *self._wanted(registry), before=self._plans)

    async def _make_ready(self, started_ns: int) -> None:
        """Give the new pipeline what earlier recordings left, then what has waited for it."""
        pipeline = self._intake.pipeline
        about = self._intake.about

        def restore() -> None:
            resume_listings(pipeline, self._lake, started_ns)
            resume(pipeline, self._lake, recorded_instruments(about, pipeline), started_ns)

        await run_whole(restore)
        self._commits.begin()
        self._bars_seen = 0
        self._intake.ready()

    async def _rotate(self) -> None:
        """Seal the recording and go on with the next; sockets stay open and nothing is missed."""
        intake = self._intake
        intake.flush()
        streams, stalls = intake.pipeline.proven_streams(), intake.pipeline.state.ledger.stalls()
        opened = intake.stop("rotated")
        self._commits.cut()
        before, journal, name = self._name, intake.journal, self._made_name()
        self._signs.ended()
        self._sealed = self._counts()
        about = self._about(intake.pipeline.state.registry, continues=before)
        started_ns = intake.begin(name, about)
        intake.hold(opened, streams, stalls)
        await self._commits.send(journal)
        while self._commits.waiting > self._commits.let_go and not self._ending.is_set():
            await self._rest(_LOOK_S)
            await self._commits.send(journal)
        await run_whole(journal.close)
        self._seal(journal.folder)
        self._name = name
        await self._catch_up(started_ns)
        logger.info("recording rotated", before=before, name=name)

    async def _end(self, cause: str) -> None:
        """End the journal and drain what is pending; seal the recording if the lake has all of it."""
        self._intake.stop(cause)
        self._commits.cut()
        await self._commits.send(self._intake.journal)
        self._intake.journal.close()
        self._seal(self._intake.journal.folder)

    def _seal(self, folder: Path) -> None:
        name = folder.name
        is_unread = self._intake.waiting is not None and folder == self._intake.journal.folder
        if self._commits.waiting or self._commits.is_behind or is_unread:
            logger.warning("recording left unsealed", name=name, batches=self._commits.waiting)
            return
        (folder / SEALED).touch()
        counts = self._counts()
        logger.info("recording sealed", name=name, frames=counts.frames, trades=counts.trades)

    def _made_name(self) -> str:
        part, parts = parse_shard(self._settings.record.shard)
        shard = f"-{part}of{parts}" if parts > 1 else ""
        return f"{self._origin}{shard}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{os.getpid()}"

    def _counts(self) -> Counts:
        return self._intake.pipeline.counts + self._sealed

    # Running.

    async def _run_tasks(self, stop: asyncio.Event, rest: RestClient, started_ns: int) -> None:
        if self._is_virtual:
            await self._catch_up(started_ns)
        self._sockets = ConnectionPool(
            self._plans,
            self._intake,
            self._settings,
            has_timers=not self._is_virtual,
            ends_with_venue=self._ends_with_venue,
            clock=self._clock,
            seen_until=self._seen_until,
            random_source=self._random,
        )
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._sync_loop())
                group.create_task(self._commit_loop())
                group.create_task(self._look_loop())
                asking: list[asyncio.Task[None]] = []
                if not self._is_virtual:
                    group.create_task(self._catch_up(started_ns))
                    asking = self._add_timed_tasks(group, rest)
                await self._sockets.run(stop)
                self._beat("ending")
                # A loop in the middle of a commit or a sync ends it first: cancelling would leave its thread running.
                self._ending.set()
                self._bars_out.set()
                # A question has no such thread, and a venue that does not answer would hold up the end.
                for task in asking:
                    task.cancel()
        except* TickwalkError as failures:
            raise failures.exceptions[0] from None

    def _add_timed_tasks(self, group: asyncio.TaskGroup, rest: RestClient) -> list[asyncio.Task[None]]:
        """Start what runs where time is the wall's; return those that only ask."""
        record = self._settings.record
        asking = Poller(self._settings, rest, self._intake, self._ending)
        group.create_task(self._flush_loop())
        group.create_task(self._rotate_loop())
        clock = watch_clock(
            self._intake,
            self._ending,
            server=record.ntp_server,
            every_s=record.clock_check_s,
            clock=self._wall,
        )
        questions = (
            asking.listings(self._relisted),
            asking.venue_clock(),
            asking.repairs(),
            asking.gaia_state(),
            clock,
            run_retention(self._settings, self._ending),
        )
        return [group.create_task(question) for question in questions]

    async def _flush_loop(self) -> None:
        """Journal and process what came; close bars by the wall, so that a silent feed still closes its bars."""
        while not self._ending.is_set():
            due_ns = self._intake.pipeline.next_tick_ns
            if due_ns and self._clock.now_ns() > due_ns and self._intake.waiting is None:
                self._intake.tick()
            self._intake.flush()
            await asyncio.sleep(_FLUSH_S)

    async def _sync_loop(self) -> None:
        while not self._ending.is_set():
            await self._rest(self._settings.record.block_ms / 1000)
            if not self._is_virtual:
                self._intake.flush()  # what came since the last lot must not wait for another round
            await run_whole(self._intake.journal.sync)

    async def _commit_loop(self) -> None:
        released_s = 0.0
        while not self._ending.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._bars_out.wait(), self._settings.record.commit_s)
            self._bars_out.clear()
            if self._ending.is_set():
                return  # the end sends what is left
            await self._commits.send()
            await asyncio.to_thread(trim)
            if self._commits.written and time.monotonic() > released_s + _RELEASE_S:
                await asyncio.to_thread(release_starters)
                released_s = time.monotonic()

    async def _rotate_loop(self) -> None:
        """Rotate when it is time; and early, when the lake is back that had to be given up on: that catches up."""
        due_ns = self._clock.now_ns() + round(self._settings.record.rotate_h * 3_600 * NS)
        while not self._ending.is_set():
            await self._rest(min(_ROTATE_LOOK_S, max(0.01, (due_ns - self._clock.now_ns()) / NS)))
            is_due = self._clock.now_ns() >= due_ns or self._commits.is_behind
            if self._ending.is_set() or not is_due or self._intake.waiting is not None:
                continue
            if await self._is_lake_well():
                await self._rotate()
                due_ns = self._clock.now_ns() + round(self._settings.record.rotate_h * 3_600 * NS)

    async def _is_lake_well(self) -> bool:
        """Say whether the lake takes what waits for it; a recording is not ended while it does not."""
        await self._commits.send()
        if self._commits.waiting > self._commits.let_go:
            return False
        try:
            await run_whole(self._lake.snapshot)
        except LakeError:
            return False
        return True

    async def _look_loop(self) -> None:
        """Once a second: feed the watchdogs, steer the clock, show how it is going."""
        while not self._ending.is_set():
            self._steady.steer()
            self._feed_watchdogs()
            self._beat("recording")
            await self._rest(_LOOK_S)

    def _feed_watchdogs(self) -> None:
        assert self._sockets is not None
        watchdogs = self._sockets.watchdogs
        for (connection, channel, coin), (
            recv_ns,
            count,
        ) in self._intake.pipeline.state.take_streams().items():
            watchdogs.record_frames(channel, coin, recv_ns, count, connection=connection)

    def _beat(self, state: RunState, error: str = "") -> None:
        """Take the vital signs, show them, and leave them where others look."""
        self.vitals = self._signs.take(state, self._sockets, error)
        if self._on_vitals is not None:
            self._on_vitals(self.vitals)
        if self._is_virtual:
            return
        with contextlib.suppress(JournalError):  # who looks for the heartbeat will miss it
            write_heartbeat(self._settings, self.vitals)

    def _flushed(self) -> None:
        """A lot was taken: commit if bars are out; make the sockets wait if too much waits already."""
        bars = self._intake.pipeline.counts.bars
        if bars > self._bars_seen and not self._is_virtual:
            self._bars_out.set()
        self._bars_seen = bars
        self._commits.cut_if_due()
        if self._sockets is not None and self._intake.waiting is not None:
            if self._intake.backlog_frames > _MOST_WAITING:
                self._sockets.pause()
        elif self._sockets is not None:
            self._sockets.resume()

    def _seen_until(self) -> int:
        """Up to when the watchdogs have been told of everything."""
        if self._intake.waiting is None:
            self._intake.flush()
            self._feed_watchdogs()
            self._told_ns = self._clock.now_ns()
        return self._told_ns

    def _relisted(self) -> None:
        """The venues have said anew what they list: take up what is new, and let go what is gone."""
        if self._intake.waiting is not None or self._sockets is None:
            return
        try:
            self._plans = self._plan(self._intake.pipeline.state.registry)
        except TickwalkError as error:
            logger.warning("listings not followed", reason=str(error))
            return
        self._sockets.apply(self._plans)

    async def _rest(self, seconds: float) -> None:
        """Sleep, but no longer than the recording goes on."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), seconds)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Return what the work comes to, or nothing where `stop` was set before."""
    task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        for waiting in (task, stopped):
            waiting.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)


def _warm_up() -> None:
    """Load the compiled functions before frames wait for them; then their compiler is needed no more."""
    warm_up()
    dedupe.warm_up()
    fold_groups([TradeBuffer()])
    bar_of(np.zeros(1, np.int64), 1)
    release_starters()
