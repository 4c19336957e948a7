"""What does an answer say is listed, on which dex, at which position?

Answers of `POST /info` and of GaiaEx become the same facts. A scope is what one answer speaks of in whole: the perps
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
    """What an answer speaks of in whole; `dex` is empty for the first one and for spot."""

    venue: str
    kind: str
    dex: str


@dataclass(frozen=True, slots=True)
class ListedName:
    """What a venue says of one name.

    Args:
        symbol: the venue's own name.
        asset_index: its position; None where the venue has none.
        size_decimals: decimals of a size; None where the venue does not say.
        quote: the token it is paid or margined in, where known.
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
    """A perp dex that someone deployed."""

    name: str


def fit(response: object, kind: type[T], what: str) -> T:
    """Return an answer's JSON as a type.

    Raises:
        VenueError: it does not fit; the message says where.
    """
    try:
        return msgspec.convert(response, kind, strict=False)
    except msgspec.ValidationError as error:
        raise VenueError(
            f"the venue's {what} does not fit: {error}",
            hint="the venue may have changed its wire format; see docs/adding-a-venue.md",
        ) from error


def perps(meta: Meta, tokens: Mapping[int, str]) -> list[ListedName]:
    """Return what a dex lists; `tokens` names the margin token where it is known."""
    quote = None if meta.collateral_token is None else tokens.get(meta.collateral_token)
    return [
        ListedName(item.name, position, item.sz_decimals, quote, item.max_leverage, bool(item.is_delisted))
        for position, item in enumerate(meta.universe)
    ]


def spots(meta: SpotMeta) -> list[ListedName]:
    """Return the spot pairs; sizes have the decimals of the base token."""
    tokens = {token.index: token for token in meta.tokens}
    found = []
    for pair in meta.universe:
        base, quote = (tokens.get(index) for index in pair.tokens)
        decimals = base.sz_decimals if base else None
        found.append(ListedName(pair.name, pair.index, decimals, quote.name if quote else None))
    return found


def gaia_listed(path: str, response: object) -> tuple[ListingScope, list[ListedName]] | None:
    """Return what an answer of GaiaEx lists; nothing where its question was another one."""
    if path == "symbols/list":
        symbols = fit(response, Symbols, path).symbols
        listed = [ListedName(item.symbol, max_leverage=item.max_leverage) for item in symbols]
        return ListingScope(gaiaex.VENUE, "perp", ""), listed
    if path == "spot/symbols":
        pairs = fit(response, SpotSymbols, path).symbols
        return ListingScope(gaiaex.VENUE, "spot", ""), [
            ListedName(item.symbol, None, item.sz_decimals, item.quote_token) for item in pairs
        ]
    return None


def dex_names(metas: Iterable[Meta], known: tuple[str, ...]) -> list[str | None]:
    """Return the dex of each meta of `allPerpMetas`: by the order of `perpDexs` where that is known.

    Where it is not, the prefix that all names of a later dex share tells; a dex without names stays unknown.
    """
    metas = list(metas)
    if len(known) == len(metas):
        return list(known)
    prefixes = [meta.universe[0].name.partition(":")[0] if meta.universe else None for meta in metas[1:]]
    return [*([""] if metas else []), *prefixes]


def parse_dexs(response: Any) -> tuple[str, ...]:
    """Return the names of all perp dexes in order; the first has none, and stands as null in the answer."""
    return tuple("" if dex is None else dex.name for dex in fit(response, list[Dex | None], "perpDexs"))
