"""Liveness checks of one connection: ping, pong timeout and silence timeout.

`Keepalive` is pure: time is an argument, in seconds of a monotonic clock. Time during which reading was paused or the
process was busy elsewhere does not count as silence.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from websockets.asyncio.client import ClientConnection

from ingest.concurrency import now
from ingest.feed.connection_context import ConnectionContext
from ingest.feed.subscription_plan import Venue
from ingest.feed.subscriptions import SubscriptionState
from ingest.venues.hyperliquid.protocol import PING


class Keepalive:
    """Liveness of one connection, checked every `tick_s` seconds."""

    def __init__(
        self,
        now_s: float,
        *,
        ping_s: float | None,
        pong_timeout_s: float,
        silence_s: float,
        needs_pongs: bool = True,
    ) -> None:
        """Start with a new connection.

        Args:
            now_s: the present.
            ping_s: seconds between pings (None: the venue has no ping).
            pong_timeout_s: a pong missing for so long means a dead connection.
            silence_s: no data for so long means a dead connection.
            needs_pongs: whether a missing pong counts.
        """
        self._ping_s = ping_s
        self._pong_timeout_s = pong_timeout_s
        self._silence_s = silence_s
        self._needs_pongs = needs_pongs
        self._checked_s = self._last_data_s = self._ping_due_s = now_s
        self._pong_due_s: float | None = None
        self._frames = self._pongs = 0

    @property
    def tick_s(self) -> float:
        """Seconds between checks."""
        return min(1.0, self._pong_timeout_s / 4, self._silence_s / 4)

    def check(
        self, now_s: float, *, frames: int, pongs: int, is_paused: bool, expects_data: bool = True
    ) -> str:
        """Return why the connection is dead; empty while it is alive.

        Args:
            now_s: the present.
            frames: frames with data so far.
            pongs: pongs so far.
            is_paused: whether reading is paused.
            expects_data: whether any subscription could deliver data.
        """
        since_s = now_s - self._checked_s
        blind_s = since_s if is_paused else max(0.0, since_s - 2 * self.tick_s)
        self._checked_s = now_s
        self._last_data_s += blind_s
        if self._pong_due_s is not None:
            self._pong_due_s += blind_s
        if pongs != self._pongs:
            self._pongs, self._pong_due_s = pongs, None
        if frames != self._frames or not expects_data:
            self._frames, self._last_data_s = frames, now_s
        if self._pong_due_s is not None and now_s >= self._pong_due_s:
            if self._needs_pongs:
                return f"pong missing for {self._pong_timeout_s:g} s"
            self._pong_due_s = None
        if now_s - self._last_data_s > self._silence_s:
            return f"socket silent for {self._silence_s:g} s"
        return ""

    def is_ping_due(self, now_s: float) -> bool:
        """Return whether a ping is due and none is unanswered."""
        return self._ping_s is not None and self._pong_due_s is None and now_s >= self._ping_due_s

    def record_ping(self, now_s: float) -> None:
        """Note that a ping was sent."""
        assert self._ping_s is not None
        self._ping_due_s = now_s + self._ping_s
        self._pong_due_s = now_s + self._pong_timeout_s


@dataclass(slots=True)
class ConnectionStats:
    """Data frames and pongs received so far."""

    frames: int = 0
    pongs: int = 0


async def keep_alive(
    socket: ClientConnection,
    stats: ConnectionStats,
    subscriptions: SubscriptionState,
    shared: ConnectionContext,
    venue: Venue,
) -> str:
    """Ping until the connection is dead; return the cause."""
    record, is_gaia = shared.settings.record, venue == "gaiaex"
    keepalive = Keepalive(
        now(),
        ping_s=None if is_gaia else record.ping_s,
        pong_timeout_s=record.pong_timeout_s,
        silence_s=shared.settings.gaiaex.heartbeat_silence_s if is_gaia else record.socket_silence_s,
        # Whether the explorer answers pings is unknown; its blocks prove that it is alive.
        needs_pongs=venue == "hyperliquid",
    )
    while True:
        is_all_refused = bool(subscriptions.wanted) and subscriptions.refused.issuperset(subscriptions.wanted)
        cause = keepalive.check(
            now(),
            frames=stats.frames,
            pongs=stats.pongs,
            is_paused=shared.is_paused,
            expects_data=not is_all_refused,
        )
        if cause:
            return cause
        if keepalive.is_ping_due(now()):
            await shared.messages.spend()
            await socket.send(PING.decode())
            keepalive.record_ping(now())
        await asyncio.sleep(keepalive.tick_s)
