"""Sinks and helpers for tests that listen to sockets."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from ingest.feed.connection_pool import ConnectionPool
from ingest.feed.subscription_plan import ConnectionPlan, Subscription
from storage.clock import WallTime
from storage.settings import Settings
from tests.patience import HANG_S

QUICK: dict[str, Any] = {
    "explorer_url": "",
    "backoff_first_s": 0.05,
    "backoff_max_s": 0.05,
    "ack_timeout_s": 0.3,
    "ping_s": 0.2,
    "pong_timeout_s": 0.4,
    "handshakes_per_minute": 600,
    "messages_per_s": 500,
}


class Ears:
    """A sink that stores everything, and reports frames to the watchdogs as the pipeline does."""

    def __init__(self) -> None:
        self.opened_: list[tuple[int, dict[str, str]]] = []
        self.closed_: list[tuple[int, str]] = []
        self.frames: list[tuple[int, bytes]] = []
        self.sockets: ConnectionPool | None = None
        self._news = asyncio.Event()

    def opened(self, connection: int, about: dict[str, str]) -> None:
        self.opened_.append((connection, about))
        self._news.set()

    def closed(self, connection: int, cause: str) -> None:
        self.closed_.append((connection, cause))
        self._news.set()

    def frame(self, connection: int, body: bytes) -> None:
        self.frames.append((connection, body))
        self._news.set()
        if self.sockets is not None and body[:1] == b"{":
            channel, coin = channel_and_coin(msgspec.json.decode(body))
            self.sockets.watchdogs.record_frames(channel, coin, WallTime().now_ns(), connection=connection)

    def of(self, channel: str, coin: str | None = None) -> list[tuple[int, dict[str, Any]]]:
        """Return (connection, message) of a channel."""
        return [
            (number, message)
            for number, message in self.messages
            if channel_and_coin(message) == (channel, channel_and_coin(message)[1] if coin is None else coin)
        ]

    @property
    def messages(self) -> list[tuple[int, dict[str, Any]]]:
        return [(number, msgspec.json.decode(body)) for number, body in self.frames if body[:1] == b"{"]

    @property
    def answers(self) -> list[tuple[int, str, Subscription]]:
        """(connection, method, what) of every subscription that was answered."""
        return [
            (
                number,
                data["method"],
                Subscription(data["subscription"]["type"], data["subscription"].get("coin", "")),
            )
            for number, message in self.messages
            if message.get("channel") == "subscriptionResponse"
            for data in [message["data"]]
        ]

    async def until(self, is_so: Callable[[], bool], timeout_s: float = HANG_S) -> None:
        """Wait until a condition on the received frames holds."""
        async with asyncio.timeout(timeout_s):
            while not is_so():
                await self._news.wait()
                self._news.clear()


def channel_and_coin(message: dict[str, Any]) -> tuple[str, str]:
    data = message.get("data")
    first = data[0] if isinstance(data, list) and data else data
    coin = first.get("coin", "") if isinstance(first, dict) else ""
    return str(message.get("channel", message.get("type", ""))), coin


def quick(settings: Settings, **record: Any) -> Settings:
    """Return settings with short timeouts."""
    return dataclasses.replace(settings, record=dataclasses.replace(settings.record, **(QUICK | record)))


def feed(url: str, *wanted: tuple[str, str], name: str = "hyperliquid-1") -> ConnectionPlan:
    """Return a plan of one Hyperliquid socket."""
    return ConnectionPlan(
        name, "hyperliquid", url, tuple(Subscription(channel, coin) for channel, coin in wanted)
    )


@asynccontextmanager
async def listening(
    plans: Sequence[ConnectionPlan], settings: Settings, *, tells_watchdogs: bool = False, **more: Any
) -> AsyncIterator[tuple[ConnectionPool, Ears]]:
    """Run sockets during a test, and stop them as Ctrl-C does."""
    ears, stop = Ears(), asyncio.Event()
    sockets = ConnectionPool(plans, ears, settings, **more)
    if tells_watchdogs:
        ears.sockets = sockets
    running = asyncio.create_task(sockets.run(stop))
    try:
        yield sockets, ears
    finally:
        stop.set()
        async with asyncio.timeout(5.0):
            await running
