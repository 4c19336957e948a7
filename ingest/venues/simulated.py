"""How does a simulated venue serve a market or a tape over a real socket, speaking Hyperliquid's protocol?

One port: `GET /ws` is the WebSocket, `POST /info` the questions. Two clocks:

- `real`: frames go out when a `TimeSource` says they are due (`speed` times as fast; 0 is flat out).
- `virtual`: frames go out as fast as the client drains them, and before those of a block comes one more,
  `{"channel":"tickwalkClock","data":<ns>}`, with the receipt time that a recorder is to stamp. It is also the
  first frame of every connection. Virtual time stands still until `wait_for_subscriptions` streams are
  subscribed, at the start and after every loss of the connection; over an ordered outage it is skipped.
  Before an ordered disconnect the venue waits until the client has read everything (WebSocket ping), so that
  the cut falls on the same frame in every run.

At the end of the span comes a last clock frame, then a clean close with code 1000; later connections get 410.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Literal, Self

from aiohttp import web
from aiohttp.http import WSMsgType

from ingest.venues.board import REPLAYED, Board
from ingest.venues.faults import Fault, FaultPlan
from ingest.venues.frames import CLOCK_FRAME, Print
from ingest.venues.market import Source
from ingest.venues.pump import Pace, Pump
from ingest.venues.session import Session, Stats
from ingest.venues.subscriptions import Refused
from storage.clock import MS_NS, TimeSource, WallTime
from storage.errors import SettingsError, VenueError
from storage.logs import get_logger

logger = get_logger(__name__)


class SimulatedVenue:
    """A server for one source; an async context manager.

    Args:
        source: a `Market` or a `Tape`; served once.
        clock: see the module.
        speed: real clock only: times as fast as the source's own time, 0 for flat out.
        time_source: real clock only.
        wait_for_subscriptions: streams that must be subscribed before time moves; by default 0 where frames
            wait for a clock, else 1.
        host: address to listen on; port 0 takes a free one.
        faults: what goes wrong, see `ingest.venues.faults`.
        replayed: prints resent on subscribe, 0 .. 30.
        on_end: `close` with code 1000 after the last frame, or `hold` the connections open in silence.
        idle_close_s: real clock only: a connection to which nothing was sent for so long is dropped.
        on_print: is told of each print sent, every time; the venue itself keeps counts only.

    Raises:
        SettingsError: a value is out of its range.
    """

    def __init__(
        self,
        source: Source,
        *,
        # Time.
        clock: Literal["virtual", "real"] = "virtual",
        speed: float = 1.0,
        time_source: TimeSource | None = None,
        wait_for_subscriptions: int | None = None,
        # Address.
        host: str = "127.0.0.1",
        port: int = 0,
        # Behaviour.
        faults: Iterable[Fault] = (),
        replayed: int = REPLAYED,
        on_end: Literal["close", "hold"] = "close",
        idle_close_s: float = 60.0,
        on_print: Callable[[Print], None] | None = None,
    ) -> None:
        if speed < 0 or not 0 <= replayed <= REPLAYED:
            raise SettingsError(
                f"simulated venue: speed {speed} must not be negative, replayed {replayed} lies in 0 .. {REPLAYED}"
            )
        speed = 0.0 if clock == "virtual" else speed
        least = 0 if speed else 1
        streams = least if wait_for_subscriptions is None else max(least, wait_for_subscriptions)
        pace = Pace(clock == "virtual", speed, streams)
        self._source = source
        self._pace = pace
        self._host, self._port = host, port
        self._replayed = replayed
        self._on_end = on_end
        self._idle_close_s = idle_close_s
        self._on_print = on_print
        self.stats = Stats()
        self._board = Board(source)
        self._plan = FaultPlan(faults, start_ms=source.start_ns // MS_NS, seed=source.seed)
        self._pump = Pump(
            source, pace, time_source or WallTime(), board=self._board, plan=self._plan, stats=self.stats
        )
        self._runner: web.AppRunner | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def ws_url(self) -> str:
        return f"ws://{self._host}:{self._port}/ws"

    @property
    def info_url(self) -> str:
        return f"http://{self._host}:{self._port}/info"

    @property
    def now_ns(self) -> int:
        """Return the receipt time of the newest block."""
        return self._pump.clock_ns

    @property
    def holds(self) -> bool:
        """Return whether connections stay open after the last frame."""
        return self._on_end == "hold"

    def inject(self, fault: Fault) -> None:
        """Order a fault while running; one without a time strikes at the next block."""
        self._plan.add(fault)

    async def finished(self) -> None:
        """Wait for the end of the span; an error of the venue itself is raised here."""
        assert self._task is not None, "the venue has not started"
        await asyncio.shield(self._task)

    async def __aenter__(self) -> Self:
        self._pump.warm_up()
        app = web.Application()
        app.router.add_get("/ws", self._serve_socket)
        app.router.add_post("/info", self._serve_info)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise VenueError(
                f"cannot listen on {self._host}:{self._port}: {error.strerror}", hint="choose another --port"
            ) from error
        self._port = self._runner.addresses[0][1]
        self._task = asyncio.create_task(self._pump.run(closes=not self.holds), name="simulated venue")
        logger.info("venue listening", ws=self.ws_url, info=self.info_url)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        assert self._runner is not None
        self._task.cancel()
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        finally:
            self._pump.ended.set()
            self._pump.lit.set()
            for session in tuple(self._pump.sessions):
                await session.close(clean=False)
            await self._runner.cleanup()

    async def _serve_socket(self, request: web.Request) -> web.StreamResponse:
        """Speak with one client until either side has enough."""
        pump = self._pump
        if not pump.lit.is_set() and self._pace.speed:
            return web.Response(status=503, text="the venue is down")
        await pump.lit.wait()
        if pump.ended.is_set() and not self.holds:
            return web.Response(status=410, text="the tape has ended")
        ws = web.WebSocketResponse(compress=False, autoping=False)
        await ws.prepare(request)
        transport = request.transport
        assert transport is not None
        session = Session(
            ws,
            transport.abort,
            board=self._board,
            plan=self._plan,
            stats=self.stats,
            replayed=self._replayed,
            on_print=self._on_print,
        )
        self.stats.connections += 1
        if self._pace.is_virtual:
            await session.send(CLOCK_FRAME % pump.clock_ns, "tickwalkClock")
        pump.sessions.append(session)
        try:
            await self._converse(ws, session)
        finally:
            if session in pump.sessions:
                pump.sessions.remove(session)
            pump.count_streams()
        return ws

    async def _converse(self, ws: web.WebSocketResponse, session: Session) -> None:
        coins = frozenset(item.name for item in self._source.listings)
        while True:
            patience_s = self._patience_s(session)
            if patience_s is not None and patience_s <= 0:
                await session.close(clean=False)
                return
            try:
                message = await ws.receive(timeout=patience_s)
            except TimeoutError:
                continue
            if message.type is WSMsgType.TEXT:
                await session.answer(message.data, coins)
                self._pump.count_streams()
            elif message.type in (WSMsgType.PING, WSMsgType.PONG):
                await session.handle(message.type, message.data)
            elif message.type is not WSMsgType.BINARY:
                return

    def _patience_s(self, session: Session) -> float | None:
        """Return how long a connection may still go without being sent anything; None for ever."""
        if not self._pace.speed:
            return None
        return session.last_sent_s + self._idle_close_s - asyncio.get_running_loop().time()

    async def _serve_info(self, request: web.Request) -> web.Response:
        body = await request.read()
        fault = self._plan.on_info()
        if fault is not None:
            headers = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
            text = "<html><body><h1>Bad gateway</h1></body></html>" if fault.html else "null"
            kind = "text/html" if fault.html else "application/json"
            return web.Response(status=fault.status, text=text, content_type=kind, headers=headers)
        try:
            return web.Response(text=self._board.info(body), content_type="application/json")
        except Refused as refusal:
            return web.Response(status=422, text=str(refusal))
