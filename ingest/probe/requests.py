"""Requests and subscriptions of a probe."""

from __future__ import annotations

import json
from typing import Any, Final

from ingest.venues.gaiaex import protocol as gaiaex
from storage.settings.recording import GaiaexSettings

ACADEMY_URL: Final = "https://api.gaiaex.com/v1"
"""Address of the API by GaiaEx's academy, which contradicts the venue's own pages."""

_HOUR_MS: Final = 3_600_000


def info_requests(coin: str, now_ms: int) -> list[dict[str, Any]]:
    """Return the requests to `POST /info`, the least important last."""
    candles = {"coin": coin, "interval": "1m", "startTime": now_ms - _HOUR_MS, "endTime": now_ms}
    plain = ("meta", "perpDexs", "allPerpMetas", "spotMeta", "exchangeStatus", "allMids")
    rest = ("metaAndAssetCtxs", "spotMetaAndAssetCtxs", "predictedFundings", "perpCategories", "outcomeMeta")
    return [
        *({"type": name} for name in plain),
        {"type": "l2Book", "coin": coin},
        {"type": "recentTrades", "coin": coin},
        {"type": "candleSnapshot", "req": candles},
        {"type": "fundingHistory", "coin": coin, "startTime": now_ms - 24 * _HOUR_MS},
        *({"type": name} for name in rest),
    ]


def subscriptions(coin: str, dex: str, spot: str) -> list[dict[str, Any]]:
    """Return every public subscription, once."""
    of_coin = ("trades", "bbo", "l2Book", "activeAssetCtx")
    wide = ("allMids", "allDexsAssetCtxs", "spotAssetCtxs", "fastAssetCtxs", "outcomeMetaUpdates")
    return [
        *({"type": name, "coin": coin} for name in of_coin),
        {"type": "l2Book", "coin": coin, "fast": True},
        {"type": "candle", "coin": coin, "interval": "1m"},
        *([{"type": "activeAssetCtx", "coin": spot}] if spot else []),
        *({"type": name} for name in wide),
        {"type": "assetCtxs", "dex": dex} if dex else {"type": "assetCtxs"},
    ]


def first_dex(answer: bytes) -> str:
    """Return the first deployed dex of an answer to `perpDexs`; empty if there is none."""
    return next((str(item["name"]) for item in json.loads(answer or b"[]") if item), "")


def first_pair(answer: bytes) -> str:
    """Return the first pair of an answer to `spotMeta`; empty if there is none."""
    return next((str(pair["name"]) for pair in json.loads(answer or b"{}").get("universe", ())), "")


def gaiaex_urls(base: str) -> list[str]:
    """Return the REST addresses of GaiaEx, by its own pages and by other pages."""
    bases = [base, *([ACADEMY_URL] if base == GaiaexSettings().rest_url else [])]
    root = gaiaex.root_url(base)
    return [
        *(gaiaex.rest_url(each, path) for each in bases for path in ("symbols/list", "time", "health")),
        gaiaex.rest_url(base, "spot/symbols"),
        f"{root}/health",
        f"{root}/fapi/v1/time",
    ]


def gaiaex_hosts(base: str) -> list[str]:
    """Return the socket addresses of GaiaEx; one that was configured is the only one."""
    return [base, *([gaiaex.ALTERNATE_WS_URL] if base == GaiaexSettings().ws_url else [])]
