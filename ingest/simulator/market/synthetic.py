"""A seeded synthetic market as a source of blocks.

`SyntheticMarket` turns the arrays of `ingest.simulator.market.generator` into the venue's messages. It is pure: the
same spec gives the same blocks, byte for byte.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

import numpy as np

from ingest.simulator.market.chunking import pieces
from ingest.simulator.market.funding import past_fundings
from ingest.simulator.market.generator import ADDRESSES, CoinChunk, MarketChunk, MarketGenerator, warm_up_ms
from ingest.simulator.market.outcomes import add_mirror
from ingest.simulator.market.spec import CoinSpec, MarketSpec
from ingest.simulator.market.universe import SimulatedListing
from ingest.simulator.wire.encoder import (
    Block,
    Frame,
    SimulatedFunding,
    SimulatedPrint,
    SimulatedQuote,
    bbo_text,
    context_frame_text,
    context_text,
    decimal_text,
    exact_text,
    print_text,
    spot_context_text,
    trades_text,
)
from ingest.venues.hyperliquid.protocol import kind_of
from storage.clock import MS_NS, NS

FAST_BOOK_MS: Final = 500
LEVEL_PRINTS: Final = 8
"""Size of a book level, in typical trades."""

FUNDING_HOURS: Final = 720
"""Hours of funding history before the start, more than one page of the venue's answer."""


class SyntheticMarket:
    """A seeded market as a source of blocks."""

    makes_books = True
    tail_ns = 3 * NS

    def __init__(self, spec: MarketSpec) -> None:
        self.spec = spec
        self.seed = spec.seed
        self.start_ns = spec.start_ns
        self.end_ns = spec.end_ns
        self.listings = tuple(
            SimulatedListing(
                coin.name,
                coin.size_decimals,
                coin.price_decimals,
                coin.max_leverage,
                coin.listed,
                LEVEL_PRINTS * coin.median_notional / coin.start_price,
            )
            for coin in spec.coins
        )
        self._coins = {coin.name: coin for coin in spec.coins}
        self._addresses, self.fundings = _before(spec)

    def blocks(self) -> Iterator[Block]:
        """Yield blocks from the warm-up to the end of the span, without empty ones."""
        last_ms = 0
        drawn = tuple(coin for coin in self.spec.coins if not coin.mirrored)
        slow_ms = self.spec.book_s * 1_000
        for chunk in MarketGenerator(dataclasses.replace(self.spec, coins=drawn)).chunks():
            times, clocks = chunk.block_ms.tolist(), chunk.clock_ns.tolist()
            for first, last, piece in pieces(chunk):
                frames, fundings = self._frames(piece, times)
                for i in range(first, last):
                    time_ms = times[i]
                    if self.end_ns is not None and time_ms * MS_NS >= self.end_ns:
                        return
                    slow = time_ms // slow_ms != last_ms // slow_ms
                    fast = time_ms // FAST_BOOK_MS != last_ms // FAST_BOOK_MS
                    last_ms = time_ms
                    if i in frames or slow or fast:
                        yield Block(time_ms, clocks[i], frames.get(i, []), fundings.get(i, []), slow, fast)

    def _frames(
        self, chunk: MarketChunk, times: list[int]
    ) -> tuple[dict[int, list[Frame]], dict[int, list[SimulatedFunding]]]:
        """Return frames and fundings by block, given the times of all blocks."""
        frames: defaultdict[int, list[Frame]] = defaultdict(list)
        fundings: defaultdict[int, list[SimulatedFunding]] = defaultdict(list)
        for name, part in chunk.coins.items():
            coin = self._coins[name]
            self._add_trades(frames, coin, part, times)
            _add_quotes(frames, coin, part, times)
            for block, rate, premium in part.fundings if kind_of(name) == "perp" else ():
                fundings[block].append(SimulatedFunding(name, times[block], rate, premium))
        for coin in self.spec.coins:
            if coin.mirrored:
                add_mirror(frames, coin)
            elif kind_of(coin.name) != "outcome":
                _add_contexts(frames, coin, chunk)
        return frames, fundings

    def _add_trades(
        self, frames: defaultdict[int, list[Frame]], coin: CoinSpec, part: CoinChunk, times: list[int]
    ) -> None:
        name, channel, key = coin.name, "trades", f"trades:{coin.name}"
        addresses, hashes, takers = self._addresses, part.order_hash, part.taker.tolist()
        batch: list[SimulatedPrint] = []
        rows = zip(
            part.print_block.tolist(), part.order.tolist(), part.buy.tolist(), part.price.tolist(),
            part.size.tolist(), part.tid.tolist(), part.maker.tolist(), strict=True,
        )  # fmt: skip
        last = -1
        for block, order, buy, price, size, tid, maker in rows:
            if block != last and batch:
                frames[last].append(Frame(key, channel, name, trades_text(batch), tuple(batch)))
                batch = []
            last = block
            taker, other = addresses[takers[order]], addresses[maker]
            buyer, seller = (taker, other) if buy else (other, taker)
            time_ms = times[block]
            px, sz = exact_text(price), exact_text(size)
            text = print_text(name, buy, px, sz, time_ms, hashes[order], tid, buyer, seller)
            batch.append(SimulatedPrint(name, time_ms, tid, price, size, text))
        if batch:
            frames[last].append(Frame(key, channel, name, trades_text(batch), tuple(batch)))


@lru_cache(maxsize=4)
def _before(spec: MarketSpec) -> tuple[list[str], tuple[SimulatedFunding, ...]]:
    """Return the addresses of a market, and the funding before its first block."""
    rng = np.random.default_rng([spec.seed, 2])
    digits = rng.bytes(20 * ADDRESSES).hex()
    fundings = tuple(
        SimulatedFunding(coin.name, *row)
        for coin in spec.coins
        if coin.listed and kind_of(coin.name) == "perp"
        for row in past_fundings(rng, warm_up_ms(spec) + 1, FUNDING_HOURS)
    )
    return [f"0x{digits[40 * i : 40 * i + 40]}" for i in range(ADDRESSES)], fundings


def _add_quotes(
    frames: defaultdict[int, list[Frame]], coin: CoinSpec, part: CoinChunk, times: list[int]
) -> None:
    name, channel, key = coin.name, "bbo", f"bbo:{coin.name}"
    sizes, orders = part.touch_size.tolist(), part.touch_orders.tolist()
    rows = zip(
        part.quote_block.tolist(), part.bid.tolist(), sizes[0], orders[0], part.ask.tolist(), sizes[1], orders[1],
        part.tick.tolist(), strict=True,
    )  # fmt: skip
    for block, bid, bid_size, bids, ask, ask_size, asks, tick in rows:
        quote = SimulatedQuote(name, times[block], bid, bid_size, bids, ask, ask_size, asks, tick)
        frames[block].append(Frame(key, channel, name, bbo_text(quote), (), quote))


def _add_contexts(frames: defaultdict[int, list[Frame]], coin: CoinSpec, chunk: MarketChunk) -> None:
    name, channel, key = coin.name, "activeAssetCtx", f"activeAssetCtx:{coin.name}"
    px, sz = coin.price_decimals, coin.size_decimals
    if kind_of(name) == "spot":
        _add_spot_contexts(frames, coin, chunk)
        return
    if not coin.listed:
        text = context_frame_text(name, delisted_context_text(coin.start_price, px))
        for block in chunk.context_block.tolist():
            frames[block].append(Frame(key, channel, name, text))
        return
    part = chunk.coins[name]
    at = np.searchsorted(part.quote_block, chunk.context_block)
    bid, ask, tick = part.bid[at], part.ask[at], part.tick[at]
    rows = zip(
        chunk.context_block.tolist(), part.contexts, part.mark.tolist(), ((bid + ask) / 2).tolist(),
        (bid - tick).tolist(), (ask + tick).tolist(), strict=True,
    )  # fmt: skip
    for block, context, mark, mid, impact_bid, impact_ask in rows:
        text = context_text(
            funding=context.funding,
            interest=decimal_text(context.interest, sz),
            day_open=decimal_text(context.day_open, px),
            day_notional=context.day_notional,
            premium=context.premium,
            oracle=decimal_text(context.oracle, px),
            mark=decimal_text(mark, px),
            mid=decimal_text(mid, px + 1),
            impact=(decimal_text(impact_bid, px), decimal_text(impact_ask, px)),
            day_base=decimal_text(context.day_base, sz),
        )
        frames[block].append(Frame(key, channel, name, context_frame_text(name, text)))


def _add_spot_contexts(frames: defaultdict[int, list[Frame]], coin: CoinSpec, chunk: MarketChunk) -> None:
    """Add contexts of spot, which are subscribed as `activeAssetCtx` and come on a channel of their own."""
    name, px = coin.name, coin.price_decimals
    part = chunk.coins[name]
    at = np.searchsorted(part.quote_block, chunk.context_block)
    mids = ((part.bid[at] + part.ask[at]) / 2).tolist()
    for block, context, mid in zip(chunk.context_block.tolist(), part.contexts, mids, strict=True):
        mid_text = decimal_text(mid, px + 1)
        text = spot_context_text(
            name,
            day_open=decimal_text(context.day_open, px),
            day_notional=context.day_notional,
            mark=mid_text,
            mid=mid_text,
            supply=decimal_text(coin.open_interest, coin.size_decimals),
            day_base=decimal_text(context.day_base, coin.size_decimals),
        )
        channel, key = "activeSpotAssetCtx", f"activeAssetCtx:{name}"
        frames[block].append(Frame(key, channel, name, context_frame_text(name, text, channel)))


def delisted_context_text(price: float, price_decimals: int) -> str:
    """Return the context of a coin without a book, as the venue keeps sending it for delisted ones."""
    px = decimal_text(price, price_decimals)
    return context_text(
        funding=0.0, interest="0.0", day_open=px, day_notional=0.0, premium=None, oracle=px, mark=px, mid=None,
        impact=None, day_base="0.0",
    )  # fmt: skip
