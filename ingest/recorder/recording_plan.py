"""What one recording holds: its name, its header, and the connections it needs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from ingest.feed.listing_client import AnsweredRequest
from ingest.feed.subscription_plan import ConnectionPlan, plan
from ingest.instruments.registry import InstrumentRegistry
from ingest.journal.recording import settings_for_header
from ingest.sharding import parse_shard, shard_of
from ingest.venues.gaiaex import protocol as gaiaex
from ingest.venues.hyperliquid.protocol import SIMULATED_MARK
from storage.settings import Settings


def recording_name(settings: Settings, origin: str) -> str:
    """Return a new name: the origin, the shard if there are several, the time and the process id."""
    part, parts = parse_shard(settings.record.shard)
    shard = f"-{part}of{parts}" if parts > 1 else ""
    return f"{origin}{shard}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{os.getpid()}"


def is_simulated(answers: Iterable[AnsweredRequest]) -> bool:
    """Return whether the venue's list of perpetuals says that the venue is simulated."""
    metas = [answer.body for request, answer in answers if request == {"type": "meta"}]
    return any(json.loads(body).get(SIMULATED_MARK) for body in metas)


def recording_header(
    settings: Settings, registry: InstrumentRegistry, *, may_be_empty: bool = True
) -> dict[str, Any]:
    """Return the first record of a recording: its source, instruments and settings."""
    record = settings.record
    part, parts = parse_shard(record.shard)
    coins, symbols = _expand(settings, registry, may_be_empty=may_be_empty)
    return {
        "source": "socket",
        "url": record.ws_url,
        "coins": [coin for coin in coins if shard_of(coin, parts) == part],
        "symbols": [symbol for symbol in symbols if shard_of(symbol, parts) == part],
        "settings": settings_for_header(settings),
    }


def plan_connections(
    settings: Settings,
    registry: InstrumentRegistry,
    before: Sequence[ConnectionPlan],
    *,
    may_be_empty: bool = True,
) -> list[ConnectionPlan]:
    """Return the connections for what is listed now, close to those of the plan `before`."""
    coins, symbols = _expand(settings, registry, may_be_empty=may_be_empty)
    return plan(settings, coins, symbols, before=before)


def _expand(
    settings: Settings, registry: InstrumentRegistry, *, may_be_empty: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the coins and GaiaEx symbols to record.

    Raises:
        InstrumentError: nothing of it trades, and `may_be_empty` is false.
    """
    coins = registry.expand(settings.record.coins, leaves_out_gone=True)
    symbols = registry.expand(settings.gaiaex.symbols, gaiaex.VENUE, leaves_out_gone=True)
    if not (coins or symbols) and not may_be_empty:
        registry.expand(settings.record.coins)  # raises, and says why
    return coins, symbols
