"""Client connection of the simulated Hyperliquid API, or of its explorer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Final

from aiohttp import web

from ingest.simulator.faults.faults import ClaimSubscribed, LoseAck
from ingest.simulator.faults.injector import FaultInjector
from ingest.simulator.server.connection import Due, VenueConnection, VenueStats
from ingest.simulator.server.market_state import MarketState
from ingest.simulator.server.venue_wide import CADENCE, VenueWide
from ingest.simulator.wire.encoder import PONG, Frame, SimulatedPrint, error_text, trades_text
from ingest.simulator.wire.subscriptions import (
    API_CHANNELS,
    EXPLORER_CHANNELS,
    VENUE_WIDE,
    ClientRequest,
    RequestRefused,
    StreamSubscription,
    ack_text,
    parse_request,
)

MOST_SUBSCRIPTIONS: Final = 1_000
_MADE: Final = frozenset({"l2Book", "candle", *VENUE_WIDE})


class HyperliquidSession(VenueConnection):
    """One client's connection to the API; to the explorer where `is_explorer`.

    Args:
        ws: the socket.
        abort: drops the connection without a close frame.
        market: state of the market.
        wide: messages of venue-wide streams.
        injector: injected faults.
        stats: counts sent messages.
        replayed: trades resent on subscribe.
        on_print: called with each sent trade, every time.
        is_explorer: serve only blocks of the chain.
    """

    def __init__(
        self,
        ws: web.WebSocketResponse,
        abort: Callable[[], None],
        *,
        market: MarketState,
        wide: VenueWide,
        injector: FaultInjector,
        stats: VenueStats,
        replayed: int,
        on_print: Callable[[SimulatedPrint], None] | None,
        is_explorer: bool = False,
    ) -> None:
        super().__init__("explorer" if is_explorer else "hyperliquid", ws, abort, stats)
        self.subscriptions: dict[str, StreamSubscription] = {}
        self._channels: Collection[str] = EXPLORER_CHANNELS if is_explorer else API_CHANNELS
        self._market = market
        self._wide = wide
        self._injector = injector
        self._replayed = replayed
        self._on_print = on_print
        self._made: list[StreamSubscription] = []

    @property
    def streams(self) -> int:
        return len(self.subscriptions)

    async def answer(self, text: str) -> None:
        """Answer one message of the client."""
        try:
            request = parse_request(text, self._market.universe.names, self._channels)
            if request.subscription is None:
                if not self._injector.loses_pongs():
                    await self.send(PONG, "pong")
            elif request.method == "subscribe":
                await self._subscribe(request.subscription)
            else:
                await self._unsubscribe(request)
        except RequestRefused as refusal:
            await self.send(error_text(str(refusal)), "error")

    async def stream(self, frames: list[Frame], clock: str | None, due: Due) -> None:
        """Send the subscribed parts of a block, after the clock frame if there is one."""
        keys, sent = self.subscriptions, self._stats.frames
        made = self._make(frames, due) if self._made else []
        chosen = [frame for frame in frames if frame.key in keys]
        if self._ws.closed or not (frames or made):
            return
        try:
            if clock is not None:
                await self._ws.send_str(clock)
                sent["tickwalkClock"] += 1
            for frame in chosen:
                await self._ws.send_str(frame.text)
                sent[frame.channel] += 1
                if frame.prints:
                    self._count(frame.prints)
            for channel, text in made:
                await self._ws.send_str(text)
                sent[channel] += 1
        except ConnectionError:  # the client has gone; its handler notices
            return
        if clock is not None or chosen or made:
            self.touch()

    async def _subscribe(self, item: StreamSubscription) -> None:
        if item.key in self.subscriptions:
            raise RequestRefused(f"Already subscribed: {item.echo()}")
        if len(self.subscriptions) >= MOST_SUBSCRIPTIONS:
            raise RequestRefused(f"Cannot subscribe to more than {MOST_SUBSCRIPTIONS} channels.")
        fault = self._injector.on_subscribe(item)
        if isinstance(fault, LoseAck) and not fault.takes_effect:
            return
        # The stream starts before the first answer is sent, so that no trade is lost between replay and stream.
        prints = self._market.replay(item.coin, self._replayed) if item.channel == "trades" else []
        snapshot = None if item.channel == "trades" else self._wide.snapshot(item)
        self._set({**self.subscriptions, item.key: item})
        if isinstance(fault, ClaimSubscribed):
            raise RequestRefused(f"Already subscribed: {item.echo()}")
        if fault is None:
            await self.send(ack_text("subscribe", item), "subscriptionResponse")
        if self._injector.is_silent(item.channel, item.coin):
            return
        if prints:
            await self.send(trades_text(prints), "trades")
            self._count(prints)
        elif snapshot is not None:
            await self.send(snapshot, item.channel)

    async def _unsubscribe(self, request: ClientRequest) -> None:
        item = request.subscription
        assert item is not None
        if item.key not in self.subscriptions:
            raise RequestRefused(f"Already unsubscribed: {item.echo()}")
        self._set({key: value for key, value in self.subscriptions.items() if key != item.key})
        await self.send(ack_text("unsubscribe", item), "subscriptionResponse")

    def _set(self, subscriptions: dict[str, StreamSubscription]) -> None:
        self.subscriptions = subscriptions
        # A capture has venue-wide messages and blocks only as recorded.
        made = _MADE if self._market.makes_books else {"candle"}
        self._made = [item for item in subscriptions.values() if item.channel in made]

    def _make(self, frames: Iterable[Frame], due: Due) -> list[tuple[str, str]]:
        """Return (channel, message) of the on-demand streams that are due now."""
        printed = {frame.coin for frame in frames if frame.prints}
        out = []
        for item in self._made:
            if not _is_due(item, due, printed) or self._injector.is_silent(item.channel, item.coin):
                continue
            text = self._wide.made(item)
            if text is not None:
                out.append((item.channel, text))
        return out

    def _count(self, prints: Iterable[SimulatedPrint]) -> None:
        stats, on_print = self._stats, self._on_print
        for item in prints:
            stats.prints[item.coin] += 1
            if not item.delivered:
                item.delivered = True
                stats.distinct[item.coin] += 1
            if on_print is not None:
                on_print(item)


def _is_due(item: StreamSubscription, due: Due, printed: Collection[str]) -> bool:
    match item.channel:
        case "candle":
            return item.coin in printed
        case "l2Book":
            return due.fast if item.fast else due.slow
        case channel:
            return bool(getattr(due, CADENCE[channel]))
