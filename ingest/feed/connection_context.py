"""What do all sockets of one recorder have in common?"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ingest.feed.rate_limiter import RateLimiter
from ingest.feed.stale_streams import StaleStreamDetector
from ingest.feed.subscription_plan import Venue
from storage.clock import TimeSource
from storage.settings import Settings


class Receiver(Protocol):
    """Who takes what the sockets hear."""

    def opened(self, connection: int, about: dict[str, str]) -> None:
        """A connection was opened: `url`, `venue`, `socket` (the plan's name) and, at GaiaEx, `symbol`."""

    def closed(self, connection: int, cause: str) -> None:
        """That connection was lost."""

    def frame(self, connection: int, body: bytes) -> None:
        """A frame arrived."""


@dataclass(slots=True)
class ConnectionContext:
    """What all links of a recorder have in common.

    Args:
        settings: sections `record` and `gaiaex`.
        sink: takes frames and the news of connections.
        messages: messages to Hyperliquid, which the venue counts over all connections.
        handshakes: new connections, by venue; the chain's explorer counts as Hyperliquid.
        watchdogs: told of what is subscribed.
        random_source: draws the waits before reconnects.
        clock: when a subscription was confirmed, for the watchdogs.
        next_number: gives every connection its number.
        has_timers: ping, pace, and end silent sockets; false where time is the venue's and not the wall's.
        ends_with_venue: a clean close (1000) by the venue ends a link instead of a reconnect.
        is_paused: nobody reads.
    """

    settings: Settings
    sink: Receiver
    messages: RateLimiter
    handshakes: dict[Venue, RateLimiter]
    watchdogs: StaleStreamDetector
    random_source: random.Random
    clock: TimeSource
    next_number: Callable[[], int]
    has_timers: bool
    ends_with_venue: bool
    is_paused: bool = False
