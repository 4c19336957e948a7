"""Faults that can be injected into a simulated venue.

The faults are those that clients of the two venues report: lost sockets, replays, duplicates, silent coins,
garbage, refused requests, a halted chain, an API that is down while the chain lives, a frozen relay.
Times are seconds since the start of the source, in its own time. `ingest.simulator.faults.injector` applies faults of
delivery; `ingest.simulator.market.events` changes the market itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

GarbageKind = Literal["text", "truncated", "unknown_channel", "wrong_shape", "binary"]
FeedName = Literal["hyperliquid", "explorer", "gaiaex"]

GARBAGE: Final[dict[GarbageKind, str | bytes]] = {
    "text": "Websocket connection established.",
    "truncated": '{"channel":"trades","data":[{"coin":"BTC","side":"B","px":"1097',
    "unknown_channel": '{"channel":"weather","data":{"coin":"BTC","rain":"0.3"}}',
    "wrong_shape": '{"channel":"trades","data":{"coin":"BTC","px":109741.0,"time":"soon"}}',
    "binary": b"\x00\xff\xfe tickwalk \x80",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A fault with a duration; injected without a time, it begins at once."""

    at_s: float = 0.0
    for_s: float = math.inf

    def holds(self, now_s: float) -> bool:
        """Return whether it is active, seconds after the start of the source."""
        return self.at_s <= now_s < self.at_s + self.for_s


# Faults of one instant.


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect:
    """Close every socket, and accept none until the outage is over."""

    at_s: float = 0.0
    outage_s: float = 0.0
    clean: bool = False
    """Close with code 1000 rather than drop the connection (which a client sees as 1006)."""
    socket: int | None = None
    """Close only this one of the open Hyperliquid connections, oldest first from 0; new ones are accepted at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """The API is down: sockets cut and refused (503), `/info` too, while explorer and GaiaEx stay up (F25)."""

    at_s: float = 0.0
    for_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """Send bytes that are not a message of the protocol to every Hyperliquid connection."""

    kind: GarbageKind
    at_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ListingChange:
    """Change the universe.

    A coin that is `listed` is absent before. A `delisted` one keeps its row and position, without trades and quotes.
    `recycled` brings a delisted row back under its name, with other sizes; its trades keep the decimals with which
    the market was drawn.
    """

    coin: str
    what: Literal["listed", "delisted", "recycled"]
    size_decimals: int | None = None
    """Of a recycled coin; None keeps what it had."""
    at_s: float = 0.0


# Faults of delivery with a duration.


@dataclass(frozen=True, slots=True, kw_only=True)
class SilentStream(Window):
    """Send nothing of one coin while the others, and pongs, continue."""

    coin: str
    channels: tuple[str, ...] = ()
    """Only these; empty silences them all. Venue-wide channels have the coin `""`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate(Window):
    """Send a share of the trades messages twice."""

    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reorder(Window):
    """Hold back a share of the trades messages for up to `window_s`, so that later ones overtake them."""

    share: float
    window_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NoPongs(Window):
    """Leave pings unanswered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag(Window):
    """Delay every delivery."""

    by_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit(Window):
    """Answer 429 to connections beyond so many within a minute (the venue's own limit is 30)."""

    per_minute: int = 30


# Changes of the market with a duration.


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainHalt(Window):
    """No blocks: no trades, frozen books, explorer and exchangeStatus; pongs continue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Halt(Window):
    """One market is halted: no trades, an empty book, a frozen oracle, while the others continue."""

    coin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowBook(Window):
    """Books of 20 levels come at this cadence instead of the market's (F19)."""

    cadence_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NullBook(Window):
    """The l2Book of a coin is null, on the socket and in `/info`."""

    coin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EmptySide(Window):
    """One side of a coin's book is empty; its context's midPx, premium and impactPxs are null."""

    coin: str
    side: Literal["bid", "ask"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockOff(Window):
    """Shift the venue's own timestamps, forward if positive; trades sent before keep theirs (F32)."""

    by_s: float


# Faults of the relay with a duration. An empty symbol means all.


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayStale(Window):
    """GaiaEx loses its upstream and reports it: `stale`, a frozen book, then `recovered`."""

    symbol: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayFrozen(Window):
    """GaiaEx's book is frozen without any report: heartbeats continue (F29)."""

    symbol: str = ""


# Faults with a count.


@dataclass(frozen=True, slots=True, kw_only=True)
class LoseAck:
    """Do not acknowledge a subscription, the next `times` times that it is requested."""

    channel: str
    coin: str
    times: int = 1
    takes_effect: bool = True
    """Whether the stream starts all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimSubscribed:
    """Answer a new subscription with `Already subscribed`, as the venue does after a fast reconnect.

    The stream starts, without a replay.
    """

    channel: str
    coin: str
    times: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FailInfo:
    """Answer the next `times` requests to `/info` with an error."""

    status: int = 500
    html: bool = False
    retry_after_s: int | None = None
    times: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RefuseConnections:
    """Answer the next `times` handshakes of a feed with a status instead of a WebSocket."""

    status: int = 429
    retry_after_s: int | None = None
    times: int = 1
    feed: FeedName = "hyperliquid"


Strike = Disconnect | Outage | Garbage
Counted = LoseAck | ClaimSubscribed | FailInfo | RefuseConnections
Delivery = SilentStream | Duplicate | Reorder | NoPongs | Lag | RateLimit | RelayStale | RelayFrozen
MarketChange = ListingChange | ChainHalt | Halt | SlowBook | NullBook | EmptySide | ClockOff
Fault = Strike | Counted | Delivery | MarketChange
