"""How is one socket kept open, subscribed and alive?

A feed owns one connection at a time and gives every frame on as bytes. It answers for the connection only:
stamping, journal and meaning are the recorder's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from ingest import decode as wire
from ingest.venues.hyperliquid import PING, subscribe
from storage.errors import VenueError
from storage.logs import get_logger
from storage.settings import RecordSettings

logger = get_logger(__name__)

_MAX_FRAME_BYTES: Final = 16 * 1024 * 1024
# A connection that held this long ends the backoff: the venue is well again (VENUES.md, defaults).
_HEALTHY_S: Final = 60.0
_NORMAL_CLOSE: Final = 1000


class Sink(Protocol):
    """Who takes what a feed hears."""

    def opened(self, connection: int, url: str) -> None:
        """A connection was opened."""

    def closed(self, connection: int, cause: str) -> None:
        """That connection was lost."""

    def frame(self, connection: int, body: bytes) -> None:
        """A frame arrived."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One subscription."""

    channel: str
    coin: str


class Feed:
    """Keeps a set of subscriptions alive over whatever the venue does to the socket."""

    def __init__(
        self,
        url: str,
        wanted: Sequence[Wanted],
        sink: Sink,
        settings: RecordSettings,
        *,
        has_timers: bool = True,
        ends_with_venue: bool = False,
        random_source: random.Random | None = None,
    ) -> None:
        """Prepare a feed; `run` connects.

        Args:
            url: the WebSocket's address.
            wanted: what to subscribe to, on every connection anew.
            sink: takes frames and the news of connections.
            settings: timeouts and backoff.
            has_timers: ping, and end silent sockets; false where time is the venue's and not the wall's.
            ends_with_venue: a clean close (1000) by the venue ends the feed instead of a reconnect.
            random_source: draws the waits before reconnects.
        """
        self._url = url
        self._wanted = list(wanted)
        self._sink = sink
        self._settings = settings
        self._has_timers = has_timers
        self._ends_with_venue = ends_with_venue
        self._random = random_source or random.Random()
        self._unacked: set[Wanted] = set(wanted)
        self._heard_s = 0.0
        self._pong_s = 0.0

    @property
    def missing(self) -> frozenset[Wanted]:
        """Subscriptions that this connection's venue has not acknowledged yet."""
        return frozenset(self._unacked)

    async def run(self, stop: asyncio.Event) -> None:
        """Stay connected until `stop` is set.

        Raises:
            VenueError: the address is no WebSocket address.
        """
        number, failures = -1, 0
        while not stop.is_set():
            began_s = _now_s()
            try:
                async with connect(
                    self._url,
                    compression=None,  # costs twice the receive (measured) and saves little here
                    ping_interval=None,  # the venue has its own ping; a protocol ping would prove less
                    open_timeout=self._settings.connect_timeout_s,
                    close_timeout=1.0,
                    max_size=_MAX_FRAME_BYTES,
                ) as socket:
                    number += 1
                    cause = await self._hold(socket, number, stop)
            except InvalidURI as error:
                raise VenueError(
                    f"{self._url!r} is not a WebSocket address", hint="set record.ws_url"
                ) from error
            except (OSError, InvalidHandshake, TimeoutError, ConnectionClosed) as error:
                cause = f"connect failed: {_describe(error)}"
            if stop.is_set() or (self._ends_with_venue and cause == _closed_text(_NORMAL_CLOSE)):
                return
            failures = 1 if _now_s() - began_s > _HEALTHY_S else failures + 1
            wait_s = self._random.uniform(0.0, self._longest_wait_s(failures))
            logger.warning("reconnecting", url=self._url, cause=cause, wait_s=round(wait_s, 2))
            await _wait(stop, wait_s)

    async def _hold(self, socket: ClientConnection, number: int, stop: asyncio.Event) -> str:
        """Live on one connection until it ends; return why it did."""
        self._sink.opened(number, self._url)
        logger.info("connected", url=self._url, connection=number, subscriptions=len(self._wanted))
        self._unacked = set(self._wanted)
        self._heard_s = self._pong_s = _now_s()
        helpers = [asyncio.create_task(self._subscribe(socket)), asyncio.create_task(_close_at(stop, socket))]
        if self._has_timers:
            helpers.append(asyncio.create_task(self._keep_alive(socket)))
        cause = "stopped"
        try:
            while True:
                body = await socket.recv(decode=False)
                self._note(body)
                self._sink.frame(number, body)
        except ConnectionClosed as closed:
            ended = [
                task for task in helpers if task.done() and not task.cancelled() and task.exception() is None
            ]
            cause = ended[0].result() if ended else _closed_text(closed.rcvd.code if closed.rcvd else None)
        finally:
            for task in helpers:
                task.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            self._sink.closed(number, cause)
        return cause

    def _note(self, body: bytes) -> None:
        """Read the few frames that the connection itself must understand."""
        head = body[:48]
        if b'"pong"' in head:
            self._pong_s = _now_s()  # it proves the socket, and nothing of the feed
            return
        self._heard_s = _now_s()
        if b'"subscriptionResponse"' in head or b'"error"' in head:
            try:
                message = wire.decode(body)
            except VenueError:
                return  # the pipeline quarantines it, with the reason
            if isinstance(message, wire.Ack):
                asked = message.data.subscription
                self._unacked.discard(Wanted(asked.type, asked.coin))
            elif isinstance(message, wire.Refusal) and (held := wire.already_subscribed(message.data)):
                self._unacked.discard(Wanted(held.type, held.coin))

    async def _subscribe(self, socket: ClientConnection) -> str:
        """Ask for what is wanted, and again for what is not acknowledged in time."""
        while self._unacked:
            for want in [want for want in self._wanted if want in self._unacked]:
                await socket.send(subscribe(want.channel, want.coin))
            if not self._has_timers:
                break
            await asyncio.sleep(self._settings.ack_timeout_s)
            if self._unacked:
                logger.warning("subscriptions not acknowledged", missing=len(self._unacked))
        await asyncio.Event().wait()
        return ""

    async def _keep_alive(self, socket: ClientConnection) -> str:
        """Ping; end the connection when it is silent or a pong is missing. Returns why it ended it."""
        limits = self._settings
        while True:
            sent_s = _now_s()
            await socket.send(PING.decode())
            await asyncio.sleep(limits.pong_timeout_s)
            if self._pong_s < sent_s:
                cause = f"pong missing for {limits.pong_timeout_s:g} s"
                break
            if _now_s() - self._heard_s > limits.socket_silence_s:
                cause = f"socket silent for {limits.socket_silence_s:g} s"
                break
            await asyncio.sleep(max(0.0, limits.ping_s - limits.pong_timeout_s))
        socket.transport.abort()
        return cause

    def _longest_wait_s(self, failures: int) -> float:
        return float(
            min(self._settings.backoff_max_s, self._settings.backoff_first_s * 2 ** min(failures - 1, 30))
        )


def _closed_text(code: int | None) -> str:
    return "connection lost" if code is None else f"venue closed with {code}"


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _now_s() -> float:
    return asyncio.get_running_loop().time()


async def _close_at(stop: asyncio.Event, socket: ClientConnection) -> str:
    await stop.wait()
    await socket.close()
    return "stopped"


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
