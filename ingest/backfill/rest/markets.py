"""The venue's clock and the instruments of the requested coins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ingest.backfill.rest.journaled_client import JournaledClient
from ingest.feed.listing_client import request_markets, update_registry
from ingest.instruments.registry import InstrumentRegistry
from ingest.instruments.stored_listings import newest_listings
from ingest.venues.hyperliquid.protocol import parse_venue_time_ns
from storage.lake.lake import Lake
from storage.settings import Settings


@dataclass(frozen=True, slots=True)
class BackfillMarket:
    """A coin: name, instrument id, and the time before which the name belonged to another contract."""

    coin: str
    instrument: str
    begins_ns: int


@dataclass(frozen=True, slots=True)
class VenueContext:
    """Clock of the venue and resolved markets.

    Args:
        now_ns: the present by the venue's clock.
        markets: of the requested coins, in that order.
    """

    now_ns: int
    markets: tuple[BackfillMarket, ...]


async def resolve_markets(
    client: JournaledClient, lake: Lake, settings: Settings, coins: Sequence[str]
) -> VenueContext:
    """Request the time and the listings of the venue, and resolve the coins.

    Args:
        client: the venue, or a recording of its answers.
        lake: for recycled names.
        settings: name of the venue, and `record.coins` as the default.
        coins: names and patterns.

    Raises:
        VenueError: the venue cannot be reached.
        InstrumentError: the venue does not trade a coin; the hint names the nearest.
    """
    wanted = tuple(coins) or settings.record.coins
    answer = await client.ask({"type": "exchangeStatus"})
    now_ns = parse_venue_time_ns(answer.body)
    registry = InstrumentRegistry(settings.record.venue)
    registry.restore(newest_listings(lake, answer.received_ns))
    update_registry(registry, await request_markets(client, wanted))
    found: dict[str, str] = {}
    for name in wanted:
        # A delisted coin still has history if it is requested by its name.
        names = (name,) if name in registry.universe(_dex_of(name)) else registry.expand((name,))
        found |= {coin: registry.instrument_id(coin) for coin in names}
    return VenueContext(
        now_ns, tuple(BackfillMarket(coin, name, registry.begins_ns(name)) for coin, name in found.items())
    )


def _dex_of(coin: str) -> str:
    return coin.partition(":")[0] if ":" in coin else ""
