"""Homes that the recorder filled from the simulated venues: Hyperliquid, and GaiaEx, which relays its books."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from ingest.recorder.recorder import Recorder
from ingest.simulator.market.spec import DEFAULT_COINS, MarketSpec
from ingest.simulator.market.synthetic import SyntheticMarket
from ingest.simulator.venue import SimulatedVenue
from storage.clock import parse_time_ns
from storage.lake.lake import Lake
from storage.settings import Settings

RECORDED_SINCE = "2026-09-07T00:00:00Z"
"""After the day on which GaiaEx published its fee."""
_ALWAYS_S = 1e6


def record_both(settings: Settings, *, hours: float, coins: tuple[str, ...], activity: float = 0.15) -> None:
    """Record both venues over their sockets, in virtual time.

    Args:
        settings: whose home is written.
        hours: length of the market.
        coins: symbols, the same at both venues.
        activity: factor on the rates of prints and quotes.
    """
    spec = MarketSpec(
        seed=5,
        start_ns=parse_time_ns(RECORDED_SINCE),
        span_s=hours * 3_600.0 + 5.0,
        coins=tuple(coin for coin in DEFAULT_COINS if coin.name in coins),
        activity=activity,
        context_s=60,
    )
    asyncio.run(_record(settings, spec, coins))


async def _record(settings: Settings, spec: MarketSpec, coins: tuple[str, ...]) -> None:
    streams = len(coins) * (len(settings.record.channels) + 1)
    venue = SimulatedVenue(
        SyntheticMarket(spec), clock="virtual", wait_for_subscriptions=streams, heartbeat_s=1.0
    )
    async with venue:
        # Quotes of so calm a market are rarer than those from which the recorder learns that a stream is stale.
        record = replace(
            settings.record,
            coins=coins,
            ws_url=venue.ws_url,
            info_url=venue.info_url,
            explorer_url="",
            ntp_server="",
            clock="venue",
            twins=1,
            certify=False,
            coin_silence_s=_ALWAYS_S,
            socket_silence_s=_ALWAYS_S,
            silence_least_s=_ALWAYS_S,
            silence_most_s=_ALWAYS_S,
        )
        gaiaex = replace(
            settings.gaiaex,
            symbols=coins,
            ws_url=venue.gaia_ws_url,
            rest_url=venue.gaia_rest_url,
            handshakes_per_s=50.0,
            heartbeat_silence_s=_ALWAYS_S,
            relay_stale_s=_ALWAYS_S,
        )
        metrics = replace(settings.metrics, port=0)
        settings = replace(settings, record=record, gaiaex=gaiaex, metrics=metrics)
        with Lake.open(settings) as lake:
            await Recorder(settings, lake, name="both", ends_with_venue=True).run(asyncio.Event())
