"""Builders of valid rows for tests, in which a test names only what matters."""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa

from storage.contracts.availability import available_ns
from storage.contracts.tables import BARS, FUNDING, TRADES

LAG_NS: Final = 1_100_000_000
"""`bars.history_lag_ms` by default."""
UNSTAMPED: Final = "COLUMNS(name -> name NOT IN ('ts_ingested_ns', 'batch', 'home'))"
"""All columns of any table but the stamps of its commit, which differ between two lakes of equal rows."""
BTC = "hyperliquid|perp|BTC"


def trade(number: int, **changes: Any) -> dict[str, Any]:
    """Return a row of `trades`, one millisecond of venue time after the one before."""
    row = {
        "instrument": BTC,
        "ts_event": number * 1000,
        "tid": number,
        "side": "buy",
        "price": 100.0,
        "size": 1.0,
        "is_twap": False,
        "origin": "live",
        "ts_recv_ns": number,
        "ts_knowable_ns": number,
        "journal": "made",
        "frame": number,
    }
    return row | changes


def bar(minute: int, **changes: Any) -> dict[str, Any]:
    """Return a row of `bars`: a printed minute."""
    row = {
        "instrument": BTC,
        "width": "1m",
        "ts_open": minute * 60_000_000,
        "ts_close": (minute + 1) * 60_000_000,
        "revision": 0,
        "status": "printed",
        "cause": "",
        "session": "always",
        "origin": "live",
        "observed_ms": 60_000,
        "repaired": False,
        "certified": False,
        "open": 100.0,
        "high": 101.0,
        "low": 99.0,
        "close": 100.5,
        "volume": 2.0,
        "buy_volume": 1.0,
        "notional": 200.0,
        "vwap": 100.0,
        "trades": 2,
        "trades_applicable": True,
        "ts_knowable_ns": (minute + 1) * 60_000_000_000 + 2_000_000_000,
    }
    return with_clock(row | changes)


def with_clock(row: dict[str, Any], lag_ns: int = LAG_NS) -> dict[str, Any]:
    """Return a row of `bars` with the `ts_available_ns` that it must have, unless it has one."""
    row.setdefault(
        "ts_available_ns",
        available_ns(
            origin=row["origin"],
            repaired=row["repaired"],
            close_ns=row["ts_close"] * 1_000,
            knowable_ns=row["ts_knowable_ns"],
            lag_ns=lag_ns,
        ),
    )
    return row


def funding(hour: int, **changes: Any) -> dict[str, Any]:
    """Return a row of `funding`."""
    row = {
        "instrument": BTC,
        "ts_event": hour * 3_600_000_000,
        "funding_rate": 0.0001,
        "premium": None,
        "interval_h": 1,
        "source": "made",
        "ts_knowable_ns": hour * 3_600_000_000_000,
    }
    return row | changes


TRADES_A_BATCH: Final = 3


def batch(number: int, name: str = "BTC") -> dict[str, pa.Table]:
    """Return rows for three tables: three trades, a bar and a funding; no two numbers, or names, share a key."""
    mine = {"instrument": f"hyperliquid|perp|{name}"}
    tids = range(number * TRADES_A_BATCH, (number + 1) * TRADES_A_BATCH)
    return {
        "trades": TRADES.rows([trade(tid, **mine) for tid in tids]),
        "bars": BARS.rows([bar(number, **mine)]),
        "funding": FUNDING.rows([funding(number, **mine)]),
    }
