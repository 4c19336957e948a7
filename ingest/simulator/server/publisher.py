"""Publication of a source block by block: pacing, outages and connected clients."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ingest.simulator.faults.faults import GARBAGE, Disconnect, FeedName, Garbage, Outage
from ingest.simulator.faults.injector import FaultInjector
from ingest.simulator.market.source import MarketSource
from ingest.simulator.server.connection import Due, VenueConnection, VenueStats
from ingest.simulator.server.gaiaex_relay import GaiaexRelay
from ingest.simulator.server.gaiaex_session import GaiaexSession
from ingest.simulator.server.market_state import MarketState
from ingest.simulator.server.venue_wide import VenueWide
from ingest.simulator.wire.encoder import CLOCK_FRAME, Block
from storage.clock import MS_NS, NS, TimeSource
from storage.logs import get_logger

logger = get_logger(__name__)

FEEDS: Final[tuple[FeedName, ...]] = ("hyperliquid", "explorer", "gaiaex")
_LAST_STEP_S: Final = 3
"""Last second of a minute at whose start sockets of several feeds are kept in step."""
_LONGEST_NAP_S: Final = 0.05  # a TimeSource cannot wake us, so it is polled this often
_BLOCKS_A_TURN: Final = 64  # without a pace: blocks between two yields to other tasks
_ALIGNED_NS: Final = 60 * NS  # a source that began so recently is served in the clock's own time


@dataclass(frozen=True, slots=True)
class PublishPace:
    """Pace of publication.

    Args:
        is_virtual: whether clock frames carry the time.
        speed: factor on the source's own time (0: as fast as clients read).
        streams: number of subscriptions that time waits for (with a speed, at the start only).
    """

    is_virtual: bool
    speed: float
    streams: int


class Publisher:
    """Progress of the source, and the connections that receive it."""

    def __init__(
        self,
        source: MarketSource,
        pace: PublishPace,
        time_source: TimeSource,
        *,
        market: MarketState,
        wide: VenueWide,
        injector: FaultInjector,
        relay: GaiaexRelay,
        stats: VenueStats,
    ) -> None:
        self.connections: list[VenueConnection] = []
        self.clock_ns = source.start_ns
        self.accepting = {feed: asyncio.Event() for feed in FEEDS}
        """Each set while the venue accepts connections of that feed."""
        self.ended = asyncio.Event()
        self._source = source
        self._pace = pace
        self._time = time_source
        self._market = market
        self._wide = wide
        self._injector = injector
        self._relay = relay
        self._stats = stats
        self._settled = asyncio.Event()
        self._down_until_s: dict[FeedName, float] = {}
        self._first_due_ns = 0
        self._last_second = 0
        self._blocks: Iterator[Block] = iter(())

    def warm_up(self) -> None:
        """Fill the state with the blocks before the first instant served."""
        blocks = self._source.blocks()
        start_ms = self._source.start_ns // MS_NS
        for block in blocks:
            if block.time_ms >= start_ms:
                self._blocks = itertools.chain((block,), blocks)
                break
            past = self._market.schedule.apply_past(block)
            self._wide.observe(past)
            self._relay.observe(past)
            deque(self._relay.due(block.clock_ns, is_past=True), maxlen=0)
        self._market.now_ms = start_ms
        for feed in FEEDS:
            self.accepting[feed].set()
        self.count_streams()

    def count_streams(self) -> None:
        """Update the state after a change of subscriptions or connections."""
        if sum(connection.streams for connection in self.connections) >= self._pace.streams:
            self._settled.set()
        else:
            self._settled.clear()

    def status_ms(self) -> int:
        """Return the venue's time: by the clock with a pace, else of the newest block."""
        if not self._pace.speed or not self._first_due_ns or self._market.schedule.is_halted:
            return self._market.now_ms
        since_ns = round((self._time.now_ns() - self._first_due_ns) * self._pace.speed)
        return (self._source.start_ns + since_ns) // MS_NS + self._market.schedule.offset_ms

    async def run(self, *, closes: bool) -> None:
        """Publish the source to its last block, then close the connections if `closes`."""
        for number, block in enumerate(self._blocks):
            if number % _BLOCKS_A_TURN == 0:
                await asyncio.sleep(0)
            now_s = (block.time_ms - self._source.start_ns // MS_NS) / 1_000
            self._injector.advance(now_s)
            self._market.schedule.advance(now_s)
            self._bring_up(now_s)
            if not self._down_until_s and (not self._pace.speed or not self._first_due_ns):
                await self._settled.wait()
            self._first_due_ns = self._first_due_ns or self._begin_ns()
            clock_ns = max(block.clock_ns + self._injector.lag_ns(), self.clock_ns)
            await self._keep_in_step(clock_ns)
            await self._publish_relay_until(clock_ns)
            await self._until_due(clock_ns)
            await self._apply_faults(now_s)
            self.clock_ns = clock_ns
            if self._market.schedule.is_halted:
                await self._send_clock_only()
                continue
            changed = self._market.schedule.apply(block)
            self._observe(changed)
            await self._publish(changed)
        await self._finish(closes=closes)

    async def _keep_in_step(self, clock_ns: int) -> None:
        """Wait until everything is read, where the virtual clock moves on sockets of both feeds.

        It is done in the first seconds of each minute, when bars are published. Otherwise one socket may be minutes
        ahead of another, which then looks silent.
        """
        second = clock_ns // NS
        if not self._pace.is_virtual or second == self.clock_ns // NS or second % 60 > _LAST_STEP_S:
            return
        if len({connection.feed for connection in self.connections}) > 1:
            await asyncio.gather(*(connection.barrier() for connection in self.connections))

    def _begin_ns(self) -> int:
        """Return the clock time at which the first instant of the source is due."""
        now_ns = self._time.now_ns()
        is_now = self._pace.speed == 1.0 and 0 <= now_ns - self._source.start_ns <= _ALIGNED_NS
        return self._source.start_ns if is_now else now_ns

    async def _until_due(self, clock_ns: int) -> None:
        """Wait until a receipt time is due; without a pace, return at once."""
        if not self._pace.speed:
            return
        due_ns = self._first_due_ns + round((clock_ns - self._source.start_ns) / self._pace.speed)
        while (left_ns := due_ns - self._time.now_ns()) > 0:  # noqa: ASYNC110 - the present has no event
            await asyncio.sleep(min(left_ns / NS, _LONGEST_NAP_S))

    def _observe(self, block: Block) -> None:
        self._wide.observe(block)
        self._relay.observe(block)
        for frame in block.frames:
            if frame.prints:
                self._stats.made[frame.coin] += len(frame.prints)

    async def _publish(self, block: Block) -> None:
        """Send a block; a feed that is down has no connections, and uses up no faults."""
        frames = (
            self._injector.arrange(block.frames) if self.accepting["hyperliquid"].is_set() else block.frames
        )
        second = block.time_ms // 1_000
        due = Due(
            slow=block.slow_book,
            fast=block.fast_book,
            second=second != self._last_second,
            block=True,
            contexts=any(frame.channel in ("activeAssetCtx", "activeSpotAssetCtx") for frame in block.frames),
        )
        self._last_second = second
        clock = CLOCK_FRAME % self.clock_ns if self._pace.is_virtual else None
        for connection in tuple(self.connections):
            await connection.stream(frames, clock, due)

    async def _send_clock_only(self) -> None:
        """Advance time without a block: only the virtual clock and the relay's heartbeats."""
        if self._pace.is_virtual:
            for connection in tuple(self.connections):
                if connection.feed != "gaiaex":
                    await connection.send_clock(self.clock_ns)

    async def _publish_relay_until(self, clock_ns: int) -> None:
        """Send the relay's books up to an instant, then its other updates."""
        connections = [connection for connection in self.connections if isinstance(connection, GaiaexSession)]
        for shown in self._relay.due(clock_ns):
            receivers = [connection for connection in connections if connection.symbol == shown.symbol]
            if not receivers:
                continue
            await self._until_due(shown.due_ns)
            self.clock_ns = max(self.clock_ns, shown.due_ns)
            for connection in receivers:
                if self._pace.is_virtual:
                    await connection.send_clock(self.clock_ns)
                await connection.send_book()
        beats = self._relay.beats(clock_ns)
        updated = [connection for connection in connections if connection.has_updates(beats=beats)]
        if updated:
            await self._until_due(clock_ns)
            self.clock_ns = clock_ns
        for connection in updated:
            if self._pace.is_virtual:
                await connection.send_clock(self.clock_ns)
            await connection.send_updates(self.clock_ns, beats=beats)

    async def _apply_faults(self, now_s: float) -> None:
        """Apply the faults of this instant."""
        for fault in self._injector.due_faults():
            logger.info("fault", what=repr(fault))
            match fault:
                case Garbage():
                    for connection in self._lines_of("hyperliquid"):
                        await connection.send(GARBAGE[fault.kind], "garbage")
                case Outage():
                    await self._take_down(("hyperliquid",), now_s + fault.for_s)
                case Disconnect(socket=None):
                    await self._take_down(FEEDS, now_s + fault.outage_s, clean=fault.clean)
                case Disconnect(socket=number):
                    assert number is not None
                    await self._cut(self._lines_of("hyperliquid")[number : number + 1], clean=fault.clean)

    def _lines_of(self, feed: FeedName) -> list[VenueConnection]:
        return [connection for connection in self.connections if connection.feed == feed]

    async def _take_down(self, feeds: tuple[FeedName, ...], until_s: float, *, clean: bool = False) -> None:
        """Close all connections of feeds, and accept none until a time of the source."""
        self._injector.release()
        for feed in feeds:
            self.accepting[feed].clear()
            self._down_until_s[feed] = until_s
        await self._cut(
            [connection for connection in self.connections if connection.feed in feeds], clean=clean
        )

    async def _cut(self, connections: list[VenueConnection], *, clean: bool) -> None:
        for connection in connections:
            if self._pace.is_virtual:
                await connection.barrier()
            await connection.close(clean=clean)
        self.connections = [connection for connection in self.connections if connection not in connections]
        self.count_streams()

    def _bring_up(self, now_s: float) -> None:
        """Accept connections again after an outage."""
        for feed, until_s in tuple(self._down_until_s.items()):
            if now_s >= until_s:
                self.clock_ns = max(self.clock_ns, self._source.start_ns + round(until_s * NS))
                del self._down_until_s[feed]
                self.accepting[feed].set()

    async def _finish(self, *, closes: bool) -> None:
        rest = self._injector.release()
        self.clock_ns = max(self.clock_ns, (self._source.end_ns or self.clock_ns) + self._source.tail_ns)
        for connection in tuple(self.connections):
            await connection.stream(rest, None, Due())
            if self._pace.is_virtual:
                await connection.send_clock(self.clock_ns)
        self.ended.set()
        for feed in FEEDS:
            self.accepting[feed].set()
        logger.info("tape ended", prints=sum(self._stats.distinct.values()))
        if closes:
            for connection in tuple(self.connections):
                await connection.close(clean=True)
