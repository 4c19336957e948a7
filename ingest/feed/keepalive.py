"""Is a connection alive: does it answer pings, and does anything come?

Pure: time is an argument, in seconds of a clock that never falls. What we could not hear, because reading was held
back or the process was busy elsewhere, is nobody's silence.
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
    """Judges one connection, looked at every `tick_s` seconds."""

    def __init__(
        self,
        now_s: float,
        *,
        ping_s: float | None,
        pong_timeout_s: float,
        silence_s: float,
        needs_pongs: bool = True,
    ) -> None:
        """Start with a connection that was just opened.

        Args:
            now_s: the present.
            ping_s: seconds between pings; None: the venue knows none.
            pong_timeout_s: a pong missing for so long ends the connection.
            silence_s: no data for so long ends it.
            needs_pongs: whether a missing pong says anything.
        """
        self._ping_s = ping_s
        self._pong_timeout_s = pong_timeout_s
        self._silence_s = silence_s
        self._needs_pongs = needs_pongs
        self._looked_s = self._heard_s = self._ping_due_s = now_s
        self._pong_due_s: float | None = None
        self._frames = self._pongs = 0

    @property
    def tick_s(self) -> float:
        """How often to look."""
        return min(1.0, self._pong_timeout_s / 4, self._silence_s / 4)

    def look(
        self, now_s: float, *, frames: int, pongs: int, is_paused: bool, expects_data: bool = True
    ) -> str:
        """Return why the connection is dead; empty: it is not.

        Args:
            now_s: the present.
            frames: frames with data so far.
            pongs: pongs so far.
            is_paused: nobody reads.
            expects_data: whether anything is subscribed that could come.
        """
        since_s = now_s - self._looked_s
        blind_s = since_s if is_paused else max(0.0, since_s - 2 * self.tick_s)
        self._looked_s = now_s
        self._heard_s += blind_s
        if self._pong_due_s is not None:
            self._pong_due_s += blind_s
        if pongs != self._pongs:
            self._pongs, self._pong_due_s = pongs, None
        if frames != self._frames or not expects_data:
            self._frames, self._heard_s = frames, now_s
        if self._pong_due_s is not None and now_s >= self._pong_due_s:
            if self._needs_pongs:
                return f"pong missing for {self._pong_timeout_s:g} s"
            self._pong_due_s = None
        if now_s - self._heard_s > self._silence_s:
            return f"socket silent for {self._silence_s:g} s"
        return ""

    def wants_ping(self, now_s: float) -> bool:
        """Return whether a ping is due, and none is on its way."""
        return self._ping_s is not None and self._pong_due_s is None and now_s >= self._ping_due_s

    def pinged(self, now_s: float) -> None:
        """A ping was sent."""
        assert self._ping_s is not None
        self._ping_due_s = now_s + self._ping_s
        self._pong_due_s = now_s + self._pong_timeout_s


@dataclass(slots=True)
class ConnectionStats:
    """What a connection has heard so far: frames with data, and pongs."""

    frames: int = 0
    pongs: int = 0


async def keep_alive(
    socket: ClientConnection,
    heard: ConnectionStats,
    desired: SubscriptionState,
    shared: ConnectionContext,
    venue: Venue,
) -> str:
    """Ping until the connection is dead; return why it is."""
    record, is_gaia = shared.settings.record, venue == "gaiaex"
    pulse = Keepalive(
        now(),
        ping_s=None if is_gaia else record.ping_s,
        pong_timeout_s=record.pong_timeout_s,
        silence_s=shared.settings.gaiaex.heartbeat_silence_s if is_gaia else record.socket_silence_s,
        # Whether the explorer answers pings is not known; its blocks speak for it.
        needs_pongs=venue == "hyperliquid",
    )
    while True:
        is_all_refused = bool(desired.wanted) and desired.refused.issuperset(desired.wanted)
        cause = pulse.look(
            now(),
            frames=heard.frames,
            pongs=heard.pongs,
            is_paused=shared.is_paused,
            expects_data=not is_all_refused,
        )
        if cause:
            return cause
        if pulse.wants_ping(now()):
            await shared.messages.spend()
            await socket.send(PING.decode())
            pulse.pinged(now())
        await asyncio.sleep(pulse.tick_s)
