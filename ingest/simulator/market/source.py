"""What a simulated venue needs of a market: listings and blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ingest.simulator.market.universe import SimulatedListing
from ingest.simulator.wire.encoder import Block, SimulatedFunding


class MarketSource(Protocol):
    """Something that can be served: a market, or a tape."""

    seed: int
    start_ns: int
    """First instant served; blocks before it only fill the venue's memory."""
    end_ns: int | None
    tail_ns: int
    """How far behind the end the last clock frame lies, so that a follower may close its last bar."""
    listings: tuple[SimulatedListing, ...]
    """The universe; empty where any coin may be asked for."""
    fundings: tuple[SimulatedFunding, ...]
    """What was paid before the first block."""
    makes_books: bool
    """Whether books and candles are made on demand, or come as frames of the blocks."""

    def blocks(self) -> Iterator[Block]:
        """Yield what is published, in order; once."""
