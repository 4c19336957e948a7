"""What must be known before history is asked for: the venue's present, and which instruments the coins are?"""

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
    """One coin: its name at the venue, its instrument id, and before when the name was another contract's."""

    coin: str
    instrument: str
    begins_ns: int


@dataclass(frozen=True, slots=True)
class VenueContext:
    """What the venue said of itself.

    Args:
        now_ns: its present by its own clock, which says what has ended.
        markets: what is wished for, in the order wished.
    """

    now_ns: int
    markets: tuple[BackfillMarket, ...]


async def resolve_markets(
    asks: JournaledClient, lake: Lake, settings: Settings, coins: Sequence[str]
) -> VenueContext:
    """Ask the venue for its time and what it lists.

    Args:
        asks: the venue, or a recording of its answers.
        lake: knows which names were recycled.
        settings: names the venue; its `record.coins` are meant where no coin is named.
        coins: names and patterns.

    Raises:
        VenueError: it cannot be reached.
        InstrumentError: it does not trade a coin; the hint names the nearest.
    """
    wanted = tuple(coins) or settings.record.coins
    answer = await asks.ask({"type": "exchangeStatus"})
    now_ns = parse_venue_time_ns(answer.body)
    registry = InstrumentRegistry(settings.record.venue)
    registry.restore(newest_listings(lake, answer.received_ns))
    update_registry(registry, await request_markets(asks, wanted))
    found: dict[str, str] = {}
    for name in wanted:
        # A coin that no longer trades has a past all the same, where it is asked for by its name.
        names = (name,) if name in registry.universe(_dex_of(name)) else registry.expand((name,))
        found |= {coin: registry.instrument_id(coin) for coin in names}
    return VenueContext(
        now_ns, tuple(BackfillMarket(coin, name, registry.begins_ns(name)) for coin, name in found.items())
    )


def _dex_of(coin: str) -> str:
    return coin.partition(":")[0] if ":" in coin else ""
