"""GaiaEx messages of both generations, and their decoder.

GaiaEx shows Hyperliquid's books: a relay, not a market of its own, and it publishes no trades. One socket carries one
symbol; there are no subscriptions, the address names the symbol. Every message of a book is complete.

Two generations of its pages contradict each other, and which one is live is unknown (`tickwalk probe` finds out): G1
sends a book as one flat list `levels`, G2 as `bids` and `asks`. A flat list is accepted only if exactly one split into
sides is possible; it is never guessed. Numbers are decimal strings, in G2's spot book JSON numbers. Source: the
venue's pages as captured in 2026, undated; nothing here was checked against the live venue.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final, Literal, TypeVar

import msgspec

from ingest.venues.gaiaex.protocol import NOT_SUPPORTED
from ingest.venues.hyperliquid.messages import Level
from storage.errors import VenueError

Generation = Literal["G1", "G2"]
T = TypeVar("T")


# Messages.


class GaiaBook(msgspec.Struct, tag_field="type", tag="orderbook"):
    """A complete book: bids from the highest, asks from the lowest; `time` in ms, `is_stale` as the relay states."""

    symbol: str
    time: int
    levels: tuple[list[Level], list[Level]]
    generation: Generation
    is_stale: bool = False


class RelayHeartbeat(msgspec.Struct, tag_field="type", tag="heartbeat"):
    """The relay is alive; `timestamp` in ms. The book may be stale all the same, see `stale`."""

    timestamp: int
    symbol: str = ""
    stale: bool = False


class UpstreamLost(msgspec.Struct, tag_field="type", tag="stale"):
    """The relay lost its connection to Hyperliquid: its book is frozen until `recovered`."""

    reason: str
    symbol: str = ""
    timestamp: int | None = None


class UpstreamRecovered(msgspec.Struct, tag_field="type", tag="recovered"):
    """The relay is connected to Hyperliquid again."""

    symbol: str = ""
    timestamp: int | None = None


class Rejection(msgspec.Struct, tag_field="type", tag="error"):
    """The venue refuses and closes; a reconnect to a symbol that is `NOT_SUPPORTED` would loop."""

    code: str
    message: str = ""

    @property
    def is_terminal(self) -> bool:
        """Whether the symbol is not, or no longer, listed."""
        return self.code == NOT_SUPPORTED


class GaiaPong(msgspec.Struct, tag_field="type", tag="pong"):
    """The answer to a ping: bare text."""


GaiaMessage = GaiaBook | RelayHeartbeat | UpstreamLost | UpstreamRecovered | Rejection | GaiaPong


class _SpotLevel(msgspec.Struct):
    price: float
    size: float
    count: int | None = None


_Side = list[list[float] | _SpotLevel]


class _RawBook(msgspec.Struct, tag_field="type", tag="orderbook"):
    """A book of either generation, which decides the required fields."""

    coin: str | None = None
    levels: list[Level] | None = None
    time: int | None = None
    symbol: str | None = None
    bids: _Side | None = None
    asks: _Side | None = None
    timestamp: int | None = None
    stale: bool | None = None
    feed_connected: bool | None = None


_TYPE: Final = re.compile(rb'"type"\s*:\s*"([^"\\]*)"')
_decoder: Final = msgspec.json.Decoder(
    _RawBook | RelayHeartbeat | UpstreamLost | UpstreamRecovered | Rejection | GaiaPong, strict=False
)


def decode(frame: bytes) -> GaiaMessage:
    """Return the message of a frame, of either generation.

    Raises:
        VenueError: the frame is neither JSON nor `pong`, of an unknown type, lacks a field, or holds a flat book
            without exactly one split into sides (`schema_unsupported`).
    """
    try:
        message = _decoder.decode(frame)
    except msgspec.ValidationError as error:
        raise VenueError(f"GaiaEx frame does not fit the wire contract: {error}") from error
    except RecursionError as error:
        raise VenueError("GaiaEx frame is nested too deeply to be read") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if frame.strip() == b"pong":
            return GaiaPong()
        raise VenueError(f"GaiaEx frame is not JSON: {error}") from error
    return _book_of(message) if isinstance(message, _RawBook) else message


def type_of(frame: bytes) -> str:
    """Return the type that an undecodable frame names; an empty text if it cannot be read."""
    named = _TYPE.findall(frame)
    return named[0].decode(errors="replace") if len(named) == 1 else ""


def _book_of(raw: _RawBook) -> GaiaBook:
    is_stale = raw.stale is True or raw.feed_connected is False
    if raw.levels is not None and raw.bids is None and raw.asks is None:
        coin, time = _required(raw.coin, "coin"), _required(raw.time, "time")
        return GaiaBook(coin, time, split_flat(raw.levels), "G1", is_stale)
    if raw.levels is None and (raw.bids is not None or raw.asks is not None):
        bids, asks = _required(raw.bids, "bids"), _required(raw.asks, "asks")
        symbol, time = _required(raw.symbol, "symbol"), _required(raw.timestamp, "timestamp")
        return GaiaBook(symbol, time, (_side(bids), _side(asks)), "G2", is_stale)
    raise VenueError("schema_unsupported: an orderbook has either `levels` or `bids` and `asks`")


def _required(value: T | None, field: str) -> T:
    if value is None:
        raise VenueError(f"GaiaEx frame does not fit the wire contract: missing required field `{field}`")
    return value


def _side(levels: _Side) -> list[Level]:
    found = []
    for level in levels:
        if isinstance(level, _SpotLevel):
            found.append(Level(level.price, level.size, level.count))
        elif len(level) >= 2:
            found.append(Level(level[0], level[1]))
        else:
            raise VenueError(f"schema_unsupported: a level of {len(level)} numbers has no price and size")
    return found


def split_flat(levels: list[Level]) -> tuple[list[Level], list[Level]]:
    """Return bids and asks of a flat list of levels, if exactly one split is possible.

    The list must fall and then rise in price, with one turn, and every ask must lie above every bid. A list that
    only rises could be asks, or one bid and asks; one that only falls could be bids, or a ladder of both sides.

    Raises:
        VenueError: no split is possible, or more than one (`schema_unsupported`).
    """
    prices = [level.px for level in levels]
    falls = next((n for n, (a, b) in enumerate(pairwise(prices), 1) if not b < a), len(prices))
    rises = all(a < b for a, b in pairwise(prices[falls:]))
    if falls < 2 or falls == len(prices) or not rises or not prices[0] < prices[falls]:
        raise VenueError(
            f"schema_unsupported: a flat book of {len(levels)} levels has no one split into sides"
        )
    return levels[:falls], levels[falls:]
