"""When does each block of a source go out, and what stops it?"""

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
_LONGEST_NAP_S: Final = 0.05  # a TimeSource cannot wake us, so it is asked this often
_BLOCKS_A_TURN: Final = 64  # unpaced: blocks between two looks at the other tasks
_ALIGNED_NS: Final = 60 * NS  # a source that began so recently is served on the clock's own time


@dataclass(frozen=True, slots=True)
class PublishPace:
    """How fast blocks go out.

    Args:
        is_virtual: whether clock frames carry the time.
        speed: times as fast as the source's own time; 0 as fast as clients drain.
        streams: subscriptions without which time stands still (where it is paced, at the start only).
    """

    is_virtual: bool
    speed: float
    streams: int


class Publisher:
    """The tape's progress, and the lines that follow it."""

    def __init__(
        self,
        source: MarketSource,
        pace: PublishPace,
        time_source: TimeSource,
        *,
        board: MarketState,
        wide: VenueWide,
        plan: FaultInjector,
        relay: GaiaexRelay,
        stats: VenueStats,
    ) -> None:
        self.lines: list[VenueConnection] = []
        self.clock_ns = source.start_ns
        self.lit = {feed: asyncio.Event() for feed in FEEDS}
        """Each set while the venue takes connections of that feed."""
        self.ended = asyncio.Event()
        self._source = source
        self._pace = pace
        self._time = time_source
        self._board = board
        self._wide = wide
        self._plan = plan
        self._relay = relay
        self._stats = stats
        self._settled = asyncio.Event()
        self._dark_until_s: dict[FeedName, float] = {}
        self._first_due_ns = 0
        self._last_second = 0
        self._blocks: Iterator[Block] = iter(())

    def warm_up(self) -> None:
        """Fill the venue's memory with what happened before the first instant served."""
        blocks = self._source.blocks()
        start_ms = self._source.start_ns // MS_NS
        for block in blocks:
            if block.time_ms >= start_ms:
                self._blocks = itertools.chain((block,), blocks)
                break
            past = self._board.schedule.apply_past(block)
            self._wide.observe(past)
            self._relay.observe(past)
            deque(self._relay.due(block.clock_ns, is_past=True), maxlen=0)
        self._board.now_ms = start_ms
        for feed in FEEDS:
            self.lit[feed].set()
        self.count_streams()

    def count_streams(self) -> None:
        """Note that subscriptions, or connections, have changed."""
        if sum(line.streams for line in self.lines) >= self._pace.streams:
            self._settled.set()
        else:
            self._settled.clear()

    def status_ms(self) -> int:
        """Return the venue's present: where it is paced the clock's, else the newest block's."""
        if not self._pace.speed or not self._first_due_ns or self._board.schedule.is_halted:
            return self._board.now_ms
        since_ns = round((self._time.now_ns() - self._first_due_ns) * self._pace.speed)
        return (self._source.start_ns + since_ns) // MS_NS + self._board.schedule.offset_ms

    async def run(self, *, closes: bool) -> None:
        """Publish the source to its last block, then end the connections unless they are to be held."""
        for number, block in enumerate(self._blocks):
            if number % _BLOCKS_A_TURN == 0:
                await asyncio.sleep(0)
            now_s = (block.time_ms - self._source.start_ns // MS_NS) / 1_000
            self._plan.advance(now_s)
            self._board.schedule.advance(now_s)
            self._relight(now_s)
            if not self._dark_until_s and (not self._pace.speed or not self._first_due_ns):
                await self._settled.wait()
            self._first_due_ns = self._first_due_ns or self._begin_ns()
            clock_ns = max(block.clock_ns + self._plan.lag_ns(), self.clock_ns)
            await self._relay_until(clock_ns)
            await self._until_due(clock_ns)
            await self._strike(now_s)
            self.clock_ns = clock_ns
            if self._board.schedule.is_halted:
                await self._stand_still()
                continue
            changed = self._board.schedule.apply(block)
            self._observe(changed)
            await self._publish(changed)
        await self._finish(closes=closes)

    def _begin_ns(self) -> int:
        """Return the instant of the time source at which the source's first instant is due."""
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
        """Send a block; a feed that is dark has no lines, and uses up no faults."""
        frames = self._plan.arrange(block.frames) if self.lit["hyperliquid"].is_set() else block.frames
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
        for line in tuple(self.lines):
            await line.stream(frames, clock, due)

    async def _stand_still(self) -> None:
        """Let time go on where no block is made: only the virtual clock, and the relay's signs of life."""
        if self._pace.is_virtual:
            for line in tuple(self.lines):
                if line.feed != "gaiaex":
                    await line.send_clock(self.clock_ns)

    async def _relay_until(self, clock_ns: int) -> None:
        """Send what the relay shows up to an instant, then its other news."""
        lines = [line for line in self.lines if isinstance(line, GaiaexSession)]
        for shown in self._relay.due(clock_ns):
            heard = [line for line in lines if line.symbol == shown.symbol]
            if not heard:
                continue
            await self._until_due(shown.due_ns)
            self.clock_ns = max(self.clock_ns, shown.due_ns)
            for line in heard:
                if self._pace.is_virtual:
                    await line.send_clock(self.clock_ns)
                await line.send_book()
        beats = self._relay.beats(clock_ns)
        news = [line for line in lines if line.has_news(beats=beats)]
        if news:
            await self._until_due(clock_ns)
            self.clock_ns = clock_ns
        for line in news:
            if self._pace.is_virtual:
                await line.send_clock(self.clock_ns)
            await line.turn(self.clock_ns, beats=beats)

    async def _strike(self, now_s: float) -> None:
        """Let the faults of this instant happen."""
        for fault in self._plan.strikes():
            logger.info("fault", what=repr(fault))
            match fault:
                case Garbage():
                    for line in self._lines_of("hyperliquid"):
                        await line.send(GARBAGE[fault.kind], "garbage")
                case Outage():
                    await self._darken(("hyperliquid",), now_s + fault.for_s)
                case Disconnect(socket=None):
                    await self._darken(FEEDS, now_s + fault.outage_s, clean=fault.clean)
                case Disconnect(socket=number):
                    assert number is not None
                    await self._cut(self._lines_of("hyperliquid")[number : number + 1], clean=fault.clean)

    def _lines_of(self, feed: FeedName) -> list[VenueConnection]:
        return [line for line in self.lines if line.feed == feed]

    async def _darken(self, feeds: tuple[FeedName, ...], until_s: float, *, clean: bool = False) -> None:
        """Cut feeds, and take no connection of them until an instant of the tape."""
        self._plan.release()
        for feed in feeds:
            self.lit[feed].clear()
            self._dark_until_s[feed] = until_s
        await self._cut([line for line in self.lines if line.feed in feeds], clean=clean)

    async def _cut(self, lines: list[VenueConnection], *, clean: bool) -> None:
        for line in lines:
            if self._pace.is_virtual:
                await line.barrier()
            await line.close(clean=clean)
        self.lines = [line for line in self.lines if line not in lines]
        self.count_streams()

    def _relight(self, now_s: float) -> None:
        """Take connections again where an outage is over."""
        for feed, until_s in tuple(self._dark_until_s.items()):
            if now_s >= until_s:
                self.clock_ns = max(self.clock_ns, self._source.start_ns + round(until_s * NS))
                del self._dark_until_s[feed]
                self.lit[feed].set()

    async def _finish(self, *, closes: bool) -> None:
        rest = self._plan.release()
        self.clock_ns = max(self.clock_ns, (self._source.end_ns or self.clock_ns) + self._source.tail_ns)
        for line in tuple(self.lines):
            await line.stream(rest, None, Due())
            if self._pace.is_virtual:
                await line.send_clock(self.clock_ns)
        self.ended.set()
        for feed in FEEDS:
            self.lit[feed].set()
        logger.info("tape ended", prints=sum(self._stats.distinct.values()))
        if closes:
            for line in tuple(self.lines):
                await line.close(clean=True)
