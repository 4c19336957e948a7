"""A served past, and a home with a day that has gaps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from ingest.simulator.server.history_endpoint import RecordedHistory
from storage.clock import DAY_NS, HOUR_NS, MS_NS, NS, ManualTime, parse_time_ns
from storage.contracts.tables import BARS, RECORDINGS
from storage.lake.lake import Lake
from storage.settings import Settings, load_settings
from tests.ingest.backfill.histories import candles, served_aside
from tests.ingest.feed.listeners import quick
from tests.storage.rows import BTC, bar

DAY: Final = "2025-05-19"
DAY_START_NS: Final = parse_time_ns(DAY)
NOW_NS: Final = DAY_START_NS + DAY_NS + 20 * 60 * NS
MINUTE: Final = DAY_START_NS // (60 * NS)
GAIA: Final = "gaiaex|perp|BTC"
BLIND: Final = {"status": "blind", "cause": "connection lost", "trades": 0}
FLAT: Final = (5, 6)


@pytest.fixture(scope="package")
def url() -> Iterator[str]:
    """Address of a venue that serves 5,000 minutes until 00:20 UTC, in a thread of its own."""
    past = RecordedHistory(NOW_NS, {(coin, "1m"): candles(5_000, until_ns=NOW_NS) for coin in ("BTC", "ETH")})
    with served_aside(past) as address:
        yield address


@pytest.fixture
def clock() -> ManualTime:
    return ManualTime(NOW_NS)


def at(home: Path, url: str, **record: Any) -> Settings:
    """Return settings of a home that asks a venue, without rate limits."""
    settings = load_settings(overrides={"home": home}, environ={})
    return quick(settings, info_url=url, rest_weight_per_minute=1_000_000, **record)


def matching(minute: int, **changes: Any) -> dict[str, Any]:
    """Return a bar that agrees with the candle of its minute of the day."""
    candle = _CANDLES[minute]
    notional = candle.volume * candle.close
    figures = {
        "open": candle.open, "high": candle.high, "low": candle.low, "close": candle.close, "volume": candle.volume,
        "trades": candle.trades, "notional": notional, "vwap": candle.close, "buy_volume": candle.volume / 2,
    }  # fmt: skip
    return bar(MINUTE + minute, **(figures | changes))


_CANDLES: Final = {
    (row.open_ms * MS_NS - DAY_START_NS) // (60 * NS): row for row in candles(5_000, until_ns=NOW_NS)
}


def fill(settings: Settings, rows: list[dict[str, Any]], *, is_running: bool = False) -> None:
    """Store bars of a recording that lists BTC at both venues since the day's start."""
    listed = {
        "recording": "r", "home": "h", "venue": "hyperliquid", "instruments": f'["{BTC}", "{GAIA}"]',
        "ts_started_ns": DAY_START_NS - HOUR_NS, "ts_last_ns": None if is_running else NOW_NS,
        "ts_knowable_ns": DAY_START_NS,
    }  # fmt: skip
    with Lake.open(settings, clock=ManualTime(NOW_NS - HOUR_NS)) as lake:
        tables = {"bars": BARS.rows(rows), "recordings": RECORDINGS.rows([listed])}
        assert lake.commit(tables, batch_id="recorded").refused == 0


def gappy_day() -> list[dict[str, Any]]:
    """Return bars of a day in which both venues were lost from 10:00 to 11:00; the relay lost 30 more minutes."""
    rows = [matching(minute, **(BLIND if 600 <= minute < 660 else {})) for minute in range(1_440)]
    relay = {"instrument": GAIA, "trades_applicable": False, "origin": "live"}
    return rows + [
        bar(MINUTE + minute, **relay, **(BLIND if 600 <= minute < 690 else {})) for minute in range(1_440)
    ]
