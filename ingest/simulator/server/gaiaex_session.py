"""Client connection of the simulated GaiaEx: one symbol a socket, without requests except a plain `ping`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aiohttp import WSCloseCode, web

from ingest.simulator.faults.injector import FaultInjector
from ingest.simulator.server.connection import Due, VenueConnection, VenueStats
from ingest.simulator.server.gaiaex_relay import GaiaexRelay
from ingest.simulator.wire.encoder import Frame

PING: Final = "ping"
PONG: Final = "pong"


class GaiaexSession(VenueConnection):
    """One client's connection to the book of one symbol."""

    def __init__(
        self,
        symbol: str,
        ws: web.WebSocketResponse,
        abort: Callable[[], None],
        *,
        relay: GaiaexRelay,
        injector: FaultInjector,
        stats: VenueStats,
        is_spot: bool,
    ) -> None:
        super().__init__("gaiaex", ws, abort, stats)
        self.symbol = symbol
        self._relay = relay
        self._injector = injector
        self._is_spot = is_spot
        self._reported_stale = False
        self._was_frozen = False

    @property
    def streams(self) -> int:
        """Return 1: the address names the stream."""
        return 1

    @property
    def is_supported(self) -> bool:
        """Return whether the symbol has a book here, now."""
        return self._relay.supports(self.symbol, is_spot=self._is_spot)

    async def greet(self, now_ns: int) -> None:
        """Send the visible book, and whether it is stale."""
        await self.send_book()
        self._was_frozen = self._injector.relay_is_frozen(self.symbol)
        if self._relay.is_stale(self.symbol):
            await self._report_stale(now_ns)

    async def refuse(self) -> None:
        """Send the error for an unsupported symbol, and close."""
        await self.send(self._relay.unsupported_text(self.symbol), "error")
        await self._ws.close(code=WSCloseCode.POLICY_VIOLATION)

    async def answer(self, text: str) -> None:
        """Answer a plain `ping`; ignore anything else."""
        if text == PING and not self._injector.loses_pongs():
            await self.send(PONG, "pong")

    async def stream(self, frames: list[Frame], clock: str | None, due: Due) -> None:
        """Send nothing: a block of Hyperliquid reaches this feed only through the relay."""

    async def send_book(self) -> None:
        """Send the visible book, if there is one."""
        text = self._relay.book_text(self.symbol)
        if text is not None:
            await self.send(text, "orderbook")

    def has_updates(self, *, beats: bool) -> bool:
        """Return whether `send_updates` will send anything."""
        if beats or not self.is_supported:
            return True
        if self._relay.is_stale(self.symbol) != self._reported_stale:
            return True
        return self._was_frozen != self._injector.relay_is_frozen(self.symbol)

    async def send_updates(self, now_ns: int, *, beats: bool) -> None:
        """Send changes beside the book: lost support, staleness, heartbeats."""
        if not self.is_supported:
            await self.refuse()
            return
        is_stale, is_frozen = self._relay.is_stale(self.symbol), self._injector.relay_is_frozen(self.symbol)
        thaws = self._was_frozen and not is_frozen
        self._was_frozen = is_frozen
        if is_stale and not self._reported_stale:
            await self._report_stale(now_ns)
        elif self._reported_stale and not is_stale:
            self._reported_stale = False
            await self.send(self._relay.recovered_text(self.symbol, now_ns), "recovered")
            thaws = True
        if thaws:
            self._relay.catch_up(self.symbol)
            await self.send_book()
        if beats:
            await self.send(self._relay.heartbeat_text(self.symbol, now_ns), "heartbeat")

    async def _report_stale(self, now_ns: int) -> None:
        self._reported_stale = True
        await self.send(self._relay.stale_text(self.symbol, now_ns), "stale")
