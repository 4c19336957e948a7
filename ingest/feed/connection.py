"""How is one socket kept open, subscribed and alive?

A link owns one connection at a time and gives every frame on as bytes. It answers for the connection only:
stamping, journal and meaning are the recorder's. It reads what the connection itself must understand: pongs and
the answers to subscriptions at Hyperliquid; heartbeats and `SYMBOL_NOT_SUPPORTED` at GaiaEx.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from ingest.concurrency import now
from ingest.feed.backoff import Backoff
from ingest.feed.connection_context import ConnectionContext
from ingest.feed.keepalive import ConnectionStats, keep_alive
from ingest.feed.subscription_plan import ConnectionPlan, Subscription
from ingest.feed.subscriptions import SubscriptionChange, SubscriptionState, subscribe
from ingest.feed.websocket_client import DirectConnection
from storage.errors import VenueError
from storage.logs import get_logger

logger = get_logger(__name__)

_MAX_FRAME_BYTES: Final = 16 * 1024 * 1024
_NORMAL_CLOSE: Final = 1000
_GONE: Final = 410
# The letters after `{"channel":"` of frames that carry data: nothing in them is for us, and they are nearly all.
_DATA: Final = frozenset({b"tra", b"bbo", b"l2B", b"act", b"can", b"all", b"fas"})
_GAIA_BEAT: Final = b'"heartbeat"'
_GAIA_REFUSAL: Final = b"SYMBOL_NOT_SUPPORTED"


class Connection:
    """Keeps one socket of the plan connected over whatever the venue does to it."""

    def __init__(self, plan: ConnectionPlan, shared: ConnectionContext) -> None:
        """Prepare a link; `run` connects."""
        self.plan = plan
        self.number = -1
        self.is_refused = False
        self.has_ended = False
        self.desired = SubscriptionState(plan.wanted, timeout_s=shared.settings.record.ack_timeout_s)
        self._shared = shared
        self._socket: DirectConnection | None = None
        self._failure: Exception | None = None
        self._leaving = asyncio.Event()
        self._left_because = ""
        self._news = asyncio.Event()
        self._beat = asyncio.Event()
        self._cause = ""
        self._heard = ConnectionStats()
        self._task: asyncio.Task[None] | None = None
        self._look = self._look_gaia if plan.venue == "gaiaex" else self._look_hyperliquid

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._socket is not None

    def start(self, group: asyncio.TaskGroup) -> asyncio.Task[None]:
        """Run as a task of a group."""
        self._task = group.create_task(self._run(), name=f"socket {self.plan.name}")
        return self._task

    def want(self, plan: ConnectionPlan) -> None:
        """Change what is subscribed: the difference is said to the venue, the rest goes on untouched."""
        for wanted in set(self.desired.wanted) - set(plan.wanted):
            self._shared.watchdogs.unwatch(self.number, wanted.channel, wanted.coin)
        self.plan = plan
        self.desired.want(plan.wanted)
        self._news.set()

    def renew(self, wanted: Subscription) -> None:
        """Give one subscription up and ask for it again."""
        if self.desired.renew(wanted):
            self._news.set()

    def pause(self, is_paused: bool) -> None:
        """Stop reading, or read on."""
        if self._socket is not None:
            (self._socket.transport.pause_reading if is_paused else self._socket.transport.resume_reading)()

    def cut(self, cause: str) -> None:
        """End the connection at once; the next one follows."""
        self._cause = self._cause or cause
        if self._socket is not None:
            self._socket.transport.abort()

    def leave(self, cause: str) -> None:
        """End for good: close the connection properly, or stop trying for one."""
        self._left_because = cause
        self._leaving.set()
        if self._socket is None and self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        shared, told = self._shared, ""
        backoff = Backoff(
            shared.settings.record, shared.random_source, patience=2.0 if self.plan.venue == "gaiaex" else 1.0
        )
        while not self._leaving.is_set():
            if shared.has_timers:
                await shared.handshakes[self.plan.venue].spend()
            began_s, failure = now(), None
            try:
                socket = await self._connect()
            except InvalidURI as error:
                raise VenueError(
                    f"{self.plan.url!r} is not a WebSocket address",
                    hint="set gaiaex.ws_url" if self.plan.venue == "gaiaex" else "set record.ws_url",
                ) from error
            except (OSError, InvalidHandshake, TimeoutError, ConnectionClosed, EOFError) as error:
                cause, failure = f"connect failed: {_describe(error)}", error
            else:
                told, cause = "", await self._hold(socket)
            self.has_ended = shared.ends_with_venue and (
                cause == _closed_text(_NORMAL_CLOSE) or _is_gone(failure)
            )
            if self._leaving.is_set() or self.has_ended:
                return
            if self.is_refused:
                await self._leaving.wait()  # until the symbol is taken from the plan
                return
            wait_s = backoff.failed(now() - began_s, failure)
            about = {
                "url": self.plan.url,
                "socket": self.plan.name,
                "cause": cause,
                "wait_s": round(wait_s, 2),
            }
            if cause != told:  # a venue that stays away is told of once
                logger.warning("reconnecting", **about)
            told = cause
            await asyncio.sleep(wait_s)

    async def _connect(self) -> DirectConnection:
        socket = await connect(
            self.plan.url,
            create_connection=DirectConnection,
            compression=None,  # costs twice the receive (measured) and saves little here
            ping_interval=None,  # the venue has its own ping; a protocol ping would prove less
            open_timeout=self._shared.settings.record.connect_timeout_s,
            close_timeout=1.0,
            max_size=_MAX_FRAME_BYTES,
        )
        assert isinstance(socket, DirectConnection)
        return socket

    async def _hold(self, socket: DirectConnection) -> str:
        """Live on one connection until it ends; return why it did."""
        shared, number = self._shared, self._shared.next_number()
        self.number, self._socket, self._cause, self._heard = number, socket, "", ConnectionStats()
        self.desired.forget()
        cause = "stopped"
        helpers = [asyncio.create_task(_or_abort(helper, socket)) for helper in self._helpers(socket)]
        try:
            shared.sink.opened(number, self._about())
            logger.info(
                "connected", url=self.plan.url, socket=self.plan.name, connection=number,
                subscriptions=len(self.desired.wanted),
            )  # fmt: skip
            self.pause(self._shared.is_paused)
            await socket.give_all(self._taker(socket, number))
        except ConnectionClosed as closed:
            cause = self._cause or _closed_text(closed.rcvd.code if closed.rcvd else None)
        finally:
            self._socket = None
            for task in helpers:
                task.cancel()
            results = await asyncio.gather(*helpers, return_exceptions=True)
            socket.transport.abort()
            shared.watchdogs.closed(number)
            shared.sink.closed(number, cause)
        for failure in (self._failure, *results):
            if isinstance(failure, Exception):
                raise failure
        return cause

    def _taker(self, socket: DirectConnection, number: int) -> Callable[[bytes], None]:
        """Return what every frame passes through. Every microsecond in it is paid 80,000 times a second."""
        give, look, heard = self._shared.sink.frame, self._look, self._heard

        def take(body: bytes) -> None:
            try:
                if body[12:15] in _DATA:
                    heard.frames += 1
                else:
                    look(body)
                give(number, body)
            except Exception as error:
                self._failure = error
                socket.take = _drop
                socket.transport.abort()

        return take

    def _helpers(self, socket: ClientConnection) -> list[Coroutine[Any, Any, None]]:
        helpers = [self._close_when_left(socket)]
        if self.plan.venue == "gaiaex":
            helpers.append(self._answer_beats(socket))
        else:
            helpers.append(subscribe(socket, self.desired, self._news, self._shared, self.plan.name))
        if self._shared.has_timers:
            helpers.append(self._keep_alive(socket))
        return helpers

    # What a connection hears that is no data.

    def _look_hyperliquid(self, body: bytes) -> None:
        head = body[:64]
        if b'"pong"' in head:
            self._heard.pongs += 1  # it proves the socket, and nothing of the feed
        elif b'"subscriptionResponse"' in head or b'"error"' in head:
            news = self.desired.take(body)
            if news is not None:
                self._note(news)
        else:
            self._heard.frames += 1

    def _note(self, news: SubscriptionChange) -> None:
        wanted, watchdogs = news.wanted, self._shared.watchdogs
        if news.verdict == "held":
            watchdogs.watch(self.number, wanted.channel, wanted.coin, self._shared.clock.now_ns())
            return
        self._news.set()
        if news.verdict == "refused":
            watchdogs.unwatch(self.number, wanted.channel, wanted.coin)
            logger.warning(
                "subscription refused", channel=wanted.channel, coin=wanted.coin, socket=self.plan.name
            )

    def _look_gaia(self, body: bytes) -> None:
        self._heard.frames += 1
        if _GAIA_BEAT in body[:64]:
            self._beat.set()
        elif _GAIA_REFUSAL in body[:256] and b'"error"' in body[:64]:
            self.is_refused = True
            self.cut("symbol not supported")
            logger.warning("symbol not supported", symbol=self.plan.symbol, url=self.plan.url)

    # What a connection does beside receiving.

    async def _answer_beats(self, socket: ClientConnection) -> None:
        """Answer each heartbeat with the bare word that GaiaEx's example sends."""
        while True:
            await self._beat.wait()
            self._beat.clear()
            await socket.send("ping")

    async def _keep_alive(self, socket: ClientConnection) -> None:
        self.cut(await keep_alive(socket, self._heard, self.desired, self._shared, self.plan.venue))

    async def _close_when_left(self, socket: ClientConnection) -> None:
        await self._leaving.wait()
        self._cause = self._cause or self._left_because
        await socket.close()

    def _about(self) -> dict[str, str]:
        plan = self.plan
        about = {"url": plan.url, "venue": plan.venue, "socket": plan.name}
        return about | ({"symbol": plan.symbol} if plan.symbol else {})


def _is_gone(error: BaseException | None) -> bool:
    return isinstance(error, InvalidStatus) and error.response.status_code == _GONE


def _closed_text(code: int | None) -> str:
    return "connection lost" if code is None else f"venue closed with {code}"


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _drop(body: bytes) -> None:
    """Take a frame of a connection that has failed already."""


async def _or_abort(helper: Coroutine[Any, Any, None], socket: ClientConnection) -> None:
    """Run a helper of a connection; if it fails, the connection must not go on without it."""
    try:
        await helper
    except ConnectionClosed:
        return  # the receiver meets it too, and says why
    except Exception:
        socket.transport.abort()
        raise
