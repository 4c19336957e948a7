"""Benchmark of prints into bars, against DuckDB, polars and a loop in C with equal results.

Two million prints of 20 instruments over six hours, sorted by instrument, then time: the order in which tables are
read. Ours also makes the index of each print's bar and fills every bar of the grid, printed or not; the other two
return only bars in which something printed, in any order. That is in their favour. The C loop is compiled here, with
-O3, and does the same work as ours; without a C compiler it is left out.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from ingest.bars.aggregate import Folded, Ints, bar_of, fold
from storage.clock import NS, width_ns
from tests.benchmarks.harness import Figure, bench, figures, measure

PRINTS: Final = 2_000_000
INSTRUMENTS: Final = 20
SPAN_NS: Final = 6 * 3600 * NS
ROUNDS: Final = 5
COLUMNS: Final = ("open", "high", "low", "close", "volume", "buy_volume", "notional", "trades")


@dataclass(frozen=True, slots=True)
class Prints:
    """(m,) columns, sorted by instrument, then time; `ts_ns` counts from the start of the span."""

    instrument: Ints
    ts_ns: Ints
    price: np.ndarray
    size: np.ndarray
    side: np.ndarray

    @property
    def table(self) -> pa.Table:
        """The same as an Arrow table, with the order as a column of its own."""
        order = np.arange(len(self.ts_ns))
        names = ("instrument", "ts_ns", "price", "size", "side")
        return pa.table({name: getattr(self, name) for name in names} | {"seq": order})


def make_prints(prints: int = PRINTS, *, seed: int = 7) -> Prints:
    """Return prints with prices on a grid of 0.1 and whole milliseconds, as a venue sends them."""
    random = np.random.default_rng(seed)
    instrument = np.sort(random.integers(0, INSTRUMENTS, prints))
    ts_ns = random.integers(0, SPAN_NS // 1_000_000, prints) * 1_000_000
    by_time = np.lexsort((ts_ns, instrument))
    return Prints(
        instrument[by_time],
        ts_ns[by_time],
        np.round(100 + np.cumsum(random.normal(0, 0.05, prints)) % 50, 1),
        np.round(random.exponential(1.0, prints) + 0.001, 3),
        random.choice(np.array([-1, 1], dtype=np.int8), prints),
    )


def fold_ours(prints: Prints, step_ns: int) -> Folded:
    """Fold by the kernel, into every bar of the grid."""
    steps = SPAN_NS // step_ns
    bar = bar_of(prints.ts_ns, step_ns)
    bar += prints.instrument * steps
    return fold(bar, prints.price, prints.size, prints.side, bars=INSTRUMENTS * steps)


_C_LOOP: Final = """
#include <stdint.h>
void fold(int64_t m, const int64_t *instrument, const int64_t *ts, const double *price, const double *size,
          const int8_t *side, int64_t step, int64_t steps, double *prices, double *sums, int64_t *trades,
          int8_t *known, int64_t bars) {
    for (int64_t i = 0; i < m; i++) {
        int64_t b = instrument[i] * steps + ts[i] / step;
        double p = price[i], s = size[i];
        if (!trades[b]) { prices[b] = p; prices[bars + b] = p; prices[2 * bars + b] = p; }
        else { if (p > prices[bars + b]) prices[bars + b] = p; if (p < prices[2 * bars + b]) prices[2 * bars + b] = p; }
        prices[3 * bars + b] = p;
        sums[b] += s; sums[2 * bars + b] += p * s;
        if (side[i] > 0) sums[bars + b] += s; else if (!side[i]) known[b] = 0;
        trades[b]++;
    }
}
"""


def compile_c_loop() -> Callable[[Prints, int], Folded] | None:
    """Return a fold that runs a loop in C, or nothing where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "fold.c"), Path(folder, "fold.so")
        source.write_text(_C_LOOP)
        subprocess.run([compiler, "-O3", "-shared", "-fPIC", "-o", library, source], check=True)
        loop = ctypes.CDLL(str(library)).fold

    def run(prints: Prints, step_ns: int) -> Folded:
        steps = SPAN_NS // step_ns
        bars = INSTRUMENTS * steps
        prices, sums = np.full((4, bars), np.nan), np.zeros((3, bars))
        trades, known = np.zeros(bars, np.int64), np.ones(bars, np.bool_)
        columns = (prints.instrument, prints.ts_ns, prints.price, prints.size, prints.side)
        given = [ctypes.c_void_p(column.ctypes.data) for column in columns]
        made = [ctypes.c_void_p(column.ctypes.data) for column in (prices, sums, trades, known)]
        numbers = [ctypes.c_int64(number) for number in (len(prints.ts_ns), step_ns, steps, bars)]
        loop(numbers[0], *given, numbers[1], numbers[2], *made, numbers[3])
        return Folded(*prices, *sums, trades, known)

    return run


def fold_duckdb(run: duckdb.DuckDBPyConnection, step_ns: int) -> pa.Table:
    """Fold by SQL over the registered table `prints`."""
    return run.execute(
        """SELECT instrument * ? + ts_ns // ? AS bar, arg_min(price, seq) AS open, max(price) AS high,
                  min(price) AS low, arg_max(price, seq) AS close, sum(size) AS volume,
                  sum(CASE WHEN side > 0 THEN size ELSE 0 END) AS buy_volume, sum(price * size) AS notional,
                  count(*) AS trades
           FROM prints GROUP BY bar""",
        [SPAN_NS // step_ns, step_ns],
    ).to_arrow_table()


def fold_polars(frame: pl.LazyFrame, step_ns: int) -> pl.DataFrame:
    """Fold by a group-by; within a group, polars keeps the order of the rows."""
    price, size = pl.col("price"), pl.col("size")
    return (
        frame.group_by(
            (pl.col("instrument") * (SPAN_NS // step_ns) + pl.col("ts_ns") // step_ns).alias("bar")
        )
        .agg(
            open=price.first(),
            high=price.max(),
            low=price.min(),
            close=price.last(),
            volume=size.sum(),
            buy_volume=pl.when(pl.col("side") > 0).then(size).otherwise(0.0).sum(),
            notional=(price * size).sum(),
            trades=pl.len(),
        )
        .collect()
    )


def check_equal(ours: Folded, theirs: pa.Table) -> None:
    """Refuse bars that differ; sums may, in their last bits, since each engine adds in its own order."""
    theirs = theirs.sort_by("bar")
    printed = np.flatnonzero(ours.trades)
    np.testing.assert_array_equal(theirs["bar"].to_numpy(), printed)
    for name in COLUMNS:
        tolerance = 1e-9 if name in ("volume", "buy_volume", "notional") else 0.0
        mine = getattr(ours, name)[printed]
        np.testing.assert_allclose(
            theirs[name].to_numpy().astype(mine.dtype), mine, rtol=tolerance, atol=1e-9 * tolerance
        )


def check_same(ours: Folded, theirs: Folded) -> None:
    """Refuse bars that are not equal to the bit: the same sums in the same order."""
    for name in (*COLUMNS, "is_side_known"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


@bench
def fold_into_bars() -> Iterator[Figure]:
    """Yield figures for bars of one second and of one minute."""
    prints = make_prints()
    table = prints.table
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    run = duckdb.connect()
    run.register("prints", table)
    c_loop = compile_c_loop()
    for width in ("1s", "1m"):
        step_ns = width_ns(width)
        ours = fold_ours(prints, step_ns)
        check_equal(ours, fold_duckdb(run, step_ns))
        check_equal(ours, fold_polars(frame.lazy(), step_ns).to_arrow())
        contenders: dict[str, Callable[[], object]] = {
            "ours": lambda step_ns=step_ns: fold_ours(prints, step_ns),  # type: ignore[misc]
            f"duckdb {duckdb.__version__}": lambda step_ns=step_ns: fold_duckdb(run, step_ns),  # type: ignore[misc]
            f"polars {pl.__version__}": lambda step_ns=step_ns: fold_polars(frame.lazy(), step_ns),  # type: ignore[misc]
        }
        if c_loop is not None:
            check_same(ours, c_loop(prints, step_ns))
            contenders["a loop in C, -O3"] = lambda step_ns=step_ns: c_loop(prints, step_ns)  # type: ignore[misc]
        taken = measure(contenders, rounds=ROUNDS)
        rate = PRINTS / taken["ours"] / 1e6
        yield from figures(
            f"bars of {width}", taken, ours="ours", value=rate, unit="million prints/s of one core"
        )
