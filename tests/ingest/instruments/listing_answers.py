"""Small listing answers of the venues, for tests."""

from __future__ import annotations

from typing import Any

from ingest.instruments.registry import InstrumentRegistry
from storage.clock import NS

META = {"type": "meta"}
NOW = 1_700_000_000 * NS


def row(name: str, decimals: int = 2, **more: Any) -> dict[str, Any]:
    return {"name": name, "szDecimals": decimals, "maxLeverage": 40, **more}


def meta(*rows: dict[str, Any] | str, token: int = 0) -> dict[str, Any]:
    universe = [row(item) if isinstance(item, str) else item for item in rows]
    return {"universe": universe, "marginTables": [], "collateralToken": token}


SPOT = {
    "tokens": [
        {"name": "USDC", "szDecimals": 8, "index": 0, "weiDecimals": 8},
        {"name": "PURR", "szDecimals": 0, "index": 1, "weiDecimals": 5},
        {"name": "USDH", "szDecimals": 2, "index": 360, "weiDecimals": 8},
    ],
    "universe": [
        {"name": "PURR/USDC", "tokens": [1, 0], "index": 0, "isCanonical": True},
        {"name": "@107", "tokens": [360, 0], "index": 107},
    ],
}
DEXS = [None, {"name": "xyz", "fullName": "XYZ", "deployer": "0x1"}, {"name": "vntl"}]


def taught(*answers: tuple[dict[str, Any], object]) -> InstrumentRegistry:
    """Return a registry that was given answers, a second apart."""
    registry = InstrumentRegistry()
    for number, (request, response) in enumerate(answers):
        registry.apply_answer(request, response, NOW + number * NS)
    return registry


def of_dex(dex: str) -> dict[str, Any]:
    return {"type": "meta", "dex": dex}


def brief(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(item["instrument"].removeprefix("hyperliquid|"), item["state"]) for item in rows]


def full() -> InstrumentRegistry:
    names = (row("BTC"), row("kPEPE", 0), row("OLD", isDelisted=True))
    return taught(
        (META, meta(*names)), (of_dex("xyz"), meta("xyz:AAPL", "xyz:GOLD")), ({"type": "spotMeta"}, SPOT)
    )
