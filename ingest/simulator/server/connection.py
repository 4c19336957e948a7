"""Base class of a client connection of the simulated venue, and its statistics."""

from __future__ import annotations

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from aiohttp import WSMsgType, web

from ingest.simulator.faults.faults import FeedName
from ingest.simulator.wire.encoder import CLOCK_FRAME, Frame
from storage.logs import get_logger

logger = get_logger(__name__)

_BARRIER_S: Final = 10.0


@dataclass(slots=True)
class VenueStats:
    """Sent messages and trades, over all connections."""

    connections: int = 0
    by_feed: Counter[str] = field(default_factory=Counter)
    """Connections by feed: `hyperliquid`, `explorer`, `gaiaex`."""
    frames: Counter[str] = field(default_factory=Counter)
    """Messages by channel (GaiaEx: by type), including answers and clock frames."""
    prints: Counter[str] = field(default_factory=Counter)
    """Sent trades by coin, including replays and duplicates."""
    distinct: Counter[str] = field(default_factory=Counter)
    """Trades by coin that were sent at least once: what a recorder without losses stores."""
    made: Counter[str] = field(default_factory=Counter)
    """Trades by coin within the served span, sent or not."""


@dataclass(frozen=True, slots=True)
class Due:
    """Streams due at a block beside its frames."""

    slow: bool = False
    """Books of 20 levels."""
    fast: bool = False
    """Books of 5 levels, and fast contexts."""
    second: bool = False
    contexts: bool = False
    block: bool = False
    """Whether there is a block; the end of the source brings only delayed frames."""


class VenueConnection(ABC):
    """One connection; a subclass implements the protocol of its feed.

    Args:
        feed: of the connection.
        ws: the socket.
        abort: drops the connection without a close frame.
        stats: counts sent messages.
    """

    def __init__(
        self, feed: FeedName, ws: web.WebSocketResponse, abort: Callable[[], None], stats: VenueStats
    ) -> None:
        self.feed = feed
        self._last_sent_s = 0.0
        self._ws = ws
        self._abort = abort
        self._stats = stats
        self._pings = itertools.count()
        self._pongs: dict[bytes, asyncio.Event] = {}
        self.touch()

    @property
    @abstractmethod
    def streams(self) -> int:
        """Return the number of subscribed streams."""

    @abstractmethod
    async def answer(self, text: str) -> None:
        """Answer one message of the client."""

    @abstractmethod
    async def stream(self, frames: list[Frame], clock: str | None, due: Due) -> None:
        """Send the subscribed parts of a block, after the clock frame if there is one."""

    def touch(self) -> None:
        """Note that a message was sent now."""
        self._last_sent_s = asyncio.get_running_loop().time()

    def idle_left_s(self, most_s: float) -> float:
        """Return the time left until `most_s` have passed without a sent message."""
        return self._last_sent_s + most_s - asyncio.get_running_loop().time()

    async def send(self, message: str | bytes, channel: str) -> None:
        """Send one message; the handler notices if the client has gone."""
        if self._ws.closed:
            return
        try:
            if isinstance(message, str):
                await self._ws.send_str(message)
            else:
                await self._ws.send_bytes(message)
        except ConnectionError:
            return
        self._stats.frames[channel] += 1
        self.touch()

    async def send_clock(self, clock_ns: int) -> None:
        """Send a clock frame with the virtual receipt time."""
        await self.send(CLOCK_FRAME % clock_ns, "tickwalkClock")

    async def barrier(self) -> None:
        """Wait until the client has read everything, has gone, or takes too long."""
        token = b"barrier-%d" % next(self._pings)
        event = self._pongs[token] = asyncio.Event()
        try:
            await self._ws.ping(token)
            await asyncio.wait_for(event.wait(), _BARRIER_S)
        except (ConnectionError, TimeoutError) as error:
            logger.warning("client did not confirm", error=type(error).__name__)

    async def close(self, *, clean: bool) -> None:
        """Close the connection with code 1000, or drop it."""
        if clean:
            await self._ws.close(code=1000)
        else:
            self._abort()

    async def handle(self, kind: WSMsgType, data: object) -> None:
        """Handle a ping or pong frame of the WebSocket protocol."""
        if kind is WSMsgType.PING:
            await self._ws.pong(data if isinstance(data, bytes) else b"")
        elif kind is WSMsgType.PONG:
            event = self._pongs.pop(bytes(data) if isinstance(data, (bytes, bytearray)) else b"", None)
            if event is not None:
                event.set()
