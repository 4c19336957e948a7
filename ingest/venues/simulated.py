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
from typing import Final, Literal, Self

from aiohttp import web
from aiohttp.http import WSMsgType

from ingest.venues.board import REPLAYED, Board
from ingest.venues.faults import GARBAGE, Disconnect, Fault, FaultPlan, Garbage
from ingest.venues.frames import CLOCK_FRAME, Block, Frame, Print
from ingest.venues.market import Source
from ingest.venues.session import Session, Stats
from ingest.venues.subscriptions import Refused
from storage.clock import MS_NS, NS, TimeSource, WallTime
from storage.errors import SettingsError, VenueError
from storage.logs import get_logger

logger = get_logger(__name__)

_LONGEST_NAP_S: Final = 0.05  # a TimeSource cannot wake us, so it is asked this often
_BLOCKS_A_TURN: Final = 64  # unpaced: blocks between two looks at the other tasks


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
        self._source = source
        self._is_virtual = clock == "virtual"
        self._speed = 0.0 if self._is_virtual else speed
        self._time = time_source or WallTime()
        least = 0 if self._speed else 1
        self._wanted = least if wait_for_subscriptions is None else max(least, wait_for_subscriptions)
        self._host, self._port = host, port
        self._replayed = replayed
        self._on_end = on_end
        self._idle_close_s = idle_close_s
        self._on_print = on_print
        self.stats = Stats()
        self._board = Board(source)
        self._plan = FaultPlan(faults, start_ms=source.start_ns // MS_NS, seed=source.seed)
        self._sessions: list[Session] = []
        self._clock_ns = source.start_ns
        self._dark_until_ms: float | None = None
        self._lit = asyncio.Event()
        self._settled = asyncio.Event()
        self._ended = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._pump: asyncio.Task[None] | None = None

    @property
    def ws_url(self) -> str:
        return f"ws://{self._host}:{self._port}/ws"

    @property
    def info_url(self) -> str:
        return f"http://{self._host}:{self._port}/info"

    @property
    def now_ns(self) -> int:
        """Return the receipt time of the newest block."""
        return self._clock_ns

    @property
    def holds(self) -> bool:
        """Return whether connections stay open after the last frame."""
        return self._on_end == "hold"

    def inject(self, fault: Fault) -> None:
        """Order a fault while running; one without a time strikes at the next block."""
        self._plan.add(fault)

    async def finished(self) -> None:
        """Wait for the end of the span; an error of the venue itself is raised here."""
        assert self._pump is not None, "the venue has not started"
        await asyncio.shield(self._pump)

    async def __aenter__(self) -> Self:
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
        self._lit.set()
        self._count_streams()
        self._pump = asyncio.create_task(self._run(), name="simulated venue")
        logger.info("venue listening", ws=self.ws_url, info=self.info_url)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._pump is not None
        assert self._runner is not None
        self._pump.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._pump
        self._ended.set()
        self._lit.set()
        for session in tuple(self._sessions):
            await session.close(clean=False)
        await self._runner.cleanup()

    # The tape.

    async def _run(self) -> None:
        """Publish the source from its first block to its last."""
        first_due_ns = 0
        for number, block in enumerate(self._source.blocks()):
            if block.time_ms * MS_NS < self._source.start_ns:
                self._board.observe(block)
                continue
            if number % _BLOCKS_A_TURN == 0:
                await asyncio.sleep(0)
            if self._dark_until_ms is not None:
                if block.time_ms < self._dark_until_ms:
                    await self._pace(first_due_ns, block.clock_ns)
                    self._observe(block)
                    continue
                self._relight()
            await self._until_settled()
            first_due_ns = first_due_ns or self._time.now_ns()
            await self._pace(first_due_ns, block.clock_ns)
            await self._strike(block)
            self._observe(block)
            if self._dark_until_ms is None:
                await self._publish(block, self._plan.arrange(block))
        await self._finish()

    async def _pace(self, first_due_ns: int, clock_ns: int) -> None:
        """Wait until a receipt time is due; without a pace, return at once."""
        if not self._speed:
            return
        due_ns = first_due_ns + round((clock_ns - self._source.start_ns) / self._speed)
        while (left_ns := due_ns - self._time.now_ns()) > 0:  # noqa: ASYNC110 - the present has no event
            await asyncio.sleep(min(left_ns / NS, _LONGEST_NAP_S))

    async def _until_settled(self) -> None:
        """Wait until enough streams are subscribed; a paced tape waits at its start only."""
        if not self._speed or not self._clock_moved:
            await self._settled.wait()

    @property
    def _clock_moved(self) -> bool:
        return self._clock_ns > self._source.start_ns

    def _observe(self, block: Block) -> None:
        self._board.observe(block)
        self._clock_ns = block.clock_ns
        for frame in block.frames:
            if frame.prints:
                self.stats.made[frame.coin] += len(frame.prints)

    async def _publish(self, block: Block, frames: list[Frame]) -> None:
        clock = CLOCK_FRAME % block.clock_ns if self._is_virtual else None
        for session in tuple(self._sessions):
            await session.stream(frames, clock, slow=block.slow_book, fast=block.fast_book)

    async def _strike(self, block: Block) -> None:
        """Let the faults of this instant happen."""
        for fault in self._plan.strikes(block.time_ms):
            logger.info("fault", what=repr(fault))
            if isinstance(fault, Garbage):
                for session in tuple(self._sessions):
                    await session.send(GARBAGE[fault.kind], "garbage")
            else:
                await self._disconnect(fault, block)

    async def _disconnect(self, fault: Disconnect, block: Block) -> None:
        self._plan.release()
        self._lit.clear()
        self._dark_until_ms = block.time_ms + fault.outage_s * 1_000
        for session in tuple(self._sessions):
            if self._is_virtual:
                await session.barrier()
            await session.close(clean=fault.clean)
        self._sessions.clear()
        self._count_streams()

    def _relight(self) -> None:
        assert self._dark_until_ms is not None
        self._clock_ns = max(self._clock_ns, round(self._dark_until_ms * MS_NS))
        self._dark_until_ms = None
        self._lit.set()

    async def _finish(self) -> None:
        rest = self._plan.release()
        end_ns = max(self._source.end_ns or 0, self._clock_ns) + self._source.tail_ns
        self._clock_ns = end_ns
        for session in tuple(self._sessions):
            await session.stream(rest, None, slow=False, fast=False)
            if self._is_virtual:
                await session.send(CLOCK_FRAME % end_ns, "tickwalkClock")
        self._ended.set()
        self._lit.set()
        logger.info("tape ended", prints=sum(self.stats.distinct.values()))
        if not self.holds:
            for session in tuple(self._sessions):
                await session.close(clean=True)

    # The doors.

    async def _serve_socket(self, request: web.Request) -> web.StreamResponse:
        """Speak with one client until either side has enough."""
        if not self._lit.is_set() and self._speed:
            return web.Response(status=503, text="the venue is down")
        await self._lit.wait()
        if self._ended.is_set() and not self.holds:
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
        if self._is_virtual:
            await session.send(CLOCK_FRAME % self._clock_ns, "tickwalkClock")
        self._sessions.append(session)
        try:
            await self._converse(ws, session)
        finally:
            if session in self._sessions:
                self._sessions.remove(session)
            self._count_streams()
        return ws

    async def _converse(self, ws: web.WebSocketResponse, session: Session) -> None:
        coins = frozenset(item.name for item in self._source.listings)
        while True:
            try:
                message = await ws.receive(timeout=self._patience_s(session))
            except TimeoutError:
                if self._patience_s(session):
                    continue
                await session.close(clean=False)
                return
            if message.type is WSMsgType.TEXT:
                await session.answer(message.data, coins)
                self._count_streams()
            elif message.type in (WSMsgType.PING, WSMsgType.PONG):
                await session.handle(message.type, message.data)
            elif message.type is not WSMsgType.BINARY:
                return

    def _patience_s(self, session: Session) -> float | None:
        """Return how long a connection may still go without being sent anything; None for ever."""
        if not self._speed:
            return None
        return max(session.last_sent_s + self._idle_close_s - asyncio.get_running_loop().time(), 0.0)

    def _count_streams(self) -> None:
        if sum(len(session.subscriptions) for session in self._sessions) >= self._wanted:
            self._settled.set()
        else:
            self._settled.clear()

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
