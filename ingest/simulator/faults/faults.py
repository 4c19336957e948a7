"""What can be ordered to go wrong at a simulated venue?

The faults are those that clients of the two venues report: lost sockets, replays, duplicates, silent coins,
garbage, refused requests, a halted chain, an API that is down while the chain lives, a relay that stands still.
Times are seconds since the start of the tape, in the tape's own time. `ingest.simulator.faults.injector` says when a
fault of delivery strikes; `ingest.simulator.market.events` lets the market itself change.
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
    """A fault that holds for a while; injected without a time, its while begins at once."""

    at_s: float = 0.0
    for_s: float = math.inf

    def holds(self, now_s: float) -> bool:
        """Return whether it is on, seconds after the start of the tape."""
        return self.at_s <= now_s < self.at_s + self.for_s


# What happens at one instant.


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect:
    """Cut every socket, and take none until the outage is over."""

    at_s: float = 0.0
    outage_s: float = 0.0
    clean: bool = False
    """Close with code 1000 rather than drop the connection (which a client sees as 1006)."""
    socket: int | None = None
    """Cut only this one of the open Hyperliquid connections, oldest first from 0; new ones are taken at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """The API is down: sockets cut and refused (503), `/info` too, while explorer and GaiaEx live on (F25)."""

    at_s: float = 0.0
    for_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """Send something that is no message of the protocol to every Hyperliquid connection."""

    kind: GarbageKind
    at_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ListingChange:
    """The universe changes.

    A coin of the market that is to be `listed` is absent before. `delisted` keeps its row and its position, and
    ends its prints and quotes. `recycled` brings a delisted row back under its name, with other sizes; what is
    printed keeps the decimals that the market was drawn with.
    """

    coin: str
    what: Literal["listed", "delisted", "recycled"]
    size_decimals: int | None = None
    """Of a recycled coin; None keeps what it had."""
    at_s: float = 0.0


# What holds for a while: delivery.


@dataclass(frozen=True, slots=True, kw_only=True)
class SilentStream(Window):
    """Send nothing of one coin while the others, and pongs, flow."""

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
    """Deliver everything later than usual."""

    by_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit(Window):
    """Answer 429 to connections beyond so many within a minute (the venue's own limit is 30)."""

    per_minute: int = 30


# What holds for a while: the market.


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainHalt(Window):
    """No block is made: nothing prints, no book moves, explorer and exchangeStatus stand; pongs flow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Halt(Window):
    """One market is halted: no prints, an empty book, a frozen oracle, while its siblings move."""

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
    """The venue's own stamps are shifted, forward where positive; prints sent before keep theirs (F32)."""

    by_s: float


# What holds for a while: the relay. An empty symbol means all.


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayStale(Window):
    """GaiaEx loses its upstream and says so: `stale`, a frozen book, then `recovered`."""

    symbol: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayFrozen(Window):
    """GaiaEx's book stands still and nothing says so: heartbeats go on (F29)."""

    symbol: str = ""


# What goes wrong a number of times.


@dataclass(frozen=True, slots=True, kw_only=True)
class LoseAck:
    """Do not acknowledge a subscription, the next `times` times that it is asked for."""

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
