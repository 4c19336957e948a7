"""What is said on a connection beside listening: subscriptions, again what was not answered, and pings?"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from websockets.asyncio.client import ClientConnection

from ingest.feed.connection_context import Shared
from ingest.feed.keepalive import Pulse
from ingest.feed.subscription_plan import Venue
from ingest.feed.subscriptions import Desired
from ingest.venues.hyperliquid.protocol import PING
from storage.logs import get_logger

logger = get_logger(__name__)


@dataclass(slots=True)
class Heard:
    """What a connection has heard so far: frames with data, and pongs."""

    frames: int = 0
    pongs: int = 0


async def subscribe(
    socket: ClientConnection, desired: Desired, news: asyncio.Event, shared: Shared, name: str
) -> None:
    """Say what is wanted, and again what is not acknowledged in time; goes on until cancelled.

    Args:
        socket: where to say it.
        desired: what is to be said.
        news: set when there may be more to say.
        shared: pace and timers.
        name: the socket's, for the log.
    """
    is_told = False
    while True:
        now_s = now() if shared.has_timers else 0.0
        overdue = desired.overdue(now_s)
        if overdue and not is_told:
            logger.warning("subscriptions not acknowledged", missing=len(overdue), socket=name)
        is_told = bool(overdue) or (is_told and bool(desired.missing))
        message = desired.next(now_s)
        if message is not None:
            if shared.has_timers:
                await shared.messages.spend()
            await socket.send(message)
            continue
        due_s = desired.due_s() if shared.has_timers else None
        await _wait(news, None if due_s is None else due_s - now_s)
        news.clear()


async def keep_alive(
    socket: ClientConnection, heard: Heard, desired: Desired, shared: Shared, venue: Venue
) -> str:
    """Ping until the connection is dead; return why it is."""
    record, is_gaia = shared.settings.record, venue == "gaiaex"
    pulse = Pulse(
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


def now() -> float:
    """Return the running loop's time, in seconds."""
    return asyncio.get_running_loop().time()


async def _wait(event: asyncio.Event, timeout_s: float | None) -> None:
    try:
        await asyncio.wait_for(event.wait(), None if timeout_s is None else max(0.0, timeout_s))
    except TimeoutError:
        return
