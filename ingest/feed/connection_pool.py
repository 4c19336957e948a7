"""All sockets of one recorder, and changes to their subscriptions while they run.

The pool has one `Connection` per socket of the plan, connection numbers that rise over all sockets, one rate limit of
messages and one of handshakes (the venue counts by address), and one stale-stream detector that is checked once a
second.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ingest.concurrency import run_unless
from ingest.feed.connection import Connection
from ingest.feed.connection_context import ConnectionContext, Receiver
from ingest.feed.rate_limiter import RateLimiter, RateLimitRule
from ingest.feed.stale_streams import Event, PaceChange, StaleStream, StaleStreamDetector, StreamRecovered
from ingest.feed.subscription_plan import ConnectionPlan, Subscription, Venue
from ingest.sharding import parse_shard
from storage.clock import TimeSource, WallTime
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)

_MESSAGES_PER_MINUTE: Final = 2000
# Least distance of two handshakes of one recorder, since an upgrade cuts all sockets at one instant.
_STAGGER_S: Final = 0.1
_CHECK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class PoolState:
    """Counts of connections and subscriptions, for status and metrics."""

    connections_open: int
    connections_wanted: int
    subscriptions_acked: int
    subscriptions_missing: int
    """Wanted but neither confirmed nor refused; includes those of closed sockets."""
    refused: tuple[str, ...]
    """Refused by the venue: `channel coin` at Hyperliquid, symbols at GaiaEx."""


@dataclass(frozen=True, slots=True)
class RateLimiters:
    """Rate limits of one recorder: its share of what the venues allow an address."""

    messages: RateLimiter
    handshakes: dict[Venue, RateLimiter]

    @classmethod
    def of(cls, settings: Settings) -> RateLimiters:
        """Return the limits that the settings allow, divided among the shards."""
        record, (_, parts) = settings.record, parse_shard(settings.record.shard)
        hyperliquid = RateLimiter(
            RateLimitRule(max(1, record.handshakes_per_minute // parts), 60.0), RateLimitRule(1, _STAGGER_S)
        )
        return cls(
            RateLimiter(
                RateLimitRule(max(1, record.messages_per_s // parts), 1.0),
                RateLimitRule(max(1, _MESSAGES_PER_MINUTE // parts), 60.0),
            ),
            {
                "hyperliquid": hyperliquid,
                "chain": hyperliquid,
                "gaiaex": RateLimiter(RateLimitRule(1, parts / settings.gaiaex.handshakes_per_s)),
            },
        )


class ConnectionPool:
    """All sockets of one recorder."""

    def __init__(
        self,
        plans: Sequence[ConnectionPlan],
        sink: Receiver,
        settings: Settings,
        *,
        # Time.
        has_timers: bool = True,
        ends_with_venue: bool = False,
        clock: TimeSource | None = None,
        seen_until: Callable[[], int] | None = None,
        # Numbers.
        first_connection: int = 0,
        random_source: random.Random | None = None,
        # Limits.
        budgets: RateLimiters | None = None,
    ) -> None:
        """Prepare the sockets; `run` connects them.

        Args:
            plans: sockets and their subscriptions; `apply` changes them.
            sink: receives frames, and opened and closed connections.
            settings: sections `record` and `gaiaex`.
            has_timers: ping, limit rates and check for stale streams; false where the venue's clock drives time.
            ends_with_venue: `run` returns once the venue closed every Hyperliquid socket with code 1000.
            clock: stamps frames (default: wall clock).
            seen_until: returns the time up to which all received frames were reported to the watchdogs, in
                nanoseconds of `clock` (default: the present, right if `record_frames` precedes each check).
            first_connection: number of the first connection.
            random_source: for the waits before reconnects.
            budgets: rate limits (default: by the settings).
        """
        self.watchdogs = StaleStreamDetector(settings.record)
        clock = clock or WallTime()
        self._seen_until = seen_until or clock.now_ns
        self._has_timers = has_timers
        self._ends_with_venue = ends_with_venue
        budgets = budgets or RateLimiters.of(settings)
        self._shared = ConnectionContext(
            settings=settings,
            sink=sink,
            messages=budgets.messages,
            handshakes=budgets.handshakes,
            watchdogs=self.watchdogs,
            random_source=random_source or random.Random(),
            clock=clock,
            next_number=itertools.count(first_connection).__next__,
            has_timers=has_timers,
            ends_with_venue=ends_with_venue,
        )
        self._connections = {item.name: Connection(item, self._shared) for item in plans}
        self._group: asyncio.TaskGroup | None = None
        self._ended = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Run the sockets until `stop` is set, or until the venue ends (with `ends_with_venue`).

        Raises:
            VenueError: an address is not a WebSocket address.
            TickwalkError: what the sink raised.
        """
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for connection in self._connections.values():
                    self._start(connection)
                watch = group.create_task(self._check_streams()) if self._has_timers else None
                await run_unless(stop, self._ended.wait())
                self._group = None
                self.resume()  # a closing connection must read the other side's close frame
                for connection in self._connections.values():
                    connection.close("stopped")
                if watch is not None:
                    watch.cancel()
        except ExceptionGroup as failures:
            raise _first(failures) from None
        finally:
            self._group = None

    def apply(self, plans: Sequence[ConnectionPlan]) -> None:
        """Apply new plans: only differences are sent to the venue, and only affected sockets change.

        A symbol that GaiaEx refused is tried again after it was absent from the plans.
        """
        wanted = {item.name: item for item in plans}
        for name in [name for name in self._connections if name not in wanted]:
            self._connections.pop(name).close("no longer wanted")
        for name, item in wanted.items():
            connection = self._connections.get(name)
            if connection is not None and connection.plan.url == item.url:
                if connection.plan != item:
                    connection.update_plan(item)
                continue
            if connection is not None:
                connection.close("address changed")
            self._connections[name] = Connection(item, self._shared)
            if self._group is not None:
                self._start(self._connections[name])

    def renew(self, channel: str, coin: str) -> bool:
        """Subscribe again to a stream, on one of the connections that carry it; return whether one does."""
        subscription = Subscription(channel, coin)
        carriers = (connection for connection in self._connections.values() if connection.is_open)
        return any(connection.renew(subscription) for connection in carriers)

    def pause(self) -> None:
        """Stop reading, since the consumer lags. Data of the venue then waits in the system's buffers."""
        self._set_paused(True)

    def resume(self) -> None:
        """Resume reading."""
        self._set_paused(False)

    @property
    def state(self) -> PoolState:
        """Present counts of connections and subscriptions."""
        connections = self._connections.values()
        refused = [
            f"{want.channel} {want.coin}".strip()
            for connection in connections
            for want in sorted_wants(connection.subscriptions.refused)
        ]
        return PoolState(
            connections_open=sum(connection.is_open for connection in connections),
            connections_wanted=sum(not connection.is_refused for connection in connections),
            subscriptions_acked=sum(
                len(connection.subscriptions.confirmed) for connection in connections if connection.is_open
            ),
            subscriptions_missing=sum(
                len(connection.subscriptions.missing - connection.subscriptions.refused)
                if connection.is_open
                else len(connection.subscriptions.wanted)
                for connection in connections
            ),
            refused=(
                *refused,
                *(connection.plan.symbol for connection in connections if connection.is_refused),
            ),
        )

    def _set_paused(self, is_paused: bool) -> None:
        if is_paused == self._shared.is_paused:
            return
        self._shared.is_paused = is_paused
        for connection in self._connections.values():
            connection.pause(is_paused)

    def _start(self, connection: Connection) -> None:
        assert self._group is not None
        connection.start(self._group).add_done_callback(self._check_end)

    def _check_end(self, _: asyncio.Task[None]) -> None:
        feeds = [
            connection for connection in self._connections.values() if connection.plan.venue == "hyperliquid"
        ]
        if self._ends_with_venue and feeds and all(connection.has_ended for connection in feeds):
            self._ended.set()

    async def _check_streams(self) -> None:
        """Check for stale streams, and act on what is found."""
        record = self._shared.settings.record
        while True:
            await asyncio.sleep(min(_CHECK_S, record.silence_least_s / 4))
            if self._shared.is_paused:
                continue
            by_number = {
                connection.number: connection
                for connection in self._connections.values()
                if connection.is_open
            }
            for event in self.watchdogs.check(self._seen_until()):
                self._handle_event(event, by_number)

    def _handle_event(self, event: Event, by_number: dict[int, Connection]) -> None:
        match event:
            case StaleStream():
                self._handle_silence(event, by_number.get(event.connection))
            case StreamRecovered():
                logger.info(
                    "stream recovered", channel=event.channel, coin=event.coin, connection=event.connection
                )
            case PaceChange() if event.is_over:
                logger.info("book cadence restored", channel=event.channel, measured_s=event.measured_s)
            case PaceChange():
                logger.warning(
                    "book cadence drifted",
                    channel=event.channel,
                    expected_s=event.expected_s,
                    measured_s=event.measured_s,
                )

    def _handle_silence(self, silence: StaleStream, connection: Connection | None) -> None:
        if connection is None:
            return
        about = f"{silence.channel} {silence.coin}".strip()
        if silence.is_news:
            logger.info(
                "stream silent",
                channel=silence.channel,
                coin=silence.coin,
                connection=silence.connection,
                silent_s=silence.silent_s,
                allowed_s=silence.allowed_s,
                action="reconnect" if silence.is_lost else "subscribe again",
            )
        if silence.is_lost:
            connection.cut(f"{about} silent for {silence.silent_s:.0f} s")
        else:
            connection.renew(Subscription(silence.channel, silence.coin))


def sorted_wants(wants: frozenset[Subscription]) -> list[Subscription]:
    """Return subscriptions in a stable order."""
    return sorted(wants, key=lambda want: (want.channel, want.coin))


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of a group of groups."""
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
