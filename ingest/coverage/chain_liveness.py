"""Chain liveness: halts of the blockchain below the venue, found by the explorer's block feed.

The explorer's socket announces every block. While it is open and answers pings but no block comes, the chain has
halted, and what is watched is a market that stands still. Blocks that continue while the venue's own sockets are down
show that the venue failed, and not the chain.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import Final

from ingest.coverage.ledger import CoverageLedger
from ingest.venues.hyperliquid.messages import ChainBlock
from storage.clock import MS_NS, NS

CHAIN_HALT: Final = "chain halt"
_MEMORY_BLOCKS: Final = 4_096
_ALIVE_NS: Final = 10 * NS


class ChainLiveness:
    """Blocks announced by the explorer; a pure function of its frames."""

    def __init__(self, ledger: CoverageLedger, scope: str, *, silence_ns: int) -> None:
        """Start without a block.

        Args:
            ledger: records halts.
            scope: prefix of the ids of the venue's instruments.
            silence_ns: the chain has halted when no block comes for this long.
        """
        self._ledger = ledger
        self._scope = scope
        self._silence_ns = silence_ns
        self._connection = -1
        self._blocks: deque[int] = deque(maxlen=_MEMORY_BLOCKS)
        self._recv_ns = 0
        self._pong_ns = 0
        self.height = 0

    def opened(self, connection: int, now_ns: int) -> None:
        """Note that the explorer's socket was opened."""
        self._connection, self._recv_ns = connection, now_ns

    def closed(self, connection: int, now_ns: int) -> None:
        """Note that the socket was lost: nothing is known of the chain until it is back."""
        if connection == self._connection:
            self._connection = -1
            self._ledger.resume(self._scope, now_ns, now_ns)

    def pong(self, now_ns: int) -> None:
        """Note that the socket answered a ping."""
        self._pong_ns = now_ns

    def add_blocks(self, blocks: list[ChainBlock], now_ns: int) -> None:
        """Add announced blocks, of which some may be known; a time ahead of our clock counts as now."""
        last_ns = self._blocks[-1] if self._blocks else 0
        times_ns = (min(block.block_time * MS_NS, now_ns) for block in blocks)
        new = sorted(at_ns for at_ns in times_ns if at_ns > last_ns)
        if new:
            self.height = max(block.height for block in blocks)
            self._blocks.extend(new)
            self._recv_ns = now_ns
            self._ledger.resume(self._scope, new[0], now_ns)

    def tick(self, now_ns: int) -> None:
        """Detect a halt."""
        is_watching = self._connection >= 0 and self._blocks and self._pong_ns > self._recv_ns
        if is_watching and now_ns - self._recv_ns > self._silence_ns:
            self._ledger.stall(self._scope, self._blocks[-1], CHAIN_HALT)

    def was_alive(self, from_ns: int, to_ns: int) -> bool:
        """Return whether blocks were made throughout, with no more than ten seconds between them."""
        inside = [from_ns, *(at for at in sorted(self._blocks) if from_ns < at < to_ns), to_ns]
        return len(inside) > 2 and max(b - a for a, b in pairwise(inside)) < _ALIVE_NS
