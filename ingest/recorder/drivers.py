"""Drivers of a recorder: real time, and the virtual time of a simulated venue.

In real time frames are journalled while the tables catch up, batches are cut by the clock, and timers reconnect, poll
and rotate. In virtual time the venue's frames move the clock: batches are cut by the number of frames and nothing
depends on how fast the machine is, so that every run writes the same batches.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from ingest.feed.rest_client import RestClient
from ingest.journal.retention import run_retention
from ingest.recorder.frame_sink import FrameSink
from ingest.recorder.heartbeat import clear_heartbeats, write_heartbeat
from ingest.recorder.ntp import watch_clock
from ingest.recorder.polling import Poller
from ingest.recorder.status import RecorderStatus
from ingest.recorder.steady_clock import SteadyTime
from ingest.recorder.tasks import TaskContext, flush_loop, rotate_loop
from ingest.venues.hyperliquid.protocol import parse_venue_time_ns
from storage.clock import ManualTime, TimeSource, WallTime
from storage.errors import JournalError
from storage.settings import Settings

Action = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class RecorderActions:
    """What the tasks of a driver do to their recorder.

    Args:
        catch_up: replay unsealed recordings, then start to process frames.
        rotate: seal the recording and begin the next one.
        follow_listings: subscribe to new listings, and unsubscribe from delisted ones.
    """

    catch_up: Action
    rotate: Action
    follow_listings: Callable[[], None]


class RecorderDriver(Protocol):
    """The clock of a recorder, and what depends on the kind of time it runs in."""

    @property
    def clock(self) -> TimeSource:
        """The clock that stamps what is received."""

    @property
    def venue_time(self) -> ManualTime | None:
        """The clock that the venue's clock frames move; None in real time."""

    @property
    def has_timers(self) -> bool:
        """Whether timers run, and batches are cut by them."""

    async def set_clock(self, rest: RestClient) -> None:
        """Set the clock before anything is recorded."""

    def prepare(self) -> None:
        """Prepare the home for a recording."""

    async def before_connecting(self, catch_up: Action) -> None:
        """Called before the sockets are opened."""

    def start_tasks(
        self, group: asyncio.TaskGroup, context: TaskContext, rest: RestClient, actions: RecorderActions, /
    ) -> list[asyncio.Task[None]]:
        """Start the tasks of this kind of time; return those that can be cancelled at the end."""

    def before_sync(self, intake: FrameSink) -> None:
        """Called before each sync of the journal."""

    def bars_published(self, new_bars: asyncio.Event) -> None:
        """Called after bars were published; `new_bars` makes them be committed at once."""

    def steer(self) -> None:
        """Correct the clock; called once a second."""

    def write_status(self, vitals: RecorderStatus) -> None:
        """Write the status where other processes read it; called once a second."""


class RealTimeDriver:
    """Records by the machine's clock."""

    has_timers = True
    venue_time: ManualTime | None = None

    def __init__(self, settings: Settings, wall: TimeSource | None = None) -> None:
        """Start the clock.

        Args:
            settings: intervals, addresses and limits.
            wall: a clock that may be set while we record (default: the machine's).
        """
        self._settings = settings
        self._wall = wall or WallTime()
        self._steady = SteadyTime(wall.now_ns) if wall else SteadyTime()

    @property
    def clock(self) -> TimeSource:
        """The steady clock."""
        return self._steady

    async def set_clock(self, rest: RestClient) -> None:
        """Do nothing: the clock follows the machine's."""

    def prepare(self) -> None:
        """Remove heartbeats of recordings of this shard that have ended."""
        clear_heartbeats(self._settings, shard=self._settings.record.shard, now_ns=time.time_ns())

    async def before_connecting(self, catch_up: Action) -> None:
        """Do nothing: a task catches up while frames are journalled."""

    def start_tasks(
        self, group: asyncio.TaskGroup, context: TaskContext, rest: RestClient, actions: RecorderActions, /
    ) -> list[asyncio.Task[None]]:
        """Start catching up, the timed loops and the polls; return the polls."""
        group.create_task(actions.catch_up())
        group.create_task(flush_loop(context))
        group.create_task(rotate_loop(context, actions.rotate))
        record, ending = self._settings.record, context.ending
        poller = Poller(self._settings, rest, context.intake, ending)
        clock = watch_clock(
            context.intake,
            ending,
            server=record.ntp_server,
            every_s=record.clock_check_s,
            clock=self._wall,
        )
        polls = (
            poller.listings(actions.follow_listings),
            poller.venue_clock(),
            poller.repairs(),
            poller.gaia_state(),
            clock,
            run_retention(self._settings, ending),
        )
        return [group.create_task(poll) for poll in polls]

    def before_sync(self, intake: FrameSink) -> None:
        """Flush, so that what came since the last flush does not wait for another round."""
        intake.flush()

    def bars_published(self, new_bars: asyncio.Event) -> None:
        """Have the bars committed at once."""
        new_bars.set()

    def steer(self) -> None:
        """Steer the steady clock towards the machine's."""
        self._steady.steer()

    def write_status(self, vitals: RecorderStatus) -> None:
        """Write the heartbeat file."""
        with contextlib.suppress(JournalError):  # a missing heartbeat is what alerts
            write_heartbeat(self._settings, vitals)


class VirtualTimeDriver:
    """Records by the clock of a simulated venue."""

    has_timers = False

    def __init__(self) -> None:
        self._venue_time = ManualTime()

    @property
    def clock(self) -> TimeSource:
        """The venue's clock."""
        return self._venue_time

    @property
    def venue_time(self) -> ManualTime | None:
        """The venue's clock, which its clock frames move."""
        return self._venue_time

    async def set_clock(self, rest: RestClient) -> None:
        """Set the clock to the venue's."""
        status = await rest.ask({"type": "exchangeStatus"})
        self._venue_time.advance_to(parse_venue_time_ns(status.body))

    def prepare(self) -> None:
        """Do nothing: no heartbeat is written."""

    async def before_connecting(self, catch_up: Action) -> None:
        """Catch up first: in virtual time no frame is missed meanwhile."""
        await catch_up()

    def start_tasks(self, *_: object) -> list[asyncio.Task[None]]:
        """Start nothing: what a timer decides would differ from run to run."""
        return []

    def before_sync(self, intake: FrameSink) -> None:
        """Do nothing: frames are flushed by their number."""

    def bars_published(self, new_bars: asyncio.Event) -> None:
        """Do nothing: batches are cut by the number of frames."""

    def steer(self) -> None:
        """Do nothing: the venue moves the clock."""

    def write_status(self, vitals: RecorderStatus) -> None:
        """Do nothing: no other process follows a virtual recorder."""


def make_driver(settings: Settings, wall: TimeSource | None = None) -> RecorderDriver:
    """Return the driver that `record.clock` asks for."""
    return VirtualTimeDriver() if settings.record.clock == "venue" else RealTimeDriver(settings, wall)
