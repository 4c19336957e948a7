"""The simulated GaiaEx: a delayed relay of Hyperliquid's books.

GaiaEx is a front end on Hyperliquid's book, so its book is a relay: a full snapshot at each change of the best bid or
ask, `lag_s` after Hyperliquid's client got that quote. Shapes follow the exchange's documentation in both generations
(undated captures, read 2026-11); the timestamp of a book is assumed to be the relay's own, and the interval of
heartbeats is not documented.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from ingest.simulator.faults.injector import FaultInjector
from ingest.simulator.market.universe import SimulatedListing, dex_of
from ingest.simulator.server.market_state import BOOK_LEVELS, MarketState
from ingest.simulator.wire.encoder import Block, Frame, SimulatedQuote, decimal_text
from ingest.venues.gaiaex.messages import Generation
from ingest.venues.hyperliquid.protocol import kind_of
from storage.clock import MS_NS, NS

_CLASSES: Final = {"xyz": "equity", "cash": "index"}
_STALE_REASON: Final = {"G1": "upstream disconnected", "G2": "upstream_disconnected"}


class RelayedBook(NamedTuple):
    """One relayed book: a quote to derive the depth from, or a book as recorded."""

    due_ns: int
    symbol: str
    time_ms: int
    quote: SimulatedQuote | None
    recorded: str = ""


class GaiaexRelay:
    """The books of GaiaEx.

    Args:
        market: state of the relayed Hyperliquid market.
        injector: injected faults.
        generation: of the payloads.
        lag_s: from the receipt of Hyperliquid's quote to that of the relayed book.
        heartbeat_s: seconds between heartbeats.
    """

    def __init__(
        self,
        market: MarketState,
        injector: FaultInjector,
        *,
        generation: Generation,
        lag_s: float,
        heartbeat_s: float,
    ) -> None:
        self.generation = generation
        self._market = market
        self._injector = injector
        self._lag_ns = round(lag_s * NS)
        self._heartbeat_ns = round(heartbeat_s * NS)
        self._pending: deque[RelayedBook] = deque()
        self._newest: dict[str, RelayedBook] = {}
        self._shown: dict[str, RelayedBook] = {}
        self._next_heartbeat_ns = 0

    def observe(self, block: Block) -> None:
        """Queue the books of a block of Hyperliquid."""
        for frame in block.frames:
            shown = self._read(frame, block.clock_ns + self._lag_ns)
            if shown is not None:
                self._pending.append(shown)

    def due(self, until_ns: int, *, is_past: bool = False) -> Iterator[RelayedBook]:
        """Yield, once, the books that become visible up to an instant, in order, without held-back ones.

        Before the first instant served (`is_past`) nothing is held back.
        """
        while self._pending and self._pending[0].due_ns <= until_ns:
            item = self._pending.popleft()
            known = self._newest.get(item.symbol)
            if known is not None and known.time_ms > item.time_ms:
                continue  # a recorded slow book lags behind the quotes
            self._newest[item.symbol] = item
            if is_past or not self._is_held(item.symbol):
                self._shown[item.symbol] = item
                yield item

    def beats(self, now_ns: int) -> bool:
        """Return whether a heartbeat is due, and schedule the next."""
        if now_ns < self._next_heartbeat_ns:
            return False
        self._next_heartbeat_ns = now_ns + self._heartbeat_ns
        return True

    def supports(self, symbol: str, *, is_spot: bool) -> bool:
        """Return whether a symbol has a book here."""
        return kind_of(symbol) == ("spot" if is_spot else "perp") and self._market.universe.trades(symbol)

    def is_stale(self, symbol: str) -> bool:
        """Return whether the relay reports a lost upstream."""
        return self._injector.relay_is_stale(symbol)

    def catch_up(self, symbol: str) -> None:
        """Show the newest book again after it was held back."""
        if symbol in self._newest and not self._is_held(symbol):
            self._shown[symbol] = self._newest[symbol]

    def book_text(self, symbol: str) -> str | None:
        """Return the visible book of a symbol, or None before the first."""
        shown = self._shown.get(symbol)
        if shown is None:
            return None
        bids, asks = self._levels(shown)
        stamp_ms = shown.time_ms + self._lag_ns // MS_NS
        if self.generation == "G1":
            return _text({"type": "orderbook", "coin": symbol, "levels": [*bids, *asks], "time": stamp_ms})
        is_stale = self.is_stale(symbol)
        return _text(
            {
                "type": "orderbook",
                "symbol": symbol,
                "bids": [[level["px"], level["sz"]] for level in bids],
                "asks": [[level["px"], level["sz"]] for level in asks],
                "priceDecimals": self._market.decimals(symbol)[0],
                "timestamp": stamp_ms,
                "stale": is_stale,
                "displayName": display_name(symbol),
                "feed_connected": not is_stale,
            }
        )

    def heartbeat_text(self, symbol: str, now_ns: int) -> str:
        """Return a heartbeat message."""
        body: dict[str, Any] = {"type": "heartbeat", "timestamp": now_ns // MS_NS}
        if self.generation == "G2":
            body |= {"symbol": symbol, "stale": self.is_stale(symbol)}
        return _text(body)

    def stale_text(self, symbol: str, now_ns: int) -> str:
        """Return the message that the upstream is lost."""
        body: dict[str, Any] = {"type": "stale", "reason": _STALE_REASON[self.generation]}
        if self.generation == "G2":
            body |= {"symbol": symbol, "timestamp": now_ns // MS_NS}
        return _text(body)

    def recovered_text(self, symbol: str, now_ns: int) -> str:
        """Return the message that the upstream is back."""
        body: dict[str, Any] = {"type": "recovered"}
        if self.generation == "G2":
            body |= {"symbol": symbol, "timestamp": now_ns // MS_NS}
        return _text(body)

    def unsupported_text(self, symbol: str) -> str:
        """Return the error message for an unsupported symbol."""
        message = f"Symbol {symbol} is not supported"
        return _text({"type": "error", "code": "SYMBOL_NOT_SUPPORTED", "message": message})

    # The REST side.

    def symbols(self, now_ms: int) -> dict[str, Any]:
        """Return the body of `symbols/list`."""
        universe = self._market.universe
        rows = [self._symbol(row) for row in universe.of_kind("perp") if row.listed]
        return {"symbols": rows, "count": len(rows), "timestamp": now_ms}

    def spot_symbols(self, now_ms: int) -> dict[str, Any]:
        """Return the body of `spot/symbols`."""
        rows = []
        for row in self._market.universe.of_kind("spot"):
            body: dict[str, Any] = {
                "symbol": row.name,
                "displayName": display_name(row.name),
                "baseToken": display_name(row.name),
                "quoteToken": "USDC",
            }
            if self.generation == "G1":
                rows.append(body | {"status": "active"})
            else:
                price = self._price(row.name)
                more = {"szDecimals": row.size_decimals, "midPrice": price, "markPrice": price}
                rows.append(body | more | {"isCanonical": "/" in row.name})
        return {"status": "ok", "count": len(rows), "symbols": rows, "note": "", "timestamp": now_ms}

    def health(self, now_ms: int) -> dict[str, Any]:
        """Return the body of `health`."""
        market_data = "degraded" if any(self.is_stale(name) for name in ["", *self._shown]) else "healthy"
        services = {
            "trading": "healthy",
            "database": "healthy",
            "market_data": market_data,
            "candle_data": "healthy",
        }
        return {"status": "ok", "services": services, "fee_rate": "0.00035", "serverTime": now_ms}

    def _symbol(self, row: SimulatedListing) -> dict[str, Any]:
        dex = dex_of(row.name)
        venture = "venture" if self.generation == "G1" else "preipo"
        kind = _CLASSES.get(dex, "crypto" if not dex else venture)
        body: dict[str, Any] = {
            "symbol": row.name,
            "assetClass": kind,
            "currentPrice": self._price(row.name),
        }
        limits = {
            "maxLeverage": row.max_leverage,
            "marginMode": "isolated" if dex else "cross",
            "tradingHours": "US market hours" if kind == "equity" else "24/7",
        }
        if self.generation == "G2":
            body |= {"displayName": display_name(row.name), "priceDecimals": row.price_decimals}
        elif dex:
            body |= {"displayName": display_name(row.name)}
        if self.generation == "G1" or dex:
            body |= limits
        return body | {"deployer": dex} if dex else body

    def _price(self, symbol: str) -> str:
        """Return Hyperliquid's mid price."""
        return decimal_text(self._market.mid(symbol) or 0.0, self._market.decimals(symbol)[0])

    def _read(self, frame: Frame, due_ns: int) -> RelayedBook | None:
        if frame.quote is not None:
            return RelayedBook(due_ns, frame.coin, frame.quote.time_ms, frame.quote)
        if frame.channel == "l2Book" and not self._market.makes_books:
            data = json.loads(frame.text)["data"]
            if isinstance(data, dict) and not data.get("fast"):
                return RelayedBook(due_ns, frame.coin, int(data["time"]), None, json.dumps(data))
        return None

    def _levels(self, shown: RelayedBook) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        if shown.quote is None:
            bids, asks = json.loads(shown.recorded)["levels"]
        else:
            bids, asks = json.loads(self._market.depth_data(shown.quote, BOOK_LEVELS))["levels"]
        return bids, asks

    def _is_held(self, symbol: str) -> bool:
        return self._injector.relay_is_stale(symbol) or self._injector.relay_is_frozen(symbol)


def display_name(symbol: str) -> str:
    """Return a symbol without its dex, or the base of a pair.

    >>> display_name("xyz:AAPL"), display_name("PURR/USDC"), display_name("BTC")
    ('AAPL', 'PURR', 'BTC')
    """
    return symbol.rpartition(":")[2].partition("/")[0]


def _text(body: dict[str, Any]) -> str:
    return json.dumps(body, separators=(",", ":"))
