"""The recorder: sockets to journal to tables, from its first frame to its last seal.

Frames are stamped, journalled and processed in the order in which they arrive, on one thread. Syncing the journal and
committing to the lake run in another thread, and only what is synced is committed. Ctrl-C and SIGTERM end a recording:
the journal is sealed and everything is drained. After a `kill -9` the next start replays what the tables lack. Every
`record.rotate_h` a recording is sealed and the next one takes over the open sockets.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ingest.concurrency import run_in_thread, run_unless, wait_for
from ingest.coverage.ledger import TRADES
from ingest.feed.connection_pool import ConnectionPool
from ingest.feed.listing_client import AnsweredRequest, request_listings, update_registry
from ingest.feed.rest_client import RestClient
from ingest.feed.subscription_plan import ConnectionPlan
from ingest.instruments.registry import InstrumentRegistry
from ingest.instruments.stored_listings import newest_listings
from ingest.journal.recording import SEALED
from ingest.pipeline.processor import Counts
from ingest.pipeline.registration import header_instruments, recording_row
from ingest.pipeline.warm_start import resume, resume_listings
from ingest.recorder.commit_queue import CommitQueue
from ingest.recorder.drivers import RecorderActions, make_driver
from ingest.recorder.frame_sink import FrameSink
from ingest.recorder.recording_plan import is_simulated, plan_connections, recording_header, recording_name
from ingest.recorder.startup import load_compiled_functions, with_short_timeout
from ingest.recorder.status import RecorderStatus, RunState
from ingest.recorder.status_sampler import StatusSampler
from ingest.recorder.tasks import STATUS_S, TaskContext, commit_loop, status_loop, sync_loop
from ingest.replay.recovery import recover
from ingest.venues.hyperliquid.protocol import coin_of
from storage.clock import TimeSource
from storage.errors import JournalError, TickwalkError
from storage.lake.lake import Lake
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)

# While more frames than this wait for a pipeline that still catches up, the sockets are not read.
_MOST_WAITING = 200_000


@dataclass(slots=True)
class RecordingResult:
    """What a recorder has done: the name of its last recording, and counts over all of them."""

    name: str
    counts: Counts
    written: dict[str, int] = field(default_factory=dict)


class Recorder:
    """One recorder; its driver decides whether it runs in real or in virtual time."""

    def __init__(
        self,
        settings: Settings,
        lake: Lake,
        *,
        name: str | None = None,
        ends_with_venue: bool = False,
        on_vitals: Callable[[RecorderStatus], None] | None = None,
        on_coins: Callable[[list[str]], None] | None = None,
        random_source: random.Random | None = None,
        wall: TimeSource | None = None,
    ) -> None:
        """Prepare a recorder; `run` starts it.

        Args:
            settings: what to record, and where to.
            lake: receives the rows.
            name: of the first recording (default: made from the time).
            ends_with_venue: a clean close by the venue ends the recording.
            on_vitals: called with the status once a second.
            on_coins: called with the coins of the recording before it begins.
            random_source: draws the waits before reconnects.
            wall: a clock that may be set while we record (default: the machine's).
        """
        self._settings = settings
        self._lake = lake
        self._ends_with_venue = ends_with_venue
        self._on_vitals = on_vitals
        self._on_coins = on_coins
        self._random = random_source
        self._driver = make_driver(settings, wall)
        self._clock = self._driver.clock
        self._name = name or ""
        self._origin = settings.record.venue
        self._intake = FrameSink(
            settings,
            self._clock,
            home=lake.home,
            venue_time=self._driver.venue_time,
            on_flush=self._on_flush,
        )
        self._commits = CommitQueue(lake, self._intake, self._clock, is_counted=not self._driver.has_timers)
        self._sampler = StatusSampler(settings, self._clock, self._intake, self._commits)
        self._ending = asyncio.Event()
        self._new_bars = asyncio.Event()
        self._tasks = TaskContext(
            settings, lake, self._clock, self._intake, self._commits, self._ending, self._new_bars
        )
        self._sockets: ConnectionPool | None = None
        self._plans: list[ConnectionPlan] = []
        self._bars_seen = 0
        self._sealed = Counts()
        self._seen_until_ns = self._clock.now_ns()
        self.vitals: RecorderStatus | None = None
        """The newest status."""

    async def run(self, stop: asyncio.Event) -> RecordingResult:
        """Record until `stop` is set (or the venue ends, where `ends_with_venue` is set).

        Raises:
            VenueError: the venue cannot be reached at the start.
            InstrumentError: a coin is not traded.
            JournalError: the disk refuses frames.
        """
        await asyncio.to_thread(load_compiled_functions)
        async with RestClient(self._settings, clock=self._clock) as rest:
            await self._driver.set_clock(rest)
            async with RestClient(with_short_timeout(self._settings), clock=self._clock) as first:
                answers = await run_unless(stop, request_listings(first, self._settings))
            if answers is None:
                return RecordingResult(self._name, self._sealed)
            started_ns = await self._start(answers)
            try:
                await self._run_tasks(stop, rest, started_ns)
            except JournalError as error:
                # What the journal lacks must not reach the tables: the next start replays what it has.
                logger.warning("recording left unsealed", name=self._name, batches=self._commits.waiting)
                self._sample_status("failed", error.message)
                raise
            except BaseException as error:
                # The failure may have left a batch half processed: the next start replays the journal.
                self._commits.mark_incomplete()
                await self._end("recorder failed")
                self._sample_status("failed", str(error))
                raise
            await self._end("recorder stopped")
            self._sample_status("ended")
        return RecordingResult(self._name, self._counts(), self._commits.written)

    async def _run_tasks(self, stop: asyncio.Event, rest: RestClient, started_ns: int) -> None:
        driver = self._driver

        async def catch_up() -> None:
            await self._catch_up(started_ns)

        await driver.before_connecting(catch_up)
        self._sockets = ConnectionPool(
            self._plans,
            self._intake,
            self._settings,
            has_timers=driver.has_timers,
            ends_with_venue=self._ends_with_venue,
            clock=self._clock,
            seen_until=self._seen_until,
            random_source=self._random,
        )
        actions = RecorderActions(catch_up, self._rotate, self._follow_listings)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(sync_loop(self._tasks, driver.before_sync))
                group.create_task(commit_loop(self._tasks))
                group.create_task(status_loop(self._tasks, self._each_second))
                polls = driver.start_tasks(group, self._tasks, rest, actions)
                await self._sockets.run(stop)
                self._sample_status("ending")
                # A loop in the middle of a commit or a sync ends it first: cancelling would leave its thread running.
                self._ending.set()
                self._new_bars.set()
                # A poll has no such thread, and a venue that does not answer would delay the end.
                for task in polls:
                    task.cancel()
        except* TickwalkError as failures:
            raise failures.exceptions[0] from None

    # Starting, rotating, ending.

    async def _start(self, answers: list[AnsweredRequest]) -> int:
        """Learn what is listed, and begin the first recording; return when it began."""
        registry = InstrumentRegistry(self._settings.record.venue)
        registry.restore(await run_in_thread(newest_listings, self._lake, self._clock.now_ns()))
        update_registry(registry, answers)
        if is_simulated(answers):
            self._origin = "simulated"
        self._name = self._name or recording_name(self._settings, self._origin)
        self._driver.prepare()
        about = recording_header(self._settings, registry, may_be_empty=False)
        self._plans = plan_connections(self._settings, registry, self._plans, may_be_empty=False)
        if self._on_coins is not None:
            self._on_coins(about["coins"])
        started_ns = self._intake.begin(self._name, about)
        for request, answer in answers:
            self._intake.answer(request, answer.body, answer.asked_ns)
        if (
            self._driver.has_timers
        ):  # else nothing is committed before the first batch, which registers it too
            self._register(about, registry, started_ns)
            await self._commits.send()
        logger.info("recording", name=self._name, sockets=len(self._plans), url=self._settings.record.ws_url)
        return started_ns

    async def _catch_up(self, started_ns: int) -> None:
        """Replay what a crash kept from the tables, then start processing; frames are journalled meanwhile."""
        task = asyncio.current_task()

        def is_over() -> bool:
            return self._ending.is_set() or (task is not None and task.cancelling() > 0)

        async with self._commits.sending:
            await run_in_thread(recover, self._settings, self._lake, exclude=self._name, is_over=is_over)
        if not self._ending.is_set():  # else the next start replays this recording too
            await self._start_processing(started_ns)
            logger.info("caught up", name=self._name)

    async def _start_processing(self, started_ns: int) -> None:
        """Restore in the new pipeline what earlier recordings left, then process what has waited for it."""
        pipeline = self._intake.pipeline
        about = self._intake.about

        def restore() -> None:
            resume_listings(pipeline, self._lake, started_ns)
            resume(pipeline, self._lake, header_instruments(about, pipeline.state.registry), started_ns)

        async with self._commits.sending:
            await run_in_thread(restore)
        self._commits.begin()
        self._bars_seen = 0
        self._intake.start_processing()

    async def _rotate(self) -> None:
        """Seal the recording and begin the next; sockets stay open and nothing is missed."""
        intake = self._intake
        intake.flush()
        streams, stalls = intake.pipeline.proven_streams(), intake.pipeline.state.ledger.stalls()
        opened = intake.stop("rotated")
        self._commits.cut()
        before, journal, name = self._name, intake.journal, recording_name(self._settings, self._origin)
        self._sampler.end_recording()
        self._sealed = self._counts()
        registry = intake.pipeline.state.registry
        about = recording_header(self._settings, registry) | {"continues": before}
        started_ns = intake.begin(name, about)
        intake.take_over(opened, streams, stalls)
        self._register(about, registry, started_ns)
        await self._commits.send(journal)
        while self._commits.has_unsent and not self._ending.is_set():
            await wait_for(self._ending, STATUS_S)
            await self._commits.send(journal)
        await run_in_thread(journal.close)
        self._seal(journal.folder)
        self._name = name
        await self._catch_up(started_ns)
        logger.info("recording rotated", before=before, name=name)

    def _register(self, about: Mapping[str, Any], registry: InstrumentRegistry, started_ns: int) -> None:
        """Announce the recording that has begun in the lake; see `CommitQueue.register`."""
        name, instruments = self._intake.journal.recording, header_instruments(about, registry)
        venue = self._settings.record.venue
        row = recording_row(
            name, self._lake.home, venue, instruments, started_ns=started_ns, now_ns=started_ns
        )
        self._commits.register(name, row)

    async def _end(self, cause: str) -> None:
        """End the journal and drain what is pending; seal the recording if the lake has all of it."""
        self._intake.stop(cause)
        self._commits.cut()
        await self._commits.send(self._intake.journal)
        self._intake.journal.close()
        self._seal(self._intake.journal.folder)

    def _seal(self, folder: Path) -> None:
        name = folder.name
        is_unprocessed = self._intake.waiting is not None and folder == self._intake.journal.folder
        if self._commits.waiting or self._commits.is_behind or is_unprocessed:
            logger.warning("recording left unsealed", name=name, batches=self._commits.waiting)
            return
        (folder / SEALED).touch()
        counts = self._counts()
        logger.info("recording sealed", name=name, frames=counts.frames, trades=counts.trades)

    def _counts(self) -> Counts:
        return self._intake.pipeline.counts + self._sealed

    # While it runs.

    def _each_second(self) -> None:
        self._driver.steer()
        self._feed_watchdogs()
        if self._driver.has_timers and self._intake.waiting is None:
            self._renew_doubted()
        self._sample_status("recording")

    def _sample_status(self, state: RunState, error: str = "") -> None:
        self.vitals = self._sampler.sample(state, self._sockets, error)
        if self._on_vitals is not None:
            self._on_vitals(self.vitals)
        self._driver.write_status(self.vitals)

    def _feed_watchdogs(self) -> None:
        assert self._sockets is not None
        streams = self._intake.pipeline.state.take_streams()
        for (connection, channel, coin), (recv_ns, count) in streams.items():
            self._sockets.watchdogs.record_frames(channel, coin, recv_ns, count, connection=connection)

    def _renew_doubted(self) -> None:
        """Subscribe again to trades whose silence is doubted: what the venue resends may prove it."""
        assert self._sockets is not None
        silence = self._intake.pipeline.state.silence
        for renewal in silence.due_renewals(self._clock.now_ns()):
            coin = coin_of(renewal.instrument)
            if not self._sockets.renew(TRADES, coin):
                continue
            if renewal.is_repeated:
                logger.warning("trades still silent", coin=coin, cause=renewal.cause)
            else:
                logger.info("trades silent", coin=coin, cause=renewal.cause, action="subscribe again")

    def _on_flush(self) -> None:
        """Commit if bars were published; pause the sockets while too many frames wait."""
        bars = self._intake.pipeline.counts.bars
        if bars > self._bars_seen:
            self._driver.bars_published(self._new_bars)
        self._bars_seen = bars
        self._commits.cut_if_due()
        if self._sockets is not None and self._intake.waiting is not None:
            if self._intake.backlog_frames > _MOST_WAITING:
                self._sockets.pause()
        elif self._sockets is not None:
            self._sockets.resume()

    def _seen_until(self) -> int:
        """Return the time up to which the watchdogs have seen every frame."""
        if self._intake.waiting is None:
            self._intake.flush()
            self._feed_watchdogs()
            self._seen_until_ns = self._clock.now_ns()
        return self._seen_until_ns

    def _follow_listings(self) -> None:
        """Change the subscriptions after the venues have answered what they list."""
        if self._intake.waiting is not None or self._sockets is None:
            return
        registry = self._intake.pipeline.state.registry
        try:
            self._plans = plan_connections(self._settings, registry, self._plans)
        except TickwalkError as error:
            logger.warning("listings not followed", reason=str(error))
            return
        self._sockets.apply(self._plans)
