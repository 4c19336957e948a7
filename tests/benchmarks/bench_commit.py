"""Benchmark of a commit to the lake, against writing and syncing the same rows as plain Parquet.

A batch has 2,000 rows for three tables, as a recorder hands over every few seconds. The plain side writes one file a
table and syncs file and folder; it checks nothing, keeps no snapshot and finds no row that is held already.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.clock import NS, US_NS
from storage.contracts.contract import TS
from storage.contracts.tables import CONTEXTS, CONTRACTS, QUOTES, TRADES
from storage.contracts.validation import validate
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.benchmarks.harness import Clock, Figure, bench, figures, sample

TRADE_ROWS: Final = 1_200
QUOTE_ROWS: Final = 600
CONTEXT_ROWS: Final = 200
ROUNDS: Final[dict[Clock, int]] = {"wall": 100, "cpu": 20}
"""A 99th percentile is told of the wall's time alone, of a hundred commits: of fewer it would be the longest."""
START_NS: Final = 1_750_000_000 * NS
OURS: Final = "ours"
CHECKS: Final = "contracts"
LIMIT_PCT: Final = 30.0
AGAINST: Final = f"plain Parquet and fsync, pyarrow {pa.__version__}"


def make_batch(number: int) -> dict[str, pa.Table]:
    """Return the batch of one five-second stretch; no two have a key in common."""
    random = np.random.default_rng(number)

    def shared(rows: int, offset: int) -> dict[str, pa.Array[Any]]:
        recv_ns = START_NS + number * 5 * NS + np.sort(random.integers(0, 5 * NS, rows))
        names = np.array([f"hyperliquid|perp|C{i}" for i in range(10)])
        return {
            "instrument": pa.array(names[random.integers(0, 10, rows)]),
            "ts_event": pa.array((recv_ns - NS // 2) // US_NS, TS),
            "origin": pa.array(["live"] * rows),
            "ts_recv_ns": pa.array(recv_ns),
            "ts_knowable_ns": pa.array(recv_ns),
            "journal": pa.array(["benchmark"] * rows),
            "frame": pa.array(np.arange(rows) + number * 10_000 + offset),
        }

    def price(rows: int) -> pa.Array[Any]:
        return pa.array(np.round(100 + random.normal(0, 1, rows), 2))

    trades = shared(TRADE_ROWS, 0) | {
        "tid": pa.array(np.arange(TRADE_ROWS) + number * TRADE_ROWS),
        "side": pa.array(["buy", "sell"] * (TRADE_ROWS // 2)),
        "price": price(TRADE_ROWS),
        "size": pa.array(np.round(random.exponential(1, TRADE_ROWS) + 0.01, 2)),
        "is_twap": pa.array([False] * TRADE_ROWS),
    }
    quotes = shared(QUOTE_ROWS, 2_000) | {
        name: price(QUOTE_ROWS) for name in ("bid", "ask", "bid_size", "ask_size")
    }
    amounts = ("funding_rate", "open_interest", "oracle", "mark", "mid", "premium", "day_notional")
    contexts = shared(CONTEXT_ROWS, 4_000) | {name: price(CONTEXT_ROWS) for name in amounts}
    columns = {"trades": trades, "quotes": quotes, "contexts": contexts}
    contracts = {"trades": TRADES, "quotes": QUOTES, "contexts": CONTEXTS}
    return {
        name: pa.table({item: columns[name][item] for item in contract.schema.names}).cast(contract.schema)
        for name, contract in contracts.items()
    }


def write_plain(folder: Path, number: int, batch: dict[str, pa.Table]) -> None:
    """Write one Parquet file a table, and wait until the disk has files and names."""
    for name, rows in batch.items():
        path = folder / f"{name}-{number:06d}.parquet"
        pq.write_table(rows, path, compression="zstd")
        for target in (path, folder):
            handle = os.open(target, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)


@bench
def commit_a_batch() -> Iterator[Figure]:
    """Yield the cost of a commit, by the wall and in processor time, and what checking the contracts adds to it."""
    for clock, rounds in ROUNDS.items():
        taken = alternate(rounds, clock)
        parts = (50, 99) if clock == "wall" else (50,)
        for part in parts:
            at = {name: float(np.percentile(taken[name], part)) for name in (OURS, AGAINST)}
            name = f"commit of 2,000 rows, {clock} time, p{part}"
            yield from figures(name, at, ours=OURS, value=1e3 * at[OURS], unit="ms")
        checks, whole = np.median(taken[CHECKS]), np.median(taken[OURS])
        pct = 100 * float(checks / (whole - checks))
        name = f"contracts in a commit of 2,000 rows, {clock} time"
        yield Figure(name, round(pct, 1), "% of the rest", f"{LIMIT_PCT:g} %", round(LIMIT_PCT / pct, 2))


def alternate(rounds: int, clock: Clock) -> dict[str, list[float]]:
    """Return the seconds of each commit, of checking its rows alone, and of each plain write; no row may be lost."""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "plain"
        folder.mkdir()
        batches = {number: make_batch(number) for number in range(rounds + 1)}
        with Lake.open(Settings(home=Path(home) / "home")) as lake:
            commits, checks, writes = iter(batches), iter(batches), iter(batches)

            def commit() -> None:
                number = next(commits)
                done = lake.commit(batches[number], batch_id=f"batch-{number}")
                assert done.refused == 0

            def check() -> None:
                for name, rows in batches[next(checks)].items():
                    good, bad = validate(CONTRACTS[name], rows)
                    assert (good.num_rows, bad.num_rows) == (rows.num_rows, 0)

            def write() -> None:
                number = next(writes)
                write_plain(folder, number, batches[number])

            taken = sample({OURS: commit, CHECKS: check, AGAINST: write}, rounds=rounds, clock=clock)
            for name in ("trades", "quotes", "contexts"):
                held = lake.query(f"SELECT count(*) AS rows FROM {name}")["rows"][0].as_py()
                files = [pq.read_table(path).num_rows for path in folder.glob(f"{name}-*.parquet")]
                assert held == sum(files) == sum(batch[name].num_rows for batch in batches.values())
        return taken
