"""Weights of Hyperliquid's REST requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

# Hyperliquid's weights of POST /info (rate limits and user limits, read 2026-08-22); every other request is 20.
_WEIGHTS: Final = {
    "l2Book": 2,
    "allMids": 2,
    "clearinghouseState": 2,
    "orderStatus": 2,
    "spotClearinghouseState": 2,
    "exchangeStatus": 2,
    "userRole": 60,
    "explorer": 40,
}
_OTHER_WEIGHT: Final = 20
# One more for every so many rows of the answer, or part of them.
_ROWS_PER_WEIGHT: Final = {
    "recentTrades": 20,
    "fundingHistory": 20,
    "userFills": 20,
    "userFillsByTime": 20,
    "userFunding": 20,
    "historicalOrders": 20,
    "candleSnapshot": 60,
}


def weight_of(request: Mapping[str, Any], rows: int = 0) -> int:
    """Return the weight of a request to `POST /info` with `rows` rows in its answer.

    >>> weight_of({"type": "exchangeStatus"}), weight_of({"type": "candleSnapshot"}, rows=5000)
    (2, 104)
    """
    kind = str(request.get("type", ""))
    weight = _WEIGHTS.get(kind, _OTHER_WEIGHT)
    if kind in _ROWS_PER_WEIGHT:
        weight += -(-rows // _ROWS_PER_WEIGHT[kind])
    return weight
