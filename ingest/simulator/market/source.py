"""The interface of a market source: listings and blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ingest.simulator.market.universe import SimulatedListing
from ingest.simulator.wire.encoder import Block, SimulatedFunding


class MarketSource(Protocol):
    """A source that a simulated venue can serve."""

    seed: int
    start_ns: int
    """First instant served; earlier blocks only fill the venue's state."""
    end_ns: int | None
    tail_ns: int
    """Distance of the last clock frame from the end, so that a client can close its last bar."""
    listings: tuple[SimulatedListing, ...]
    """The universe; empty to allow any coin."""
    fundings: tuple[SimulatedFunding, ...]
    """Funding paid before the first block."""
    makes_books: bool
    """Whether books and candles are made on demand, or are frames of the blocks."""

    def blocks(self) -> Iterator[Block]:
        """Yield the published blocks in order; once."""
