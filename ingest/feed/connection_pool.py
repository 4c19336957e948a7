"""How does one recorder keep all of its sockets, and change what they carry while they run?

One link a socket, one number a connection, unique and rising over all of them; one budget of messages and one of
handshakes, since the venue counts by address; one set of watchdogs, looked at once a second.
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
# Handshakes of one recorder never come closer than this: an upgrade cuts all sockets at one instant.
_STAGGER_S: Final = 0.1
_LOOK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class PoolState:
    """How the sockets stand, for people and metrics."""

    connections_open: int
    connections_wanted: int
    subscriptions_acked: int
    subscriptions_missing: int
    """Wanted, not confirmed and not refused, those of closed sockets among them."""
    refused: tuple[str, ...]
    """`channel coin` that Hyperliquid, and symbols that GaiaEx, said it has not."""


@dataclass(frozen=True, slots=True)
class RateLimiters:
    """What one address may ask of the venues; one recorder's share of it."""

    messages: RateLimiter
    handshakes: dict[Venue, RateLimiter]

    @classmethod
    def of(cls, settings: Settings) -> RateLimiters:
        """Return the budgets that the settings allow, divided among the shards."""
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
            plans: which sockets, and what they carry; `apply` changes it.
            sink: takes frames and the news of connections.
            settings: sections `record` and `gaiaex`.
            has_timers: ping, pace, watch; false where time is the venue's and not the wall's.
            ends_with_venue: `run` returns once the venue closed every Hyperliquid socket with code 1000.
            clock: the one that frames are stamped with; the wall's by default.
            seen_until: the instant up to which the watchdogs were told of all that was received, in nanoseconds of
                `clock`; by default the present, which is right where `heard` is told before the next look.
            first_connection: number of the first connection.
            random_source: draws the waits before reconnects.
            budgets: by default what the settings allow.
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
        self._links = {item.name: Connection(item, self._shared) for item in plans}
        self._group: asyncio.TaskGroup | None = None
        self._ended = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the sockets until `stop` is set, or the venue ends where that was asked.

        Raises:
            VenueError: an address is no WebSocket address.
            TickwalkError: what the sink raised.
        """
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for link in self._links.values():
                    self._start(link)
                watch = group.create_task(self._watch()) if self._has_timers else None
                await run_unless(stop, self._ended.wait())
                self._group = None
                self.resume()  # who is leaving must read the other side's farewell
                for link in self._links.values():
                    link.leave("stopped")
                if watch is not None:
                    watch.cancel()
        except ExceptionGroup as failures:
            raise _first(failures) from None
        finally:
            self._group = None

    def apply(self, plans: Sequence[ConnectionPlan]) -> None:
        """Change what is wanted: only the difference is said to the venue, and only sockets it touches are.

        A symbol that GaiaEx refused is tried again when it was absent from the plans in between.
        """
        wanted = {item.name: item for item in plans}
        for name in [name for name in self._links if name not in wanted]:
            self._links.pop(name).leave("no longer wanted")
        for name, item in wanted.items():
            link = self._links.get(name)
            if link is not None and link.plan.url == item.url:
                if link.plan != item:
                    link.want(item)
                continue
            if link is not None:
                link.leave("address changed")
            self._links[name] = Connection(item, self._shared)
            if self._group is not None:
                self._start(self._links[name])

    def pause(self) -> None:
        """Stop reading: the consumer lags. What the venue sends fills the system's buffers and then waits there."""
        self._set_paused(True)

    def resume(self) -> None:
        """Read on."""
        self._set_paused(False)

    @property
    def state(self) -> PoolState:
        """How the sockets stand."""
        links = self._links.values()
        refused = [
            f"{want.channel} {want.coin}".strip()
            for link in links
            for want in sorted_wants(link.desired.refused)
        ]
        return PoolState(
            connections_open=sum(link.is_open for link in links),
            connections_wanted=sum(not link.is_refused for link in links),
            subscriptions_acked=sum(len(link.desired.held) for link in links if link.is_open),
            subscriptions_missing=sum(
                len(link.desired.missing - link.desired.refused) if link.is_open else len(link.desired.wanted)
                for link in links
            ),
            refused=(*refused, *(link.plan.symbol for link in links if link.is_refused)),
        )

    # How.

    def _set_paused(self, is_paused: bool) -> None:
        if is_paused == self._shared.is_paused:
            return
        self._shared.is_paused = is_paused
        for link in self._links.values():
            link.pause(is_paused)

    def _start(self, link: Connection) -> None:
        assert self._group is not None
        link.start(self._group).add_done_callback(self._check_end)

    def _check_end(self, _: asyncio.Task[None]) -> None:
        feeds = [link for link in self._links.values() if link.plan.venue == "hyperliquid"]
        if self._ends_with_venue and feeds and all(link.has_ended for link in feeds):
            self._ended.set()

    async def _watch(self) -> None:
        """Look at the watchdogs, and do what they say."""
        record = self._shared.settings.record
        while True:
            await asyncio.sleep(min(_LOOK_S, record.silence_least_s / 4))
            if self._shared.is_paused:
                continue
            by_number = {link.number: link for link in self._links.values() if link.is_open}
            for event in self.watchdogs.look(self._seen_until()):
                self._act(event, by_number)

    def _act(self, event: Event, by_number: dict[int, Connection]) -> None:
        match event:
            case StaleStream():
                self._meet(event, by_number.get(event.connection))
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

    def _meet(self, silence: StaleStream, link: Connection | None) -> None:
        if link is None:
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
            link.cut(f"{about} silent for {silence.silent_s:.0f} s")
        else:
            link.renew(Subscription(silence.channel, silence.coin))


def sorted_wants(wants: frozenset[Subscription]) -> list[Subscription]:
    """Return subscriptions in a stable order."""
    return sorted(wants, key=lambda want: (want.channel, want.coin))


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of a group of groups."""
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
