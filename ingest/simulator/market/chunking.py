"""Split of a market chunk into pieces, so that messages are written when they are due.

A chunk of numbers is small; its messages are not: 200 busy instruments make millions in a quarter of an hour.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from ingest.simulator.market.generator import CoinChunk, MarketChunk

EVENTS: Final = 5_000
"""Approximate number of trades and quotes of a piece: about 50 ms of writing."""


def pieces(chunk: MarketChunk, events: int = EVENTS) -> Iterator[tuple[int, int, MarketChunk]]:
    """Yield (first block, block after the last, their events), in order.

    Blocks keep their numbers, and `block_ms` stays complete. A chunk of few events is one piece.
    """
    blocks = len(chunk.block_ms)
    total = sum(len(part.print_block) + len(part.quote_block) for part in chunk.coins.values())
    step = blocks if total <= 4 * events else max(1, blocks * events // total)
    if step == blocks:
        yield 0, blocks, chunk
        return
    for first in range(0, blocks, step):
        last = min(first + step, blocks)
        yield first, last, cut(chunk, first, last)


def cut(chunk: MarketChunk, first: int, last: int) -> MarketChunk:
    """Return the events of blocks `first .. last - 1`."""
    low, high = np.searchsorted(chunk.context_block, (first, last)).tolist()
    return replace(
        chunk,
        context_block=chunk.context_block[low:high],
        coins={name: _cut(part, first, last, slice(low, high)) for name, part in chunk.coins.items()},
    )


def _cut(part: CoinChunk, first: int, last: int, contexts: slice) -> CoinChunk:
    prints = slice(*np.searchsorted(part.print_block, (first, last)).tolist())
    quotes = slice(*np.searchsorted(part.quote_block, (first, last)).tolist())
    order = part.order[prints]
    # Orders are numbered in the order of their prints, so those of a piece lie together.
    low, high = (int(order[0]), int(order[-1]) + 1) if len(order) else (0, 0)
    return CoinChunk(
        print_block=part.print_block[prints],
        order=order - low,
        buy=part.buy[prints],
        price=part.price[prints],
        size=part.size[prints],
        tid=part.tid[prints],
        maker=part.maker[prints],
        taker=part.taker[low:high],
        order_hash=part.order_hash[low:high],
        quote_block=part.quote_block[quotes],
        bid=part.bid[quotes],
        ask=part.ask[quotes],
        tick=part.tick[quotes],
        touch_size=part.touch_size[:, quotes],
        touch_orders=part.touch_orders[:, quotes],
        mark=part.mark[contexts],
        contexts=part.contexts[contexts],
        fundings=[row for row in part.fundings if first <= row[0] < last],
    )
