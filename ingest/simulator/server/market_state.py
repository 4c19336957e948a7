"""Current state of the simulated market: recent trades, quotes, contexts, candles, funding.

It makes the first messages after a subscribe, books and candles, and answers `POST /info`
(`ingest.simulator.server.info_endpoint`). Memory is bounded by the universe, not by the length of the source.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterable
from typing import Final

from ingest.simulator.faults.faults import MarketChange
from ingest.simulator.market.events import BOTH_SIDES, MarketSchedule
from ingest.simulator.market.source import MarketSource
from ingest.simulator.wire.candles import MINUTE_MS, CandleBook
from ingest.simulator.wire.encoder import (
    Block,
    Depth,
    Frame,
    SimulatedFunding,
    SimulatedPrint,
    SimulatedQuote,
    book_frame_text,
    decimal_text,
    empty_bbo_text,
)
from ingest.simulator.wire.subscriptions import StreamSubscription
from ingest.venues.hyperliquid.protocol import kind_of

REPLAYED: Final = 30
"""Trades resent on subscribe: 30 in every recording that was checked."""

BOOK_LEVELS: Final = 20
FAST_LEVELS: Final = 5


class MarketState:
    """State of the market, updated block by block.

    Args:
        source: of the blocks.
        changes: scheduled changes of the market.
    """

    def __init__(self, source: MarketSource, changes: Iterable[MarketChange] = ()) -> None:
        self.schedule = MarketSchedule(source.listings, changes)
        self.universe = self.schedule.universe
        self.makes_books = source.makes_books
        self.now_ms = source.start_ns // 1_000_000
        """Time of the newest block; before the first one, the first instant served."""
        self.height = 0
        """Blocks of the chain so far."""
        self.seed = source.seed
        self._listings = {item.name: item for item in source.listings}
        self._depths: dict[str, Depth] = {}
        self._recent: dict[str, deque[SimulatedPrint]] = {}
        self._quotes: dict[str, SimulatedQuote] = {}
        self._latest: dict[str, str] = {}
        self._candles: dict[str, CandleBook] = {}
        self._fundings: dict[str, deque[SimulatedFunding]] = {}
        self._texts: dict[str, str | None] = {}
        for row in filter(lambda row: self.schedule.is_known(row.coin), source.fundings):
            self._keep_funding(row)

    def observe(self, block: Block) -> None:
        """Apply a block."""
        self.now_ms = block.time_ms
        self.height += 1
        self._texts.clear()
        for frame in block.frames:
            if frame.prints:
                self._keep_prints(frame)
                continue
            self._latest[frame.key] = frame.text
            if frame.quote is not None:
                self._quotes[frame.coin] = frame.quote
            elif frame.channel == "bbo":
                self._quotes.pop(frame.coin, None)
        for row in block.fundings:
            self._keep_funding(row)

    def replay(self, coin: str, most: int) -> list[SimulatedPrint]:
        """Return at most `most` of the newest trades of a coin, oldest first."""
        rows = self._recent.get(coin, ())
        return list(rows)[-most:] if most else []

    def snapshot(self, subscription: StreamSubscription) -> str | None:
        """Return the first message of one coin's stream other than trades, or None if nothing is known yet."""
        if subscription.channel in ("l2Book", "candle") and self.makes_books:
            return self.made(subscription)
        known = self._latest.get(subscription.key)
        row = self.universe.get(subscription.coin)
        if known is None and subscription.channel == "bbo" and row is not None and not row.listed:
            return empty_bbo_text(subscription.coin, self.now_ms)
        return known

    def made(self, subscription: StreamSubscription) -> str | None:
        """Return the current book or candle, or None if there is none."""
        key = subscription.key
        if key not in self._texts:
            self._texts[key] = self._make(subscription)
        return self._texts[key]

    def latest(self, key: str) -> str | None:
        """Return the newest published message of a stream."""
        return self._latest.get(key)

    def context(self, coin: str) -> str | None:
        """Return the newest context of a coin as JSON, or None."""
        known = self._latest.get(f"activeAssetCtx:{coin}")
        return None if known is None else json.dumps(json.loads(known)["data"]["ctx"], separators=(",", ":"))

    def quote(self, coin: str) -> SimulatedQuote | None:
        """Return the newest quote with both sides."""
        return self._quotes.get(coin)

    def mid(self, coin: str) -> float | None:
        """Return the mid price; None if a side is missing."""
        quote = self._quotes.get(coin)
        if quote is None or self.schedule.missing_sides(coin):
            return None
        return (quote.bid + quote.ask) / 2

    def mids(self, dex: str | None) -> dict[str, str]:
        """Return the mid price of every coin of a dex; spot and the rest belong to the first.

        A coin without a book falls back to its last trade (venue docs, allMids).
        """
        mids = {coin: rows[-1].price for coin, rows in self._recent.items() if rows}
        mids |= {coin: mid for coin in self._quotes if (mid := self.mid(coin)) is not None}
        return {
            coin: decimal_text(mids[coin], self.decimals(coin)[0] + 1)
            for coin in sorted(mids)
            if (dex or "") == (coin.partition(":")[0] if ":" in coin else "")
            and kind_of(coin) != "outcome"
            and not self.schedule.is_dark(coin)
        }

    def book_data(self, subscription: StreamSubscription) -> str | None:
        """Return the `data` of an l2Book, or None if there is no book."""
        coin = subscription.coin
        missing = self.schedule.missing_sides(coin)
        if self.schedule.is_null(coin):
            return None
        if missing == BOTH_SIDES:
            return f'{{"coin":"{coin}","time":{self.now_ms},"levels":[[],[]]}}'
        quote = self._quotes.get(coin)
        if quote is None or not self.makes_books:
            known = self._latest.get(f"l2Book:{coin}")
            return None if known is None else json.dumps(json.loads(known)["data"], separators=(",", ":"))
        step = None
        if subscription.significant_figures is not None:
            digits = math.floor(math.log10(quote.bid)) + 1
            step = 10.0 ** (digits - subscription.significant_figures) * (subscription.mantissa or 1)
        return self._depth(coin).book_data(
            quote,
            time_ms=self.now_ms,
            levels=FAST_LEVELS if subscription.fast else BOOK_LEVELS,
            step=step,
            fast=subscription.fast,
            without=missing,
        )

    def depth_data(self, quote: SimulatedQuote, levels: int) -> str:
        """Return the book behind an earlier quote; for a capture, which has no depth, the quote alone."""
        missing = self.schedule.missing_sides(quote.coin)
        levels = levels if self.makes_books else 1
        return self._depth(quote.coin).book_data(quote, time_ms=quote.time_ms, levels=levels, without=missing)

    def candles(self, coin: str) -> CandleBook | None:
        """Return the current candles of a coin, or None if it never traded."""
        book = self._candles.get(coin)
        if book is not None:
            book.advance(self.now_ms)
        return book

    def fundings(self, coin: str) -> Iterable[SimulatedFunding]:
        """Return the funding of a coin, oldest first."""
        return self._fundings.get(coin, ())

    def decimals(self, coin: str) -> tuple[int, int]:
        """Return price and size decimals; an unlisted coin gets the most that the venue allows."""
        listing = self._listings.get(coin)
        return (6, 6) if listing is None else (listing.price_decimals, listing.size_decimals)

    def _depth(self, coin: str) -> Depth:
        depth = self._depths.get(coin)
        if depth is None:
            listing = self._listings.get(coin)
            size = listing.level_size if listing is not None else 0.0
            depth = self._depths[coin] = Depth(coin, self.seed, size, *self.decimals(coin))
        return depth

    def _make(self, subscription: StreamSubscription) -> str | None:
        if subscription.channel == "candle":
            # Recorded candles of a capture take precedence.
            if subscription.key in self._latest:
                return None
            book = self._candle_book(subscription.coin)
            book.advance(self.now_ms)
            candle = book.current(subscription.interval)
            if candle is None:
                return None
            return f'{{"channel":"candle","data":{book.text(subscription.interval, candle)}}}'
        data = self.book_data(subscription)
        if data is None:
            return book_frame_text("null") if self.schedule.is_null(subscription.coin) else None
        return book_frame_text(data)

    def _keep_prints(self, frame: Frame) -> None:
        recent = self._recent.get(frame.coin)
        if recent is None:
            recent = self._recent[frame.coin] = deque(maxlen=REPLAYED)
        recent.extend(frame.prints)
        # A trade with a future time is sent, but is in no candle: the candles up to it would have no end.
        soon_ms = self.now_ms + MINUTE_MS
        self._candle_book(frame.coin).add(item for item in frame.prints if item.time_ms <= soon_ms)

    def _keep_funding(self, row: SimulatedFunding) -> None:
        self._fundings.setdefault(row.coin, deque(maxlen=2 * 8_760)).append(row)

    def _candle_book(self, coin: str) -> CandleBook:
        book = self._candles.get(coin)
        if book is None:
            book = self._candles[coin] = CandleBook(coin, *self.decimals(coin))
        return book
