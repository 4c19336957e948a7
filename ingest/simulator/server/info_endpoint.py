"""Answers of the simulated venue to `POST /info`.

Bodies and limits: venue docs, info endpoint, read 2026-08-22.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from ingest.simulator.market.universe import FIRST_DEX
from ingest.simulator.server.history_endpoint import RecordedHistory
from ingest.simulator.server.market_state import MarketState
from ingest.simulator.server.venue_wide import VenueWide
from ingest.simulator.wire.candles import INTERVAL_MINUTES
from ingest.simulator.wire.encoder import decimal_text
from ingest.simulator.wire.subscriptions import RequestRefused, StreamSubscription

RECENT_TRADES: Final = 10
FUNDING_PAGE: Final = 500
UNREADABLE: Final = "Failed to deserialize the JSON body into the target type"


class InfoEndpoint:
    """Endpoint of REST requests.

    Args:
        market: state of the market.
        wide: venue-wide contexts.
        status_ms: returns the time for `exchangeStatus`.
        past: recorded candles, instead of candles made of trades.
    """

    def __init__(
        self,
        market: MarketState,
        wide: VenueWide,
        status_ms: Callable[[], int] | None = None,
        *,
        past: RecordedHistory | None = None,
    ) -> None:
        self._market = market
        self._wide = wide
        self._past = past
        self._status_ms = status_ms or (lambda: market.now_ms)

    def info(self, body: bytes) -> str:
        """Return the answer to a request, as JSON text.

        Raises:
            RequestRefused: the body is not JSON, of an unknown type, or lacks a field (the venue answers 422).
        """
        try:
            request = json.loads(body)
            return self._answer(request["type"], request)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise RequestRefused(UNREADABLE) from None

    def _answer(self, kind: str, request: dict[str, Any]) -> str:
        market, universe = self._market, self._market.universe
        dex = str(request.get("dex") or FIRST_DEX)
        match kind:
            case "meta":
                return self._meta(dex)
            case "metaAndAssetCtxs":
                return f"[{self._meta(dex)},{self._wide.contexts(dex)}]"
            case "perpDexs":
                return _compact(universe.perp_dexs())
            case "allPerpMetas":
                return _compact([universe.meta(name) for name in universe.dexes()])
            case "spotMeta":
                return _compact(universe.spot_meta())
            case "spotMetaAndAssetCtxs":
                return f"[{_compact(universe.spot_meta())},{self._wide.spot_contexts()}]"
            case "allMids":
                return _compact(market.mids(dex))
            case "exchangeStatus":
                return f'{{"time":{self._status_ms()},"specialStatuses":null}}'
            case "l2Book":
                figures, mantissa = request.get("nSigFigs"), request.get("mantissa")
                return (
                    market.book_data(
                        StreamSubscription("l2Book", str(request["coin"]), "", figures, mantissa)
                    )
                    or "null"
                )
            case "recentTrades":
                newest = reversed(market.replay(request["coin"], RECENT_TRADES))
                return f"[{','.join(item.text for item in newest)}]"
            case "candleSnapshot":
                return self._candle_snapshot(request["req"])
            case "fundingHistory":
                return self._funding_history(request)
            case _:
                raise RequestRefused(UNREADABLE)

    def _meta(self, dex: str) -> str:
        if dex not in self._market.universe.dexes():
            raise RequestRefused(UNREADABLE)
        return _compact(self._market.universe.meta(dex))

    def _candle_snapshot(self, request: dict[str, Any]) -> str:
        interval = request["interval"]
        if interval not in INTERVAL_MINUTES:
            raise RequestRefused(UNREADABLE)
        start_ms, end_ms = int(request["startTime"]), int(request.get("endTime") or self._market.now_ms)
        if self._past is not None:
            return f"[{','.join(self._past.candles(request['coin'], interval, start_ms, end_ms))}]"
        book = self._market.candles(request["coin"])
        return "[]" if book is None else f"[{','.join(book.between(interval, start_ms, end_ms))}]"

    def _funding_history(self, request: dict[str, Any]) -> str:
        start_ms, end_ms = int(request["startTime"]), int(request.get("endTime") or self._market.now_ms)
        rows = [
            {
                "coin": row.coin,
                "fundingRate": decimal_text(row.rate, 10),
                "premium": decimal_text(row.premium, 10),
                "time": row.time_ms,
            }
            for row in self._market.fundings(request["coin"])
            if start_ms <= row.time_ms <= end_ms
        ]
        return _compact(rows[:FUNDING_PAGE])


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
