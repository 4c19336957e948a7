"""One reconnecting WebSocket connection and its subscriptions.

A `Connection` keeps one socket open at a time and passes every frame to the sink as bytes. It handles the connection
only: receipt times, journal and parsing belong to the recorder. It reads what the connection itself must understand:
pongs and acknowledgements of subscriptions at Hyperliquid; heartbeats and `SYMBOL_NOT_SUPPORTED` at GaiaEx.
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
# The letters after `{"channel":"` of data frames, which are nearly all frames and hold nothing for this class.
_DATA: Final = frozenset({b"tra", b"bbo", b"l2B", b"act", b"can", b"all", b"fas"})
_GAIA_HEARTBEAT: Final = b'"heartbeat"'
_GAIA_REFUSAL: Final = b"SYMBOL_NOT_SUPPORTED"


class Connection:
    """Keep one socket of the plan connected, and reconnect it after every loss."""

    def __init__(self, plan: ConnectionPlan, shared: ConnectionContext) -> None:
        """Prepare a connection; `start` connects it."""
        self.plan = plan
        self.number = -1
        self.is_refused = False
        self.has_ended = False
        self.subscriptions = SubscriptionState(plan.wanted, timeout_s=shared.settings.record.ack_timeout_s)
        self._shared = shared
        self._socket: DirectConnection | None = None
        self._failure: Exception | None = None
        self._closing = asyncio.Event()
        self._close_cause = ""
        self._subscriptions_changed = asyncio.Event()
        self._heartbeat = asyncio.Event()
        self._cause = ""
        self._stats = ConnectionStats()
        self._task: asyncio.Task[None] | None = None
        self._handle_control = (
            self._handle_gaiaex_control if plan.venue == "gaiaex" else self._handle_hyperliquid_control
        )

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._socket is not None

    def start(self, group: asyncio.TaskGroup) -> asyncio.Task[None]:
        """Run as a task of a group."""
        self._task = group.create_task(self._run(), name=f"socket {self.plan.name}")
        return self._task

    def update_plan(self, plan: ConnectionPlan) -> None:
        """Change the subscriptions: only the difference is sent to the venue."""
        for removed in set(self.subscriptions.wanted) - set(plan.wanted):
            self._shared.watchdogs.unwatch(self.number, removed.channel, removed.coin)
        self.plan = plan
        self.subscriptions.set_wanted(plan.wanted)
        self._subscriptions_changed.set()

    def renew(self, subscription: Subscription) -> bool:
        """Unsubscribe from one stream and subscribe to it again; return false if it is not confirmed."""
        if not self.subscriptions.renew(subscription):
            return False
        self._subscriptions_changed.set()
        return True

    def pause(self, is_paused: bool) -> None:
        """Stop reading, or resume it."""
        if self._socket is not None:
            (self._socket.transport.pause_reading if is_paused else self._socket.transport.resume_reading)()

    def cut(self, cause: str) -> None:
        """Abort the connection at once; a reconnect follows."""
        self._cause = self._cause or cause
        if self._socket is not None:
            self._socket.transport.abort()

    def close(self, cause: str) -> None:
        """End for good: close the connection properly, or stop connecting."""
        self._close_cause = cause
        self._closing.set()
        if self._socket is None and self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        shared, last_cause = self._shared, ""
        backoff = Backoff(
            shared.settings.record, shared.random_source, patience=2.0 if self.plan.venue == "gaiaex" else 1.0
        )
        while not self._closing.is_set():
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
                last_cause, cause = "", await self._serve(socket)
            self.has_ended = shared.ends_with_venue and (
                cause == _closed_text(_NORMAL_CLOSE) or _is_gone(failure)
            )
            if self._closing.is_set() or self.has_ended:
                return
            if self.is_refused:
                await self._closing.wait()  # until the symbol leaves the plan
                return
            wait_s = backoff.failed(now() - began_s, failure)
            about = {
                "url": self.plan.url,
                "socket": self.plan.name,
                "cause": cause,
                "wait_s": round(wait_s, 2),
            }
            if cause != last_cause:  # log an outage once, not at every attempt
                logger.warning("reconnecting", **about)
            last_cause = cause
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

    async def _serve(self, socket: DirectConnection) -> str:
        """Serve one connection until it ends; return the cause."""
        shared, number = self._shared, self._shared.next_number()
        self.number, self._socket, self._cause, self._stats = number, socket, "", ConnectionStats()
        self.subscriptions.reset()
        cause = "stopped"
        helpers = [
            asyncio.create_task(_abort_on_failure(helper, socket))
            for helper in self._background_tasks(socket)
        ]
        try:
            shared.sink.opened(number, self._about())
            logger.info(
                "connected", url=self.plan.url, socket=self.plan.name, connection=number,
                subscriptions=len(self.subscriptions.wanted),
            )  # fmt: skip
            self.pause(self._shared.is_paused)
            await socket.deliver_all(self._frame_handler(socket, number))
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

    def _frame_handler(self, socket: DirectConnection, number: int) -> Callable[[bytes], None]:
        """Return the function that every frame passes through, up to 80,000 times a second."""
        deliver, handle_control, stats = self._shared.sink.frame, self._handle_control, self._stats

        def handle(body: bytes) -> None:
            try:
                if body[12:15] in _DATA:
                    stats.frames += 1
                else:
                    handle_control(body)
                deliver(number, body)
            except Exception as error:
                self._failure = error
                socket.deliver = _drop
                socket.transport.abort()

        return handle

    def _background_tasks(self, socket: ClientConnection) -> list[Coroutine[Any, Any, None]]:
        tasks = [self._close_on_request(socket)]
        if self.plan.venue == "gaiaex":
            tasks.append(self._answer_heartbeats(socket))
        else:
            tasks.append(
                subscribe(
                    socket, self.subscriptions, self._subscriptions_changed, self._shared, self.plan.name
                )
            )
        if self._shared.has_timers:
            tasks.append(self._keep_alive(socket))
        return tasks

    # Control messages.

    def _handle_hyperliquid_control(self, body: bytes) -> None:
        head = body[:64]
        if b'"pong"' in head:
            self._stats.pongs += 1  # it proves that the socket lives, not that the feed does
        elif b'"subscriptionResponse"' in head or b'"error"' in head:
            change = self.subscriptions.handle_answer(body)
            if change is not None:
                self._apply_change(change)
        else:
            self._stats.frames += 1

    def _apply_change(self, change: SubscriptionChange) -> None:
        subscription, watchdogs = change.subscription, self._shared.watchdogs
        if change.outcome == "confirmed":
            watchdogs.watch(self.number, subscription.channel, subscription.coin, self._shared.clock.now_ns())
            return
        self._subscriptions_changed.set()
        if change.outcome == "refused":
            watchdogs.unwatch(self.number, subscription.channel, subscription.coin)
            logger.warning(
                "subscription refused",
                channel=subscription.channel,
                coin=subscription.coin,
                socket=self.plan.name,
            )

    def _handle_gaiaex_control(self, body: bytes) -> None:
        self._stats.frames += 1
        if _GAIA_HEARTBEAT in body[:64]:
            self._heartbeat.set()
        elif _GAIA_REFUSAL in body[:256] and b'"error"' in body[:64]:
            self.is_refused = True
            self.cut("symbol not supported")
            logger.warning("symbol not supported", symbol=self.plan.symbol, url=self.plan.url)

    # Background tasks of a connection.

    async def _answer_heartbeats(self, socket: ClientConnection) -> None:
        """Answer each heartbeat with the bare `ping` of GaiaEx's example."""
        while True:
            await self._heartbeat.wait()
            self._heartbeat.clear()
            await socket.send("ping")

    async def _keep_alive(self, socket: ClientConnection) -> None:
        self.cut(await keep_alive(socket, self._stats, self.subscriptions, self._shared, self.plan.venue))

    async def _close_on_request(self, socket: ClientConnection) -> None:
        await self._closing.wait()
        self._cause = self._cause or self._close_cause
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
    """Ignore a frame of a connection that has failed already."""


async def _abort_on_failure(helper: Coroutine[Any, Any, None], socket: ClientConnection) -> None:
    """Run a background task of a connection, and abort the connection if the task fails."""
    try:
        await helper
    except ConnectionClosed:
        return  # the receiver gets it too, and reports the cause
    except Exception:
        socket.transport.abort()
        raise
