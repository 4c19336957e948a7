"""What all connections of one recorder share: settings, sink, rate limits, watchdogs, clock."""

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
    """The consumer of what the sockets receive."""

    def opened(self, connection: int, about: dict[str, str]) -> None:
        """Called after a connection was opened, with `url`, `venue`, `socket` (plan name) and, at GaiaEx, `symbol`."""

    def closed(self, connection: int, cause: str) -> None:
        """Called after that connection was lost."""

    def frame(self, connection: int, body: bytes) -> None:
        """Called with every received frame."""


@dataclass(slots=True)
class ConnectionContext:
    """Settings and collaborators that all connections of a recorder share.

    Args:
        settings: sections `record` and `gaiaex`.
        sink: receives frames, and opened and closed connections.
        messages: rate limit of messages to Hyperliquid, which the venue counts over all connections.
        handshakes: rate limits of new connections by venue; the chain's explorer counts as Hyperliquid.
        watchdogs: detects stale streams among the confirmed subscriptions.
        random_source: for the waits before reconnects.
        clock: stamps confirmed subscriptions, for the watchdogs.
        next_number: returns the number of the next connection.
        has_timers: ping, limit rates and close silent sockets; false where the venue's clock drives time.
        ends_with_venue: a clean close (1000) by the venue ends a connection instead of a reconnect.
        is_paused: whether reading is paused.
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
