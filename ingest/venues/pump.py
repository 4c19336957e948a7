"""When does each block of a source go out, and what stops it?"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ingest.venues.board import Board
from ingest.venues.faults import GARBAGE, Disconnect, FaultPlan, Garbage
from ingest.venues.frames import CLOCK_FRAME, Block
from ingest.venues.market import Source
from ingest.venues.session import Session, Stats
from storage.clock import MS_NS, NS, TimeSource
from storage.logs import get_logger

logger = get_logger(__name__)

_LONGEST_NAP_S: Final = 0.05  # a TimeSource cannot wake us, so it is asked this often
_BLOCKS_A_TURN: Final = 64  # unpaced: blocks between two looks at the other tasks


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast blocks go out.

    Args:
        is_virtual: whether clock frames carry the time.
        speed: times as fast as the source's own time; 0 as fast as clients drain.
        streams: subscriptions without which time stands still (where it is paced, at the start only).
    """

    is_virtual: bool
    speed: float
    streams: int


class Pump:
    """The tape's progress, and the sessions that follow it."""

    def __init__(
        self,
        source: Source,
        pace: Pace,
        time_source: TimeSource,
        *,
        board: Board,
        plan: FaultPlan,
        stats: Stats,
    ) -> None:
        self.sessions: list[Session] = []
        self.clock_ns = source.start_ns
        self.lit = asyncio.Event()
        """Set while the venue takes connections."""
        self.ended = asyncio.Event()
        self._source = source
        self._pace = pace
        self._time = time_source
        self._board = board
        self._plan = plan
        self._stats = stats
        self._settled = asyncio.Event()
        self._dark_until_ms: float | None = None
        self._blocks: Iterator[Block] = iter(())

    def warm_up(self) -> None:
        """Fill the venue's memory with what happened before the first instant served."""
        blocks = self._source.blocks()
        start_ms = self._source.start_ns // MS_NS
        for block in blocks:
            if block.time_ms >= start_ms:
                self._blocks = itertools.chain((block,), blocks)
                break
            self._board.observe(block)
        self.lit.set()
        self.count_streams()

    def count_streams(self) -> None:
        """Note that subscriptions, or connections, have changed."""
        if sum(len(session.subscriptions) for session in self.sessions) >= self._pace.streams:
            self._settled.set()
        else:
            self._settled.clear()

    async def run(self, *, closes: bool) -> None:
        """Publish the source to its last block, then end the connections unless they are to be held."""
        first_due_ns = 0
        for number, block in enumerate(self._blocks):
            if number % _BLOCKS_A_TURN == 0:
                await asyncio.sleep(0)
            if self._dark_until_ms is not None:
                if block.time_ms < self._dark_until_ms:
                    await self._until_due(first_due_ns, block.clock_ns)
                    self._observe(block)
                    continue
                self._relight(self._dark_until_ms)
            if not self._pace.speed or not first_due_ns:
                await self._settled.wait()
            first_due_ns = first_due_ns or self._time.now_ns()
            await self._until_due(first_due_ns, block.clock_ns)
            await self._strike(block)
            self._observe(block)
            if self._dark_until_ms is None:
                await self._publish(block)
        await self._finish(closes=closes)

    async def _until_due(self, first_due_ns: int, clock_ns: int) -> None:
        """Wait until a receipt time is due; without a pace, return at once."""
        if not self._pace.speed:
            return
        due_ns = first_due_ns + round((clock_ns - self._source.start_ns) / self._pace.speed)
        while (left_ns := due_ns - self._time.now_ns()) > 0:  # noqa: ASYNC110 - the present has no event
            await asyncio.sleep(min(left_ns / NS, _LONGEST_NAP_S))

    def _observe(self, block: Block) -> None:
        self._board.observe(block)
        self.clock_ns = block.clock_ns
        for frame in block.frames:
            if frame.prints:
                self._stats.made[frame.coin] += len(frame.prints)

    async def _publish(self, block: Block) -> None:
        frames = self._plan.arrange(block)
        clock = CLOCK_FRAME % block.clock_ns if self._pace.is_virtual else None
        for session in tuple(self.sessions):
            await session.stream(frames, clock, slow=block.slow_book, fast=block.fast_book)

    async def _strike(self, block: Block) -> None:
        """Let the faults of this instant happen."""
        for fault in self._plan.strikes(block.time_ms):
            logger.info("fault", what=repr(fault))
            if isinstance(fault, Garbage):
                for session in tuple(self.sessions):
                    await session.send(GARBAGE[fault.kind], "garbage")
            else:
                await self._disconnect(fault, block)

    async def _disconnect(self, fault: Disconnect, block: Block) -> None:
        self._plan.release()
        self.lit.clear()
        self._dark_until_ms = block.time_ms + fault.outage_s * 1_000
        for session in tuple(self.sessions):
            if self._pace.is_virtual:
                await session.barrier()
            await session.close(clean=fault.clean)
        self.sessions.clear()
        self.count_streams()

    def _relight(self, dark_until_ms: float) -> None:
        self.clock_ns = max(self.clock_ns, round(dark_until_ms * MS_NS))
        self._dark_until_ms = None
        self.lit.set()

    async def _finish(self, *, closes: bool) -> None:
        rest = self._plan.release()
        self.clock_ns = max(self.clock_ns, (self._source.end_ns or self.clock_ns) + self._source.tail_ns)
        for session in tuple(self.sessions):
            await session.stream(rest, None, slow=False, fast=False)
            if self._pace.is_virtual:
                await session.send(CLOCK_FRAME % self.clock_ns, "tickwalkClock")
        self.ended.set()
        self.lit.set()
        logger.info("tape ended", prints=sum(self._stats.distinct.values()))
        if closes:
            for session in tuple(self.sessions):
                await session.close(clean=True)
