"""Clients of a simulated venue for tests, over its real socket."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from ingest.simulator.market.spec import DEFAULT_COINS, MarketSpec
from ingest.simulator.market.synthetic import SyntheticMarket
from ingest.simulator.venue import SimulatedVenue
from ingest.simulator.wire.encoder import Block

BY_NAME = {coin.name: coin for coin in DEFAULT_COINS}
SMALL = MarketSpec(seed=3, span_s=90.0, coins=tuple(BY_NAME[name] for name in ("BTC", "SOL", "MATIC")))

Key = tuple[str, int, int]


class Rerun(SyntheticMarket):
    """A market that is generated once and served any number of times; one venue at a time."""

    def blocks(self) -> Iterator[Block]:
        for block in _blocks_of(self.spec):
            for frame in block.frames:
                for item in frame.prints:
                    item.delivered = False
            yield block


class _Blocks:
    """The blocks of a market, generated as far as anyone has read them."""

    def __init__(self, spec: MarketSpec) -> None:
        self._rest = SyntheticMarket(spec).blocks()
        self._made: list[Block] = []

    def __iter__(self) -> Iterator[Block]:
        for place in itertools.count():
            if place == len(self._made):
                block = next(self._rest, None)
                if block is None:
                    return
                self._made.append(block)
            yield self._made[place]


@lru_cache(maxsize=16)
def _blocks_of(spec: MarketSpec) -> _Blocks:
    return _Blocks(spec)


def market(**changes: Any) -> SyntheticMarket:
    """Return a small market; `changes` replace fields of its spec."""
    fields = {name: getattr(SMALL, name) for name in ("seed", "span_s", "coins", "start_ns")}
    return Rerun(MarketSpec(**(fields | changes)))


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[ClientConnection]:
    async with connect(url, compression=None, ping_interval=None, close_timeout=0.2) as socket:
        yield socket


def client(venue: SimulatedVenue) -> AbstractAsyncContextManager[ClientConnection]:
    """Return a connection to the venue's API."""
    return connected(venue.ws_url)


async def subscribe(socket: ClientConnection, channel: str, coin: str, **more: Any) -> None:
    await ask(socket, {"method": "subscribe", "subscription": {"type": channel, "coin": coin, **more}})


async def ask(socket: ClientConnection, message: Any) -> None:
    await socket.send(message if isinstance(message, str) else json.dumps(message))


async def answer(socket: ClientConnection) -> dict[str, Any]:
    """Return the next message that is not a clock frame."""
    while True:
        message: dict[str, Any] = json.loads(await socket.recv())
        if message["channel"] != "tickwalkClock":
            return message


@dataclass
class Heard:
    """Messages received until the connection ended."""

    frames: list[str | bytes] = field(default_factory=list)
    code: int | None = None
    """Close code; None where no close frame came (1006)."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        out = []
        for frame in self.frames:
            try:
                message = json.loads(frame)
            except ValueError:
                continue
            if isinstance(message, dict):
                out.append(message)
        return out

    @property
    def lists(self) -> list[list[dict[str, Any]]]:
        """Return the messages that are bare lists, as the explorer sends them."""
        parsed = (json.loads(frame) for frame in self.frames if frame[:1] in ("[", b"["))
        return [rows for rows in parsed if isinstance(rows, list)]

    def of(self, channel: str, coin: str | None = None) -> list[Any]:
        """Return the data of a channel's messages."""
        return [
            message["data"]
            for message in self.messages
            if message.get("channel") == channel and (coin is None or coin_of(message) == coin)
        ]

    def typed(self, kind: str) -> list[dict[str, Any]]:
        """Return GaiaEx's messages of a type."""
        return [message for message in self.messages if message.get("type") == kind]

    def trades(self, coin: str | None = None) -> list[Key]:
        """Return the keys of all prints in order of receipt."""
        return [key(row) for batch in self.of("trades", coin) for row in batch]


def key(row: dict[str, Any]) -> Key:
    return row["coin"], row["time"], row["tid"]


def coin_of(message: dict[str, Any]) -> str | None:
    data = message["data"]
    first = data[0] if isinstance(data, list) else data
    return first.get("coin", first.get("s")) if isinstance(first, dict) else None


async def listen(socket: ClientConnection) -> Heard:
    """Return everything until the connection ends."""
    heard = Heard()
    try:
        while True:
            heard.frames.append(await socket.recv())
    except ConnectionClosed as closed:
        heard.code = closed.rcvd.code if closed.rcvd else None
    return heard


async def follow(venue: SimulatedVenue, streams: Iterable[tuple[str, str]]) -> Heard:
    """Connect, subscribe, and return everything until the connection ends."""
    async with client(venue) as socket:
        for channel, coin in streams:
            await subscribe(socket, channel, coin)
        return await listen(socket)


def waiting_venue(**more: Any) -> SimulatedVenue:
    """Return a small venue whose time stands still."""
    return SimulatedVenue(market(), wait_for_subscriptions=99, **more)


async def info(venue: SimulatedVenue, **request: Any) -> Any:
    """Return the answer to a request that the venue accepts."""
    async with httpx.AsyncClient() as http:
        got = await http.post(venue.info_url, json=request)
    assert got.status_code == httpx.codes.OK
    assert got.headers["content-type"].startswith("application/json")
    return got.json()
