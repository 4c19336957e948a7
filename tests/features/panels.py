"""Random panels and rows of bars for tests, with every kind of hole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from features.panel.panel import COLUMNS, PRINTED, Panel
from storage.clock import NS, US_NS
from storage.contracts.tables import BARS, SESSIONS, STATUSES
from tests.storage.rows import with_clock

MINUTE_NS = 60 * NS
START_NS = 1_757_000_000 * NS // MINUTE_NS * MINUTE_NS
CODE = {status: code for code, status in enumerate(STATUSES)}


def with_quotes(panel: Panel) -> Panel:
    """Return a panel in which every bar with a quote column has a fresh quote."""
    close = torch.nan_to_num(panel.values["close"], nan=100.0)
    bid = torch.where(panel.values["bid"].isnan(), close * (1.0 - 1e-4), panel.values["bid"])
    ask = torch.where(panel.values["ask"].isnan(), close * (1.0 + 1e-4), panel.values["ask"])
    age_ms = torch.full_like(close, 1_000.0)
    return replace(
        panel, values=panel.values | {"bid": bid, "ask": torch.maximum(bid, ask), "quote_age_ms": age_ms}
    )


def random_panel(
    n_instruments: int = 4, n_steps: int = 400, *, seed: int = 0, start_ns: int = START_NS
) -> Panel:
    """Return a panel with quiet runs (short and beyond the carry), holes, halts, a late listing and odd values."""
    draw = np.random.default_rng(seed)
    shape = (n_instruments, n_steps)
    # Logs of prices near 1 have the finest bits, so a sum over instruments cannot be exact by luck.
    level = np.array([1.0, 100.0, 0.2, 60_000.0, 1.001])[np.arange(n_instruments) % 5, None]
    price = level * np.exp(np.cumsum(draw.normal(0.0, 1e-3, shape), axis=1))
    opened = np.concatenate([price[:, :1], price[:, :-1]], axis=1)
    volume = np.exp(draw.normal(2.0, 1.0, shape))
    values = {
        "open": opened,
        "high": np.maximum(opened, price) * (1.0 + 1e-3 * draw.random(shape)),
        "low": np.minimum(opened, price) * (1.0 - 1e-3 * draw.random(shape)),
        "close": price,
        "vwap": (opened + price) / 2.0,
        "volume": volume,
        "buy_volume": volume * draw.random(shape),
        "notional": volume * (opened + price) / 2.0,
        "trades": np.ceil(volume),
        "bid": price * (1.0 - 2e-4 * draw.random(shape)),
        "ask": price * (1.0 + 2e-4 * draw.random(shape) - 2e-5),
        "bid_size": np.round(draw.exponential(1.0, shape), 1),
        "ask_size": np.round(draw.exponential(1.0, shape), 1),
        "quote_age_ms": draw.uniform(0.0, 330_000.0, shape),
        "funding_rate": draw.normal(1e-5, 1e-5, shape),
        "open_interest": volume * 100.0,
        "oracle": price * 1.0003,
        "mark": price,
        "context_age_ms": draw.uniform(0.0, 130_000.0, shape),
        "observed_ms": np.full(shape, 60_000.0),
    }
    status = _statuses(draw, shape)
    unprinted = status != PRINTED
    for name in ("open", "high", "low", "close", "vwap"):
        values[name][unprinted] = np.nan
    # A blind bar keeps what printed while we watched; features must not read it.
    seen = (status == CODE["blind"]) & (draw.random(shape) < 0.5)
    values["close"][seen] = price[seen]
    for name in ("buy_volume", "bid", "ask", "bid_size", "funding_rate", "quote_age_ms", "oracle"):
        values[name][draw.random(shape) < 0.04] = np.nan
    values |= _joined(draw, shape)
    values["session"] = draw.choice([0.0, 1.0, 2.0, 3.0], shape)
    values["trades_applicable"] = np.ones(shape)
    return Panel(
        instruments=tuple(f"hyperliquid|perp|{name}" for name in _names(n_instruments)),
        width_ns=MINUTE_NS,
        ts_open_ns=start_ns + MINUTE_NS * np.arange(n_steps, dtype=np.int64),
        values={name: torch.from_numpy(values[name].astype(np.float64)) for name in COLUMNS},
        status=torch.from_numpy(status),
    )


def often_quoted(panel: Panel) -> Panel:
    """Return a panel with few quotes that are stale or missing: a return of mids needs both of its ends."""
    often = torch.arange(panel.n_steps) % 40 != 0
    values = dict(panel.values)
    fixed = {
        "quote_age_ms": torch.full_like(values["quote_age_ms"], 100.0),
        "bid": torch.where(torch.isnan(values["bid"]), values["mark"] * 0.9999, values["bid"]),
        "ask": torch.where(torch.isnan(values["ask"]), values["mark"] * 1.0001, values["ask"]),
    }
    for name, value in fixed.items():
        values[name] = torch.where(often, value, values[name])
    return replace(panel, values=values)


def _names(count: int) -> list[str]:
    """Return sorted names that include the two leaders."""
    return sorted(["BTC", "ETH", *(f"C{i:02d}" for i in range(2, count))][:count])


def _joined(
    draw: np.random.Generator, shape: tuple[int, int]
) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """Return the columns joined as of the close: books of every cadence, in stretches; payments; a relay's lag."""
    cadence_ms = draw.choice([500.0, 1_500.0, 5_000.0], (shape[0], shape[1] // 40 + 1)).repeat(40, axis=1)
    joined = {
        "bid_depth": draw.exponential(50.0, shape),
        "ask_depth": draw.exponential(50.0, shape),
        "book_cadence_ms": cadence_ms[:, : shape[1]],
        "book_age_ms": cadence_ms[:, : shape[1]] * draw.uniform(0.0, 8.0, shape),
        "paid_rate": draw.normal(1e-5, 1e-5, shape),
        "paid_age_ms": draw.uniform(0.0, 10 * 3_600_000.0, shape),
        "relay_lag_ms": draw.exponential(300.0, shape),
        "relay_age_ms": draw.uniform(0.0, 330_000.0, shape),
    }
    for value in joined.values():
        value[draw.random(shape) < 0.04] = np.nan
    for name in ("bid_depth", "ask_depth"):
        joined[name][draw.random(shape) < 0.1] = 0.0
    return joined


def _statuses(draw: np.random.Generator, shape: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    status = np.full(shape, PRINTED, dtype=np.uint8)
    status[draw.random(shape) < 0.15] = CODE["quiet"]
    for row in range(shape[0]):
        for kind, runs, longest in (("quiet", 3, 45), ("blind", 3, 12), ("unknown", 2, 4), ("halted", 1, 6)):
            for _ in range(runs):
                at = int(draw.integers(shape[1]))
                status[row, at : at + int(draw.integers(1, longest))] = CODE[kind]
    status[-1, : shape[1] // 4] = CODE["unlisted"]
    return status


def bar_rows(rows: list[dict[str, Any]]) -> pa.Table:
    """Return rows of `bars`; defaults describe a plain printed bar of venue|perp|A.

    `step` places a row on the grid, `lag_ms` says how long after its close it was knowable.
    """
    full = []
    for given in rows:
        row = dict(given)
        ts_open_ns = START_NS + row.pop("step", 0) * MINUTE_NS
        ts_close_ns = ts_open_ns + MINUTE_NS
        base: dict[str, Any] = {
            "instrument": "venue|perp|A",
            "width": "1m",
            "ts_open": ts_open_ns // US_NS,
            "ts_close": ts_close_ns // US_NS,
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
            "close": 100.0,
            "volume": 2.0,
            "trades_applicable": True,
            "ts_knowable_ns": ts_close_ns + row.pop("lag_ms", 0) * 1_000_000,
        }
        full.append(with_clock(base | row))
    return BARS.rows(full)


def table_of(panel: Panel) -> pa.Table:
    """Return a panel's cells as rows of `bars`, with the columns that `panel_from_table` reads."""
    rows, steps = panel.n_instruments, panel.n_steps
    columns: dict[str, Any] = {
        "instrument": np.repeat(np.array(panel.instruments), steps),
        "ts_open": pa.array(np.tile(panel.ts_open_ns // US_NS, rows)).cast(pa.timestamp("us", tz="UTC")),
        "status": np.array(STATUSES)[panel.status.numpy().ravel()],
    }
    for name in COLUMNS:
        columns[name] = pa.array(panel.column(name).numpy().ravel(), from_pandas=True)
    columns["session"] = pa.array(SESSIONS).take(columns["session"].cast(pa.int64()))
    columns["trades_applicable"] = columns["trades_applicable"].cast(pa.bool_())
    return pa.table(columns)


def stored_rows(panel: Panel, *, lag_ms: int = 0) -> pa.Table:
    """Return a panel's cells as rows of `bars` for the lake; a step that is `unknown` has no row."""
    cells = table_of(panel).filter(pa.array((panel.status != CODE["unknown"]).numpy().ravel()))
    opens = cells["ts_open"].cast(pa.int64())
    close_us = opens.to_numpy() + panel.width_ns // US_NS
    given = {name: cells[name] for name in cells.column_names} | {
        "ts_close": pa.array(close_us),
        "ts_knowable_ns": pa.array(close_us * US_NS + lag_ms * 1_000_000),
        "ts_available_ns": pa.array(close_us * US_NS + lag_ms * 1_000_000),
    }
    base: dict[str, Any] = {
        "width": f"{panel.width_ns // MINUTE_NS}m", "revision": 0, "cause": "", "session": "always",
        "origin": "live", "repaired": False, "certified": False, "trades_applicable": True,
    }  # fmt: skip
    columns = []
    for item in BARS.schema:
        column = given.get(item.name, pa.array([base.get(item.name)] * cells.num_rows, item.type))
        if pa.types.is_integer(item.type) and item.name in COLUMNS:
            column = pc.floor(column)
        columns.append(column.cast(item.type))
    return pa.Table.from_arrays(columns, schema=BARS.schema)
