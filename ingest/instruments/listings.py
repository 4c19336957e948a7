"""Listings in the venues' answers: names, dexes and positions.

Answers of `POST /info` and of GaiaEx become the same facts. A scope is what one answer lists completely: the perps
of one dex, or the spot pairs of a venue; a name that a scope no longer holds is absent from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import msgspec

from ingest.venues.gaiaex import protocol as gaiaex
from ingest.venues.gaiaex.rest_schemas import SpotSymbols, Symbols
from ingest.venues.hyperliquid.protocol import Meta
from storage.errors import VenueError

T = TypeVar("T")


class ListingScope(NamedTuple):
    """What one answer lists completely; `dex` is empty for the first dex and for spot."""

    venue: str
    kind: str
    dex: str


@dataclass(frozen=True, slots=True)
class ListedName:
    """One listed name.

    Args:
        symbol: name at the venue.
        asset_index: position in the list (None: the venue has none).
        size_decimals: decimals of a size (None: not stated).
        quote: token of payment or margin, where known.
        max_leverage: None for spot.
        is_delisted: still named, but no longer traded.
    """

    symbol: str
    asset_index: int | None = None
    size_decimals: int | None = None
    quote: str | None = None
    max_leverage: float | None = None
    is_delisted: bool = False


class Token(msgspec.Struct, rename="camel"):
    """A token of `spotMeta`."""

    name: str
    index: int
    sz_decimals: int


class Pair(msgspec.Struct):
    """A spot pair: base and quote token by index."""

    name: str
    tokens: tuple[int, int]
    index: int


class SpotMeta(msgspec.Struct):
    """The venue's tokens and spot pairs."""

    tokens: list[Token]
    universe: list[Pair]


class Dex(msgspec.Struct):
    """A deployed perp dex."""

    name: str


def convert_answer(response: object, kind: type[T], what: str) -> T:
    """Convert the JSON of an answer to a type.

    Raises:
        VenueError: the answer does not fit; the message names the field.
    """
    try:
        return msgspec.convert(response, kind, strict=False)
    except msgspec.ValidationError as error:
        raise VenueError(
            f"the venue's {what} does not fit: {error}",
            hint="the venue may have changed its wire format; see docs/adding-a-venue.md",
        ) from error


def perp_listings(meta: Meta, tokens: Mapping[int, str]) -> list[ListedName]:
    """Return the perps of a dex; `tokens` maps token indices to names, where known."""
    quote = None if meta.collateral_token is None else tokens.get(meta.collateral_token)
    return [
        ListedName(item.name, position, item.sz_decimals, quote, item.max_leverage, bool(item.is_delisted))
        for position, item in enumerate(meta.universe)
    ]


def spot_listings(meta: SpotMeta) -> list[ListedName]:
    """Return the spot pairs; sizes have the decimals of the base token."""
    tokens = {token.index: token for token in meta.tokens}
    found = []
    for pair in meta.universe:
        base, quote = (tokens.get(index) for index in pair.tokens)
        decimals = base.sz_decimals if base else None
        found.append(ListedName(pair.name, pair.index, decimals, quote.name if quote else None))
    return found


def gaiaex_listings(path: str, response: object) -> tuple[ListingScope, list[ListedName]] | None:
    """Return what an answer of GaiaEx lists; None for an answer to any other request."""
    if path == "symbols/list":
        symbols = convert_answer(response, Symbols, path).symbols
        listed = [ListedName(item.symbol, max_leverage=item.max_leverage) for item in symbols]
        return ListingScope(gaiaex.VENUE, "perp", ""), listed
    if path == "spot/symbols":
        pairs = convert_answer(response, SpotSymbols, path).symbols
        return ListingScope(gaiaex.VENUE, "spot", ""), [
            ListedName(item.symbol, None, item.sz_decimals, item.quote_token) for item in pairs
        ]
    return None


def dex_names(metas: Iterable[Meta], known: tuple[str, ...]) -> list[str | None]:
    """Return the dex of each meta of `allPerpMetas`: by the order of `perpDexs` where that is known.

    Otherwise by the prefix that all names of a later dex share; a dex without names stays unknown.
    """
    metas = list(metas)
    if len(known) == len(metas):
        return list(known)
    prefixes = [meta.universe[0].name.partition(":")[0] if meta.universe else None for meta in metas[1:]]
    return [*([""] if metas else []), *prefixes]


def parse_dexs(response: Any) -> tuple[str, ...]:
    """Return the names of all perp dexes in order; the first is empty, and null in the answer."""
    return tuple(
        "" if dex is None else dex.name for dex in convert_answer(response, list[Dex | None], "perpDexs")
    )
