"""How does the simulated venue talk with one client: its subscriptions, answers and stream?"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from aiohttp import WSMsgType, web

from ingest.venues.board import Board
from ingest.venues.faults import ClaimSubscribed, FaultPlan, LoseAck
from ingest.venues.frames import PONG, Frame, Print, error_text, trades_text
from ingest.venues.subscriptions import Refused, Request, Subscription, ack_text, parse_request
from storage.logs import get_logger

logger = get_logger(__name__)

MOST_SUBSCRIPTIONS: Final = 1_000
_BARRIER_S: Final = 10.0


@dataclass(slots=True)
class Stats:
    """What the venue has sent, over all connections."""

    connections: int = 0
    frames: Counter[str] = field(default_factory=Counter)
    """Messages by channel, the venue's answers and our clock frames among them."""
    prints: Counter[str] = field(default_factory=Counter)
    """Prints by coin as sent, replays and duplicates among them."""
    distinct: Counter[str] = field(default_factory=Counter)
    """Prints by coin that were sent at least once: what a recorder that loses nothing stores."""
    made: Counter[str] = field(default_factory=Counter)
    """Prints by coin that happened within the served span, sent or not."""


class Session:
    """One client's connection.

    Args:
        ws: the socket.
        abort: drops the connection without a close frame.
        board: what the venue knows.
        plan: what goes wrong.
        stats: where sent messages are counted.
        replayed: prints resent on subscribe.
        on_print: is told of each print sent, every time that it is sent.
    """

    def __init__(
        self,
        ws: web.WebSocketResponse,
        abort: Callable[[], None],
        *,
        board: Board,
        plan: FaultPlan,
        stats: Stats,
        replayed: int,
        on_print: Callable[[Print], None] | None,
    ) -> None:
        self.subscriptions: dict[str, Subscription] = {}
        self.last_sent_s = 0.0
        self._ws = ws
        self._abort = abort
        self._board = board
        self._plan = plan
        self._stats = stats
        self._replayed = replayed
        self._on_print = on_print
        self._made: list[Subscription] = []
        self._pings = itertools.count()
        self._pongs: dict[bytes, asyncio.Event] = {}
        self.touch()

    @property
    def is_open(self) -> bool:
        return not self._ws.closed

    def touch(self) -> None:
        """Note that something was sent just now."""
        self.last_sent_s = asyncio.get_running_loop().time()

    async def answer(self, text: str, coins: Iterable[str]) -> None:
        """Answer one message of the client."""
        try:
            request = parse_request(text, frozenset(coins))
            if request.subscription is None:
                if not self._plan.loses_pongs(self._board.now_ms):
                    await self.send(PONG, "pong")
            elif request.method == "subscribe":
                await self._subscribe(request.subscription)
            else:
                await self._unsubscribe(request)
        except Refused as refusal:
            await self.send(error_text(str(refusal)), "error")

    async def stream(self, frames: list[Frame], clock: str | None, *, slow: bool, fast: bool) -> None:
        """Send what this client subscribed to of a block, after the clock frame where there is one.

        Args:
            frames: the frames of the block for all clients.
            clock: the clock frame, or None.
            slow: whether books of the slow cadence are due; `fast` likewise.
        """
        keys, sent = self.subscriptions, self._stats.frames
        made = self._books_and_candles(frames, slow=slow, fast=fast) if self._made else []
        chosen = [frame for frame in frames if frame.key in keys]
        if self._ws.closed or not (frames or made):
            return
        try:
            if clock is not None:
                await self._ws.send_str(clock)
                sent["tickwalkClock"] += 1
            for frame in chosen:
                await self._ws.send_str(frame.text)
                sent[frame.channel] += 1
                if frame.prints:
                    self._count(frame.prints)
            for channel, text in made:
                await self._ws.send_str(text)
                sent[channel] += 1
        except ConnectionError:  # the client has gone; its handler notices
            return
        if clock is not None or chosen or made:
            self.touch()

    async def send(self, message: str | bytes, channel: str) -> None:
        """Send one message; that the client has gone is for its handler to notice."""
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

    async def barrier(self) -> None:
        """Wait until the client has read all that was sent so far, or has gone, or takes too long."""
        token = b"barrier-%d" % next(self._pings)
        event = self._pongs[token] = asyncio.Event()
        try:
            await self._ws.ping(token)
            await asyncio.wait_for(event.wait(), _BARRIER_S)
        except (ConnectionError, TimeoutError) as error:
            logger.warning("client did not confirm", error=type(error).__name__)

    async def close(self, *, clean: bool) -> None:
        """End the connection: with code 1000, or by dropping it."""
        if clean:
            await self._ws.close(code=1000)
        else:
            self._abort()

    async def handle(self, kind: WSMsgType, data: object) -> None:
        """Handle a frame of the WebSocket protocol that is no text."""
        if kind is WSMsgType.PING:
            await self._ws.pong(data if isinstance(data, bytes) else b"")
        elif kind is WSMsgType.PONG:
            event = self._pongs.pop(bytes(data) if isinstance(data, (bytes, bytearray)) else b"", None)
            if event is not None:
                event.set()

    async def _subscribe(self, item: Subscription) -> None:
        if item.key in self.subscriptions:
            raise Refused(f"Already subscribed: {item.echo()}")
        if len(self.subscriptions) >= MOST_SUBSCRIPTIONS:
            raise Refused(f"Cannot subscribe to more than {MOST_SUBSCRIPTIONS} channels.")
        fault = self._plan.on_subscribe(item)
        if isinstance(fault, LoseAck) and not fault.takes_effect:
            return
        # The stream starts before the first answer is sent, so that no print falls between replay and stream.
        prints = self._board.replay(item.coin, self._replayed) if item.channel == "trades" else []
        snapshot = None if item.channel == "trades" else self._board.snapshot(item)
        self._set({**self.subscriptions, item.key: item})
        if isinstance(fault, ClaimSubscribed):
            raise Refused(f"Already subscribed: {item.echo()}")
        if fault is None:
            await self.send(ack_text("subscribe", item), "subscriptionResponse")
        if self._plan.is_silent(item.channel, item.coin, self._board.now_ms):
            return
        if prints:
            await self.send(trades_text(prints), "trades")
            self._count(prints)
        elif snapshot is not None:
            await self.send(snapshot, item.channel)

    async def _unsubscribe(self, request: Request) -> None:
        item = request.subscription
        assert item is not None
        if item.key not in self.subscriptions:
            raise Refused(f"Already unsubscribed: {item.echo()}")
        self._set({key: value for key, value in self.subscriptions.items() if key != item.key})
        await self.send(ack_text("unsubscribe", item), "subscriptionResponse")

    def _set(self, subscriptions: dict[str, Subscription]) -> None:
        self.subscriptions = subscriptions
        self._made = [item for item in subscriptions.values() if item.channel in ("l2Book", "candle")]

    def _books_and_candles(self, frames: Iterable[Frame], *, slow: bool, fast: bool) -> list[tuple[str, str]]:
        """Return (channel, message) of the books that are due and the candles of the coins that printed."""
        printed = {frame.coin for frame in frames if frame.prints}
        out = []
        for item in self._made:
            due = item.coin in printed if item.channel == "candle" else (fast if item.fast else slow)
            if not due or self._plan.is_silent(item.channel, item.coin, self._board.now_ms):
                continue
            text = self._board.made(item)
            if text is not None:
                out.append((item.channel, text))
        return out

    def _count(self, prints: Iterable[Print]) -> None:
        stats, on_print = self._stats, self._on_print
        for item in prints:
            stats.prints[item.coin] += 1
            if not item.delivered:
                item.delivered = True
                stats.distinct[item.coin] += 1
            if on_print is not None:
                on_print(item)
