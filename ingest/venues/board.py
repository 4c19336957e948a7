"""What does the venue know right now: recent prints, quotes, contexts, candles, funding?

It answers the first messages after a subscribe and `POST /info` (bodies and limits: venue docs, info endpoint,
read 2026-08-22). Memory is bounded by the universe, never by the length of the tape.
"""

from __future__ import annotations

import json
import math
from collections import deque
from typing import Any, Final

from ingest.venues.candles import INTERVAL_MINUTES, CandleBook
from ingest.venues.frames import (
    Block,
    Depth,
    Frame,
    Funding,
    Print,
    Quote,
    book_frame_text,
    decimal_text,
    empty_bbo_text,
)
from ingest.venues.hyperliquid import SIMULATED_MARK
from ingest.venues.market import Listing, Source
from ingest.venues.subscriptions import Refused, Subscription

REPLAYED: Final = 30
"""Prints resent on subscribe: 30 in every recording that was checked."""

RECENT_TRADES: Final = 10
FUNDING_PAGE: Final = 500
BOOK_LEVELS: Final = 20
FAST_LEVELS: Final = 5
UNREADABLE: Final = "Failed to deserialize the JSON body into the target type"


class Board:
    """The venue's memory, fed block by block."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._depths = {
            item.name: Depth(item.name, source.seed, item.level_size, item.price_decimals, item.size_decimals)
            for item in source.listings
            if source.makes_books
        }
        self._listings = {item.name: item for item in source.listings}
        self._recent: dict[str, deque[Print]] = {}
        self._quotes: dict[str, Quote] = {}
        self._latest: dict[str, str] = {}
        self._candles: dict[str, CandleBook] = {}
        self._fundings: dict[str, deque[Funding]] = {}
        for row in source.fundings:
            self._keep_funding(row)
        self.now_ms = source.start_ns // 1_000_000
        """Time of the newest block, not before the first instant served."""

    def observe(self, block: Block) -> None:
        """Take in a block."""
        self.now_ms = max(self.now_ms, block.time_ms)
        for frame in block.frames:
            if frame.prints:
                self._keep_prints(frame)
            elif frame.quote is not None:
                self._quotes[frame.coin] = frame.quote
                self._latest[frame.key] = frame.text
            else:
                self._latest[frame.key] = frame.text
        for row in block.fundings:
            self._keep_funding(row)

    def replay(self, coin: str, most: int) -> list[Print]:
        """Return the newest prints of a coin, oldest first, `most` at the most."""
        rows = self._recent.get(coin, ())
        return list(rows)[-most:] if most else []

    def snapshot(self, subscription: Subscription) -> str | None:
        """Return the first message of a stream other than trades, or None where nothing is known yet."""
        if subscription.channel in ("l2Book", "candle") and self._source.makes_books:
            return self.made(subscription)
        known = self._latest.get(subscription.key)
        listing = self._listings.get(subscription.coin)
        if known is None and subscription.channel == "bbo" and listing is not None and not listing.listed:
            return empty_bbo_text(subscription.coin, self.now_ms)
        return known

    def made(self, subscription: Subscription) -> str | None:
        """Return a book or candle message as of now, or None before the first quote or print."""
        if subscription.channel == "candle":
            book = self._candle_book(subscription.coin)
            book.advance(self.now_ms)
            candle = book.current(subscription.interval)
            if candle is None:
                return None
            return f'{{"channel":"candle","data":{book.text(subscription.interval, candle)}}}'
        data = self._book(subscription)
        return None if data is None else book_frame_text(data)

    def info(self, body: bytes) -> str:
        """Return the answer to a request to `/info`, as JSON text.

        Raises:
            Refused: the body is no JSON, of an unknown type, or lacks a field (the venue answers 422).
        """
        try:
            request = json.loads(body)
            return self._answer(request["type"], request)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise Refused(UNREADABLE) from None

    def _answer(self, kind: str, request: dict[str, Any]) -> str:
        match kind:
            case "meta":
                return self._meta()
            case "metaAndAssetCtxs":
                return (
                    f"[{self._meta()},[{','.join(self._context(item) for item in self._listings.values())}]]"
                )
            case "allMids":
                return json.dumps(self._mids(), separators=(",", ":"))
            case "exchangeStatus":
                return f'{{"time":{self.now_ms},"specialStatuses":null}}'
            case "l2Book":
                figures, mantissa = request.get("nSigFigs"), request.get("mantissa")
                return (
                    self._book(Subscription("l2Book", str(request["coin"]), "", figures, mantissa)) or "null"
                )
            case "recentTrades":
                newest = reversed(self.replay(request["coin"], RECENT_TRADES))
                return f"[{','.join(item.text for item in newest)}]"
            case "candleSnapshot":
                return self._candle_snapshot(request["req"])
            case "fundingHistory":
                return self._funding_history(request)
            case _:
                raise Refused(UNREADABLE)

    def _meta(self) -> str:
        rows = []
        for item in self._listings.values():
            row: dict[str, Any] = {
                "szDecimals": item.size_decimals,
                "name": item.name,
                "maxLeverage": item.max_leverage,
                "marginTableId": item.max_leverage,
            }
            rows.append(row if item.listed else row | {"isDelisted": True})
        meta = {"universe": rows, "marginTables": [], "collateralToken": 0, SIMULATED_MARK: True}
        return json.dumps(meta, separators=(",", ":"))

    def _context(self, item: Listing) -> str:
        known = self._latest.get(f"activeAssetCtx:{item.name}")
        return (
            "null" if known is None else json.dumps(json.loads(known)["data"]["ctx"], separators=(",", ":"))
        )

    def _mids(self) -> dict[str, str]:
        # A coin without a book falls back to its last trade (venue docs, allMids).
        mids = {coin: rows[-1].price for coin, rows in self._recent.items() if rows}
        mids |= {coin: (quote.bid + quote.ask) / 2 for coin, quote in self._quotes.items()}
        return {coin: decimal_text(mids[coin], self._decimals(coin)[0] + 1) for coin in sorted(mids)}

    def _book(self, subscription: Subscription) -> str | None:
        quote = self._quotes.get(subscription.coin)
        if quote is None or not self._source.makes_books:
            known = self._latest.get(f"l2Book:{subscription.coin}")
            return None if known is None else json.dumps(json.loads(known)["data"], separators=(",", ":"))
        step = None
        if subscription.significant_figures is not None:
            digits = math.floor(math.log10(quote.bid)) + 1
            step = 10.0 ** (digits - subscription.significant_figures) * (subscription.mantissa or 1)
        return self._depths[subscription.coin].book_data(
            quote,
            time_ms=self.now_ms,
            levels=FAST_LEVELS if subscription.fast else BOOK_LEVELS,
            step=step,
            fast=subscription.fast,
        )

    def _candle_snapshot(self, request: dict[str, Any]) -> str:
        coin, interval = request["coin"], request["interval"]
        if interval not in INTERVAL_MINUTES:
            raise Refused(UNREADABLE)
        start_ms, end_ms = int(request["startTime"]), int(request.get("endTime") or self.now_ms)
        if coin not in self._candles:
            return "[]"
        book = self._candles[coin]
        book.advance(self.now_ms)
        return f"[{','.join(book.between(interval, start_ms, end_ms))}]"

    def _funding_history(self, request: dict[str, Any]) -> str:
        start_ms, end_ms = int(request["startTime"]), int(request.get("endTime") or self.now_ms)
        rows = [
            {
                "coin": row.coin,
                "fundingRate": decimal_text(row.rate, 10),
                "premium": decimal_text(row.premium, 10),
                "time": row.time_ms,
            }
            for row in self._fundings.get(request["coin"], ())
            if start_ms <= row.time_ms <= end_ms
        ]
        return json.dumps(rows[:FUNDING_PAGE], separators=(",", ":"))

    def _keep_prints(self, frame: Frame) -> None:
        recent = self._recent.get(frame.coin)
        if recent is None:
            recent = self._recent[frame.coin] = deque(maxlen=REPLAYED)
        recent.extend(frame.prints)
        self._candle_book(frame.coin).add(frame.prints)

    def _keep_funding(self, row: Funding) -> None:
        self._fundings.setdefault(row.coin, deque(maxlen=2 * 8_760)).append(row)

    def _candle_book(self, coin: str) -> CandleBook:
        book = self._candles.get(coin)
        if book is None:
            book = self._candles[coin] = CandleBook(coin, *self._decimals(coin))
        return book

    def _decimals(self, coin: str) -> tuple[int, int]:
        """Return price and size decimals; a coin that no one lists gets the most that the venue allows."""
        listing = self._listings.get(coin)
        return (6, 6) if listing is None else (listing.price_decimals, listing.size_decimals)
