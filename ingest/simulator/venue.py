"""A simulated venue: serves a market or a capture over real sockets with Hyperliquid's protocol.

One port: `GET /ws` is the WebSocket, `POST /info` the REST requests, `GET /explorer` the chain's blocks; beside them
GaiaEx, a relay of the same books: `GET /gaia/ws/market/{symbol}`, `/gaia/v1/trade/...`. Two clocks:

- `real`: frames are sent when a `TimeSource` reaches their time (`speed` times as fast; 0 is without pauses).
- `virtual`: frames are sent as fast as the client reads them, and before those of a block comes one more,
  `{"channel":"tickwalkClock","data":<ns>}`, with the receipt time that a recorder must stamp. It is also the
  first frame of every connection. Virtual time stands still until `wait_for_subscriptions` streams are
  subscribed, at the start and after every loss of the connection; an injected outage is skipped.
  Before an injected disconnect the venue waits until the client has read everything (WebSocket ping), so that
  the cut falls on the same frame in every run.

At the end of the span comes a last clock frame, then a clean close with code 1000; later connections get 410.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import TracebackType
from typing import Literal, Self

from aiohttp import web

from ingest.simulator.faults.faults import Fault, MarketChange, Window
from ingest.simulator.faults.injector import FaultInjector
from ingest.simulator.market.source import MarketSource
from ingest.simulator.server.app import VenueApp
from ingest.simulator.server.connection import VenueStats
from ingest.simulator.server.gaiaex_relay import GaiaexRelay
from ingest.simulator.server.history_endpoint import RecordedHistory
from ingest.simulator.server.hyperliquid_session import HyperliquidSession
from ingest.simulator.server.info_endpoint import InfoEndpoint
from ingest.simulator.server.market_state import REPLAYED, MarketState
from ingest.simulator.server.publisher import Publisher, PublishPace
from ingest.simulator.server.venue_wide import VenueWide
from ingest.simulator.wire.encoder import SimulatedPrint
from ingest.venues.gaiaex.messages import Generation
from storage.clock import TimeSource, WallTime
from storage.errors import SettingsError, VenueError
from storage.logs import get_logger

logger = get_logger(__name__)


class SimulatedVenue:
    """A venue that serves one source; an async context manager.

    Args:
        source: a `SyntheticMarket`, a `CaptureMarket` or a `RecordedHistory`; served once.
        clock: see the module.
        speed: real clock only: factor on the source's own time (0: without pauses).
        time_source: real clock only.
        wait_for_subscriptions: streams that must be subscribed before time moves (default: 0 if frames wait for a
            clock, else 1).
        host: address to listen on; port 0 selects a free one.
        faults: to inject, see `ingest.simulator.faults.faults`.
        replayed: trades resent on subscribe, 0 .. 30.
        on_end: `close` with code 1000 after the last frame, or `hold` the connections open in silence.
        idle_close_s: real clock only: drop a connection after so long without a sent message.
        on_print: called with each sent trade, every time; the venue itself keeps counts only.
        weight_limit: highest weight of `/info` requests a minute (the venue: 1200; None: no limit).
        gaia_generation: of GaiaEx's payloads.
        relay_lag_s: delay of a relayed book behind Hyperliquid's quote.
        heartbeat_s: seconds between GaiaEx's heartbeats, in the source's time.

    Raises:
        SettingsError: a value is out of its range.
    """

    def __init__(
        self,
        source: MarketSource,
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
        on_print: Callable[[SimulatedPrint], None] | None = None,
        weight_limit: int | None = None,
        # GaiaEx.
        gaia_generation: Generation = "G2",
        relay_lag_s: float = 0.2,
        heartbeat_s: float = 5.0,
    ) -> None:
        if relay_lag_s < 0 or heartbeat_s <= 0:
            raise SettingsError(
                f"simulated venue: relay_lag_s {relay_lag_s} must not be negative, heartbeat_s {heartbeat_s} be above 0"
            )
        if speed < 0 or not 0 <= replayed <= REPLAYED:
            raise SettingsError(
                f"simulated venue: speed {speed} must not be negative, replayed {replayed} lies in 0 .. {REPLAYED}"
            )
        speed = 0.0 if clock == "virtual" else speed
        least = 0 if speed else 1
        streams = least if wait_for_subscriptions is None else max(least, wait_for_subscriptions)
        pace = PublishPace(clock == "virtual", speed, streams)
        clock_source = time_source or WallTime()
        faults = list(faults)
        self._pace = pace
        self._host, self._port = host, port
        self._on_end = on_end
        self.stats = stats = VenueStats()
        self._market = market = MarketState(
            source, [item for item in faults if isinstance(item, MarketChange)]
        )
        wide = VenueWide(market)
        self._injector = injector = FaultInjector(seed=source.seed)
        for item in faults:
            if not isinstance(item, MarketChange):
                injector.add(item)
        relay = GaiaexRelay(
            market, injector, generation=gaia_generation, lag_s=relay_lag_s, heartbeat_s=heartbeat_s
        )
        self._publisher = Publisher(
            source, pace, clock_source, market=market, wide=wide, injector=injector, relay=relay, stats=stats
        )

        def make_session(
            ws: web.WebSocketResponse, abort: Callable[[], None], is_explorer: bool
        ) -> HyperliquidSession:
            return HyperliquidSession(
                ws, abort, market=market, wide=wide, injector=injector, stats=stats, replayed=replayed,
                on_print=on_print, is_explorer=is_explorer,
            )  # fmt: skip

        self._app = VenueApp(
            publisher=self._publisher,
            injector=injector,
            relay=relay,
            answers=InfoEndpoint(
                market,
                wide,
                self._publisher.status_ms,
                past=source if isinstance(source, RecordedHistory) else None,
            ),
            stats=stats,
            pace=pace,
            time_source=clock_source,
            make_session=make_session,
            holds=self.holds,
            idle_close_s=idle_close_s,
            weight_limit=weight_limit,
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
    def explorer_url(self) -> str:
        return f"ws://{self._host}:{self._port}/explorer"

    @property
    def gaia_ws_url(self) -> str:
        """Return the base of GaiaEx's sockets, to which `/{symbol}` or `/spot/{symbol}` is appended."""
        return f"ws://{self._host}:{self._port}/gaia/ws/market"

    @property
    def gaia_rest_url(self) -> str:
        return f"http://{self._host}:{self._port}/gaia/v1/trade"

    @property
    def now_ns(self) -> int:
        """Return the receipt time of the newest block."""
        return self._publisher.clock_ns

    @property
    def holds(self) -> bool:
        """Return whether connections stay open after the last frame."""
        return self._on_end == "hold"

    def inject(self, fault: Fault) -> None:
        """Inject a fault while running; without a time it happens, or begins, at the next block."""
        if isinstance(fault, Window) and not fault.at_s:
            fault = replace(fault, at_s=self._injector.now_s)
        if isinstance(fault, MarketChange):
            self._market.schedule.add(fault)
        else:
            self._injector.add(fault)

    async def finished(self) -> None:
        """Wait for the end of the span; raise an error of the venue itself."""
        assert self._task is not None, "the venue has not started"
        await asyncio.shield(self._task)

    async def __aenter__(self) -> Self:
        self._publisher.warm_up()
        self._runner = web.AppRunner(self._app.app(), access_log=None, shutdown_timeout=1.0)
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
        self._task = asyncio.create_task(self._serve(), name="simulated venue")
        logger.info("venue listening", ws=self.ws_url, info=self.info_url)
        return self

    async def _serve(self) -> None:
        try:
            await self._publisher.run(closes=not self.holds)
        except BaseException:
            # A failed venue must not leave its clients waiting.
            await self._hang_up()
            raise

    async def _hang_up(self) -> None:
        self._publisher.ended.set()
        for event in self._publisher.accepting.values():
            event.set()
        for connection in tuple(self._publisher.connections):
            await connection.close(clean=False)

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
            await self._hang_up()
            await self._runner.cleanup()
