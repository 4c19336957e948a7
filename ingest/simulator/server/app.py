"""HTTP and WebSocket routes of the simulated venue, and admission of clients.

All routes share one port: `/ws` and `/info` are Hyperliquid's, `/explorer` its explorer's, `/gaia` GaiaEx's.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from aiohttp import web
from aiohttp.http import WSMsgType

from ingest.simulator.faults.faults import FeedName
from ingest.simulator.faults.injector import FaultInjector
from ingest.simulator.server.connection import VenueConnection, VenueStats
from ingest.simulator.server.gaiaex_relay import GaiaexRelay
from ingest.simulator.server.gaiaex_session import GaiaexSession
from ingest.simulator.server.hyperliquid_session import HyperliquidSession
from ingest.simulator.server.info_endpoint import UNREADABLE, InfoEndpoint
from ingest.simulator.server.publisher import Publisher, PublishPace
from ingest.simulator.server.rate_limits import RequestLimit
from ingest.simulator.wire.subscriptions import RequestRefused
from ingest.venues.hyperliquid.rate_limits import weight_of
from storage.clock import TimeSource

MakeSession = Callable[[web.WebSocketResponse, Callable[[], None], bool], HyperliquidSession]


class VenueApp:
    """The web application of one venue.

    Args:
        make_session: returns the session of a Hyperliquid client; the third argument selects the explorer's.
        holds: whether connections are accepted after the end of the capture.
        idle_close_s: close a connection after so long without a sent message.
        weight_limit: highest weight of `/info` requests a minute (None: no limit).
    """

    def __init__(
        self,
        *,
        publisher: Publisher,
        injector: FaultInjector,
        relay: GaiaexRelay,
        answers: InfoEndpoint,
        stats: VenueStats,
        pace: PublishPace,
        time_source: TimeSource,
        make_session: MakeSession,
        holds: bool,
        idle_close_s: float,
        weight_limit: int | None,
    ) -> None:
        self._publisher = publisher
        self._injector = injector
        self._relay = relay
        self._answers = answers
        self._stats = stats
        self._pace = pace
        self._time = time_source
        self._make_session = make_session
        self._holds = holds
        self._idle_close_s = idle_close_s
        self._weight_limit = weight_limit
        self._weights, self._handshakes = RequestLimit(), RequestLimit()

    def app(self) -> web.Application:
        """Return the application with its routes."""
        app = web.Application()
        app.router.add_get("/ws", self._serve_api)
        app.router.add_get("/explorer", self._serve_explorer)
        app.router.add_post("/info", self._serve_info)
        app.router.add_get("/gaia/ws/market/{symbol}", self._serve_perp_book)
        app.router.add_get("/gaia/ws/market/spot/{symbol}", self._serve_spot_book)
        for path in ("symbols/list", "time", "health", "spot/symbols"):
            app.router.add_get(f"/gaia/v1/trade/{path}", self._serve_gaia)
        return app

    # WebSockets.

    async def _serve_api(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(
            "hyperliquid", request, lambda ws, abort: self._make_session(ws, abort, False)
        )

    async def _serve_explorer(self, request: web.Request) -> web.StreamResponse:
        return await self._serve("explorer", request, lambda ws, abort: self._make_session(ws, abort, True))

    async def _serve_perp_book(self, request: web.Request) -> web.StreamResponse:
        return await self._serve_book(request, is_spot=False)

    async def _serve_spot_book(self, request: web.Request) -> web.StreamResponse:
        return await self._serve_book(request, is_spot=True)

    async def _serve_book(self, request: web.Request, *, is_spot: bool) -> web.StreamResponse:
        symbol = request.match_info["symbol"].replace("%2F", "/")

        def make(ws: web.WebSocketResponse, abort: Callable[[], None]) -> VenueConnection:
            return GaiaexSession(
                symbol,
                ws,
                abort,
                relay=self._relay,
                injector=self._injector,
                stats=self._stats,
                is_spot=is_spot,
            )

        return await self._serve("gaiaex", request, make)

    async def _serve(
        self,
        feed: FeedName,
        request: web.Request,
        make: Callable[[web.WebSocketResponse, Callable[[], None]], VenueConnection],
    ) -> web.StreamResponse:
        """Serve one client until either side closes the connection."""
        publisher = self._publisher
        refusal = await self._refusal(feed)
        if refusal is not None:
            return refusal
        ws = web.WebSocketResponse(compress=False, autoping=False)
        await ws.prepare(request)
        assert request.transport is not None
        connection = make(ws, request.transport.abort)
        self._stats.connections += 1
        self._stats.by_feed[feed] += 1
        if self._pace.is_virtual:
            await connection.send_clock(publisher.clock_ns)
        if isinstance(connection, GaiaexSession):
            if not connection.is_supported:
                await connection.refuse()
                return ws
            await connection.greet(publisher.clock_ns)
        publisher.connections.append(connection)
        publisher.count_streams()
        try:
            await self._converse(ws, connection)
        finally:
            if connection in publisher.connections:
                publisher.connections.remove(connection)
            publisher.count_streams()
        return ws

    async def _refusal(self, feed: FeedName) -> web.Response | None:
        """Return the response that refuses a handshake, or None; without a pace, wait until an outage ends."""
        publisher = self._publisher
        fault = self._injector.on_connect(feed)
        if fault is not None:
            headers = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
            return web.Response(status=fault.status, text="connection refused", headers=headers)
        most = self._injector.most_connections()
        if most is not None and (wait_s := self._handshakes.charge(self._now_ns(), 1, most)):
            return web.Response(status=429, text="rate limit exceeded", headers={"Retry-After": str(wait_s)})
        if not publisher.accepting[feed].is_set() and self._pace.speed:
            return web.Response(status=503, text="the venue is down")
        await publisher.accepting[feed].wait()
        if publisher.ended.is_set() and not self._holds:
            return web.Response(status=410, text="the tape has ended")
        return None

    async def _converse(self, ws: web.WebSocketResponse, connection: VenueConnection) -> None:
        while True:
            patience_s = self._patience_s(connection)
            if patience_s is not None and patience_s <= 0:
                await connection.close(clean=False)
                return
            try:
                message = await ws.receive(timeout=patience_s)
            except TimeoutError:
                continue
            if message.type is WSMsgType.TEXT:
                await connection.answer(message.data)
                self._publisher.count_streams()
            elif message.type in (WSMsgType.PING, WSMsgType.PONG):
                await connection.handle(message.type, message.data)
            elif message.type is not WSMsgType.BINARY:
                return

    def _patience_s(self, connection: VenueConnection) -> float | None:
        """Return how long a connection may stay idle before it is closed; None for ever."""
        return connection.idle_left_s(self._idle_close_s) if self._pace.speed else None

    def _now_ns(self) -> int:
        return self._publisher.clock_ns if self._pace.is_virtual else self._time.now_ns()

    # REST.

    async def _serve_info(self, request: web.Request) -> web.Response:
        body = await request.read()
        fault = self._injector.on_info()
        if fault is not None:
            headers = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
            text = "<html><body><h1>Bad gateway</h1></body></html>" if fault.html else "null"
            kind = "text/html" if fault.html else "application/json"
            return web.Response(status=fault.status, text=text, content_type=kind, headers=headers)
        if not self._publisher.accepting["hyperliquid"].is_set():
            return web.Response(status=503, text="the venue is down")
        request_type = {"type": _kind_of_request(body)}
        weight = weight_of(request_type)
        if self._weight_limit is not None:
            wait_s = self._weights.charge(self._now_ns(), weight, self._weight_limit)
            if wait_s:
                return web.Response(status=429, text="null", headers={"Retry-After": str(wait_s)})
        try:
            answer = self._answers.info(body)
        except RequestRefused as refusal:
            return web.Response(status=422, text=str(refusal))
        if self._weight_limit is not None:
            rows = json.loads(answer)
            extra = weight_of(request_type, len(rows) if isinstance(rows, list) else 0) - weight
            self._weights.add(self._now_ns(), extra)
        return web.Response(text=answer, content_type="application/json")

    async def _serve_gaia(self, request: web.Request) -> web.Response:
        if not self._publisher.accepting["gaiaex"].is_set():
            return web.Response(status=503, text="the venue is down")
        now_ms = self._publisher.status_ms()
        match request.path.removeprefix("/gaia/v1/trade/"):
            case "symbols/list":
                return web.json_response(self._relay.symbols(now_ms))
            case "spot/symbols":
                return web.json_response(self._relay.spot_symbols(now_ms))
            case "health":
                return web.json_response(self._relay.health(now_ms))
            case _:
                return web.json_response({"serverTime": now_ms})


def _kind_of_request(body: bytes) -> str:
    try:
        kind = json.loads(body)["type"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return UNREADABLE
    return kind if isinstance(kind, str) else UNREADABLE
