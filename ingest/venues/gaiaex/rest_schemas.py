"""Schemas of GaiaEx's REST answers, and detection of their generation.

Source: the venue's pages as captured in 2026, undated; see `ingest.venues.gaiaex.messages`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from ingest.venues.gaiaex.messages import Generation
from storage.errors import VenueError

T = TypeVar("T")


class Symbol(msgspec.Struct, rename="camel"):
    """A perp of `symbols/list`; fields of only one generation, or of deployers' symbols only, are else null.

    `asset_class` is crypto, equity, commodity, forex, index, and `venture` (G1) or `preipo` (G2) for the same thing.
    `trading_hours` is text for people and contradicts Hyperliquid, where equities trade all week.
    """

    symbol: str
    display_name: str | None = None
    asset_class: str | None = None
    price_decimals: int | None = None
    current_price: float | None = None
    max_leverage: float | None = None
    margin_mode: str | None = None
    trading_hours: str | None = None
    deployer: str | None = None


class Symbols(msgspec.Struct):
    """The listed perps; `timestamp` in ms."""

    symbols: list[Symbol]
    timestamp: int | None = None


class SpotSymbol(msgspec.Struct, rename="camel"):
    """A pair of `spot/symbols`: named `PURR/USDC` in G1, `@145` in G2."""

    symbol: str
    display_name: str | None = None
    base_token: str | None = None
    quote_token: str | None = None
    sz_decimals: int | None = None
    status: str | None = None


class SpotSymbols(msgspec.Struct):
    """The listed spot pairs."""

    symbols: list[SpotSymbol]


class ServerTime(msgspec.Struct, rename="camel"):
    """The venue's clock, ms."""

    server_time: int


class GaiaexHealth(msgspec.Struct, rename="camel"):
    """The server's health report; `services` has `trading`, `database`, `market_data` and `candle_data`."""

    status: str
    services: dict[str, Any] = {}
    server_time: int | None = None


def parse(answer: bytes, kind: type[T]) -> T:
    """Parse an answer as `Symbols`, `SpotSymbols`, `ServerTime` or `GaiaexHealth`.

    Raises:
        VenueError: the answer does not fit.
    """
    try:
        return msgspec.json.decode(answer, type=kind, strict=False)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise VenueError(
            f"GaiaEx's answer is no {kind.__name__}: {error}",
            hint="see what it answers with: tickwalk probe --venue gaiaex",
        ) from error


def generation_of(symbols: Iterable[Symbol]) -> Generation | None:
    """Return the generation of a list: only G2 has price decimals, current prices and `preipo`; None: unknown."""
    found: Generation | None = None
    for symbol in symbols:
        has_price = symbol.price_decimals is not None or symbol.current_price is not None
        if has_price or symbol.asset_class == "preipo":
            return "G2"
        if symbol.asset_class == "venture" or (symbol.deployer is None and symbol.max_leverage is not None):
            found = "G1"
    return found
