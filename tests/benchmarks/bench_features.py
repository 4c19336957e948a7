"""Benchmark of bars into features: a full build beside DuckDB and polars, one live bar, one new day.

- `ten_features`: the same ten features of 200 instruments over a week, two million bars, by three engines, results
  compared first. Bars are whole (every one printed), so the SQL has no missing bars to think of; ours masks them
  anyway, and is run once more over bars of which a tenth is quiet or blind.
- `widest_set`: every feature of the widest set, in a process of its own whose resident memory is watched. With
  `DRILL=1` over a year of minutes: 105 million rows, 200 instruments, streamed day by day into files.
- `live_step`: one new bar of 200 instruments, all features of the widest set, on one thread.
- `nightly_update`: one new day of 200 instruments comes into a lake, and the store is brought up to it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import torch

from features.build import build_features, compute, single_thread
from features.feature import Feature, FeatureBlock
from features.live import LiveFeatures
from features.panel.panel import COLUMNS, PRINTED, Panel
from features.sets import FEATURE_SETS, get_set
from features.store.incremental import built_block
from features.store.manifest import StoreKey
from features.store.serialization import write_block
from features.store.store import update
from storage.clock import DAY_NS, NS, US_NS, ManualTime, iso
from storage.contracts.tables import BARS, STATUSES
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.benchmarks.harness import Figure, bench, figures, measure, peak_mb

INSTRUMENTS: Final = 200
STEPS: Final = 7 * 1_440
ROUNDS: Final = 5
MINUTE_NS: Final = 60 * NS
START_NS: Final = 1_767_225_600 * NS  # 2026-01-01
IS_LONG: Final = os.environ.get("DRILL") == "1"
MEMORY_LIMIT_MB: Final = 8_192
STEP_LIMIT_MS: Final = 5.0
NIGHT_LIMIT_S: Final = 10.0
WIDEST: Final = max(FEATURE_SETS, key=lambda name: len(FEATURE_SETS[name]))
TEN: Final = (
    "log_return_1", "log_return_5", "log_return_15", "log_return_60", "realised_volatility_30",
    "parkinson_volatility_60", "volume_score_120", "flow_imbalance_15", "vwap_distance_30", "return_rank_5",
)  # fmt: skip


def make_panel(
    instruments: int = INSTRUMENTS,
    steps: int = STEPS,
    *,
    start_ns: int = START_NS,
    seed: int = 3,
    holes: bool = False,
) -> Panel:
    """Return bars that walk; all of them printed, or a tenth quiet and some blind."""
    draw = np.random.default_rng(seed)
    shape = (instruments, steps)
    close = 100.0 * np.exp(np.cumsum(draw.normal(0.0, 1e-3, shape), axis=1))
    opened = close * np.exp(draw.normal(0.0, 5e-4, shape))
    volume = draw.exponential(5.0, shape) + 1e-3
    values = {name: np.full(shape, 1_000.0) for name in COLUMNS}
    values |= {
        "open": opened, "close": close, "volume": volume, "buy_volume": volume * draw.random(shape),
        "high": np.maximum(opened, close) * 1.0005, "low": np.minimum(opened, close) * 0.9995,
        "vwap": (opened + close) / 2.0, "notional": volume * (opened + close) / 2.0, "trades": np.ceil(volume),
        "bid": close * 0.9999, "ask": close * 1.0001, "bid_size": volume, "ask_size": volume[::-1],
        "funding_rate": draw.normal(1e-5, 1e-5, shape), "open_interest": volume * 100.0,
        "oracle": close * 1.0002, "mark": close * 1.0001,
    }  # fmt: skip
    status = np.full(shape, PRINTED, dtype=np.uint8)
    if holes:
        drawn = draw.random(shape)
        status[drawn < 0.1] = STATUSES.index("quiet")
        status[drawn < 0.01] = STATUSES.index("blind")
        for name in ("open", "high", "low", "close", "vwap"):
            values[name] = np.where(status == PRINTED, values[name], np.nan)
    return Panel(
        tuple(f"venue|perp|C{row:03d}" for row in range(instruments)),
        MINUTE_NS,
        start_ns + MINUTE_NS * np.arange(steps, dtype=np.int64),
        {name: torch.from_numpy(value.astype(np.float64)) for name, value in values.items()},
        torch.from_numpy(status),
    )


def table_of(panel: Panel) -> pa.Table:
    """Return the bars as rows, sorted by instrument, then time, with the columns that the ten features read."""
    columns = {
        name: panel.column(name).numpy().ravel()
        for name in ("close", "high", "low", "volume", "buy_volume", "notional")
    }
    place = np.repeat(np.arange(panel.n_instruments), panel.n_steps)
    return pa.table(
        {"instrument": place, "step": np.tile(np.arange(panel.n_steps), panel.n_instruments)} | columns
    )


def ten() -> tuple[Feature, ...]:
    """The ten features, as they are declared."""
    every = {item.name: item for features in FEATURE_SETS.values() for item in features}
    return tuple(every[name] for name in TEN)


_RETURNS: Final = "".join(
    f"ln(close / lag(close, {n}) OVER bars) AS log_return_{n}, " for n in (1, 5, 15, 60)
)
SQL: Final = f"""
WITH moved AS (
    SELECT *, {_RETURNS} sqrt(volume) AS root, ln(high / low) AS log_range
    FROM bars_table WINDOW bars AS (PARTITION BY instrument ORDER BY step)
)
SELECT instrument, step, log_return_1, log_return_5, log_return_15, log_return_60,
       sqrt(avg(log_return_1 * log_return_1) OVER last_30) AS realised_volatility_30,
       sqrt(avg(log_range * log_range) OVER last_60 / (4 * ln(2))) AS parkinson_volatility_60,
       (root - avg(root) OVER before_120) / stddev_pop(root) OVER before_120 AS volume_score_120,
       2 * (sum(buy_volume) OVER last_15 / sum(volume) OVER last_15) - 1 AS flow_imbalance_15,
       ln(close) - ln(sum(notional) OVER last_30 / sum(volume) OVER last_30) AS vwap_distance_30,
       percent_rank() OVER (PARTITION BY step ORDER BY log_return_5) - 0.5 AS return_rank_5
FROM moved WINDOW
    last_15 AS (PARTITION BY instrument ORDER BY step ROWS BETWEEN 14 PRECEDING AND CURRENT ROW),
    last_30 AS (PARTITION BY instrument ORDER BY step ROWS BETWEEN 29 PRECEDING AND CURRENT ROW),
    last_60 AS (PARTITION BY instrument ORDER BY step ROWS BETWEEN 59 PRECEDING AND CURRENT ROW),
    before_120 AS (PARTITION BY instrument ORDER BY step ROWS BETWEEN 120 PRECEDING AND 1 PRECEDING)
"""


def by_duckdb(run: duckdb.DuckDBPyConnection) -> pa.Table:
    """The ten features by SQL over the registered table `bars_table`."""
    return run.execute(SQL).to_arrow_table()


def by_polars(frame: pl.LazyFrame) -> pl.DataFrame:
    """The ten features by polars' own rolling windows."""
    close, volume, root = pl.col("close"), pl.col("volume"), pl.col("volume").sqrt()
    log_range = (pl.col("high") / pl.col("low")).log()
    own = "instrument"
    moved = frame.with_columns(
        **{f"log_return_{n}": (close / close.shift(n)).log().over(own) for n in (1, 5, 15, 60)}
    )
    usual, spread = root.shift(1).rolling_mean(120), root.shift(1).rolling_std(120, ddof=0)
    paid = pl.col("notional").rolling_sum(30) / volume.rolling_sum(30)
    rank, present = pl.col("log_return_5").rank("average"), pl.col("log_return_5").count()
    return moved.with_columns(
        realised_volatility_30=(pl.col("log_return_1") ** 2).rolling_mean(30).sqrt().over(own),
        parkinson_volatility_60=((log_range**2).rolling_mean(60) / (4.0 * np.log(2.0))).sqrt().over(own),
        volume_score_120=((root - usual) / spread).over(own),
        flow_imbalance_15=(2.0 * (pl.col("buy_volume").rolling_sum(15) / volume.rolling_sum(15)) - 1.0).over(
            own
        ),
        vwap_distance_30=(close.log() - paid.log()).over(own),
        return_rank_5=((rank - 1.0) / (present - 1) - 0.5).over("step"),
    ).collect()


def check_equal(values: torch.Tensor, mask: torch.Tensor, theirs: pa.Table) -> int:
    """Refuse features that differ by more than float32 and their own rolling sums explain; return how many agreed."""
    theirs = theirs.sort_by([("instrument", "ascending"), ("step", "ascending")])
    compared = 0
    for place, name in enumerate(TEN):
        known = mask[:, :, place].numpy().ravel()
        other = theirs[name].to_numpy()[known]
        np.testing.assert_allclose(
            other, values[:, :, place].numpy().ravel()[known], rtol=2e-4, atol=2e-6, err_msg=name
        )
        compared += int(known.sum())
    return compared


@bench
def ten_features() -> Iterator[Figure]:
    """Yield figures for the same ten features by each engine, processor time of all threads."""
    panel, features = make_panel(), ten()
    table = table_of(panel)
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    run = duckdb.connect()
    run.register("bars_table", table)
    values, mask = compute(panel, features)
    assert check_equal(values, mask, by_duckdb(run)) > 9 * INSTRUMENTS * (STEPS - 160)
    check_equal(values, mask, by_polars(frame.lazy()).to_arrow())
    contenders: dict[str, Callable[[], object]] = {
        "ours": lambda: compute(panel, features),
        f"duckdb {duckdb.__version__}": lambda: by_duckdb(run),
        f"polars {pl.__version__}": lambda: by_polars(frame.lazy()),
    }
    for clock in ("wall", "cpu"):
        taken = measure(contenders, rounds=ROUNDS, clock=clock)
        rate = INSTRUMENTS * STEPS / taken["ours"] / 1e6
        unit = "million rows/s of one core" if clock == "cpu" else f"million rows/s on {os.cpu_count()} cores"
        yield from figures(f"ten features, {clock} time", taken, ours="ours", value=rate, unit=unit)
    holed = make_panel(holes=True)
    both = {"ours": lambda: compute(holed, features), "ours, all printed": lambda: compute(panel, features)}
    taken = measure(both, rounds=ROUNDS)
    rate = INSTRUMENTS * STEPS / taken["ours"] / 1e6
    yield from figures("ten features, a tenth of the bars missing", taken, ours="ours", value=rate, unit=unit)


def build_days(days: int, folder: Path) -> dict[str, float]:
    """Build the widest set day by day into files, and return rows a second and the most memory that was resident.

    Each day is drawn with as much before it as the set looks back; drawing is not counted.
    """
    lookback = max(item.lookback_bars for item in get_set(WIDEST))
    per_day = DAY_NS // MINUTE_NS
    build_features(make_panel(steps=64), WIDEST)  # reads and checks the program, once a process
    seconds, rows = 0.0, 0
    for day in range(days):
        panel = make_panel(
            steps=lookback + per_day,
            start_ns=START_NS + day * DAY_NS - lookback * MINUTE_NS,
            seed=day,
            holes=True,
        )
        began = time.perf_counter()
        block = build_features(panel, WIDEST)
        write_block(folder / f"{day:03d}.safetensors", block)
        seconds += time.perf_counter() - began
        rows += INSTRUMENTS * per_day
        if (
            day >= 30
        ):  # a year of 79 features is 42 GB; more than a month need not lie here to see it streamed
            (folder / f"{day - 30:03d}.safetensors").unlink()
    return {"rows": rows, "seconds": seconds, "peak_mb": peak_mb()}


@bench
def widest_set() -> Iterator[Figure]:
    """Yield rows a second of the widest set, and the memory of the process that built it."""
    days = 365 if IS_LONG else 2
    code = (
        "import json, sys, pathlib; from tests.benchmarks.bench_features import build_days; "
        "print(json.dumps(build_days(int(sys.argv[1]), pathlib.Path(sys.argv[2]))))"
    )
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", code, str(days), folder], check=True, capture_output=True, text=True
        )
    told = json.loads(done.stdout.splitlines()[-1])
    size = f"{len(get_set(WIDEST))} features, {days} days of {INSTRUMENTS} instruments"
    yield Figure(
        f"build and write {size}",
        round(told["rows"] / told["seconds"] / 1e6, 3),
        "million rows/s, wall time",
        "-",
        1.0,
    )
    yield Figure(
        f"resident memory, {size}", round(told["peak_mb"]), "MB", f"{MEMORY_LIMIT_MB} MB",
        round(MEMORY_LIMIT_MB / told["peak_mb"], 2),
    )  # fmt: skip


@bench
def live_step() -> Iterator[Figure]:
    """Yield the 99th percentile of a live step, after a short and a long history."""
    features = get_set(WIDEST)
    panel = make_panel(steps=1_000, holes=True)
    bars = [panel.steps(at, at + 1) for at in range(panel.n_steps)]
    for history in (500, 20_000):
        live = LiveFeatures(features, panel.instruments, MINUTE_NS)
        cpu_s, wall_s = [], []
        with single_thread():
            for at in range(history + len(bars)):
                bar = bars[at % len(bars)]
                bar = Panel(
                    bar.instruments, MINUTE_NS, START_NS + MINUTE_NS * np.array([at]), bar.values, bar.status
                )
                began_s, began_cpu_s = time.perf_counter(), time.thread_time()
                live.step(bar)
                if at >= history:
                    cpu_s.append(time.thread_time() - began_cpu_s)
                    wall_s.append(time.perf_counter() - began_s)
        for clock, taken in (("processor", cpu_s), ("wall", wall_s)):
            p99_ms = float(np.percentile(taken, 99)) * 1e3
            yield Figure(
                f"live step after {history} bars, {len(features)} features, p99 of {clock} time", round(p99_ms, 2),
                f"ms, {len(taken)} steps, median {np.median(taken) * 1e3:.2f} ms", f"{STEP_LIMIT_MS:g} ms",
                round(STEP_LIMIT_MS / p99_ms, 2),
            )  # fmt: skip


def rows_of(panel: Panel) -> pa.Table:
    """Return a panel as rows of `bars` for the lake."""
    cells = panel.n_instruments * panel.n_steps
    opens_us = np.tile(panel.ts_open_ns // US_NS, panel.n_instruments)
    close_us = opens_us + MINUTE_NS // US_NS
    base: dict[str, object] = {
        "width": "1m", "revision": 0, "cause": "", "session": "always", "origin": "live", "repaired": False,
        "certified": False, "trades_applicable": True,
    }  # fmt: skip
    told: dict[str, pa.Array] = {
        "instrument": pa.array(np.repeat(np.array(panel.instruments), panel.n_steps)),
        "ts_open": pa.array(opens_us), "ts_close": pa.array(close_us), "ts_knowable_ns": pa.array(close_us * US_NS),
        "ts_available_ns": pa.array(close_us * US_NS),
        "status": pa.array(np.array(STATUSES)[panel.status.numpy().ravel()]),
    }  # fmt: skip
    columns = []
    for item in BARS.schema:
        if item.name in told:
            column = told[item.name]
        elif item.name in base:
            column = pa.array([base[item.name]]).take(pa.array(np.zeros(cells, dtype=np.int64)))
        else:
            column = pa.array(panel.column(item.name).numpy().ravel(), from_pandas=True)
        columns.append(column.cast(item.type))
    return pa.Table.from_arrays(columns, schema=BARS.schema)


@bench
def nightly_update() -> Iterator[Figure]:
    """Yield how long a night takes for its new day, beside days that are kept."""
    per_day = DAY_NS // MINUTE_NS
    panel = make_panel(steps=3 * per_day, holes=True)
    with tempfile.TemporaryDirectory() as home:
        clock = ManualTime(START_NS)
        with Lake.open(Settings(home=Path(home)), clock=clock) as lake:
            question = StoreKey(WIDEST, "1m", 2 * NS)
            for day in range(3):
                clock.advance_to(START_NS + day * DAY_NS)
                rows = rows_of(panel.steps(day * per_day, (day + 1) * per_day))
                assert lake.commit({"bars": rows}, batch_id=f"day {day}").refused == 0
                began = time.perf_counter()
                if day:
                    report = update(Path(home) / "features", lake, question)
                seconds = time.perf_counter() - began
    assert (len(report.built), report.kept, report.rows) == (1, 2, INSTRUMENTS * per_day)
    yield Figure(
        f"a night's new day, {INSTRUMENTS} instruments, {len(get_set(WIDEST))} features, wall time", round(seconds, 2),
        f"s, {report.rows} rows, {report.kept} days kept", f"{NIGHT_LIMIT_S:g} s", round(NIGHT_LIMIT_S / seconds, 2),
    )  # fmt: skip


@bench
def nightly_block() -> Iterator[Figure]:
    """Yield how long a night takes for the features of its whole range, of which all days but the newest are there."""
    per_day, days = DAY_NS // MINUTE_NS, 10
    panel = make_panel(steps=days * per_day, start_ns=START_NS // DAY_NS * DAY_NS, holes=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        built_block(root, panel.steps(None, (days - 1) * per_day), WIDEST)
        newest = sorted(root.rglob(f"{iso(int(panel.ts_open_ns[-1]))[:10]}-*.safetensors"))
        assert newest == []

        def next_night() -> FeatureBlock:
            for path in root.rglob(f"{iso(int(panel.ts_open_ns[-1]))[:10]}-*.safetensors"):
                path.unlink()
            return built_block(root, panel, WIDEST)

        whole, found = build_features(panel, WIDEST), next_night()
        assert torch.equal(whole.values.view(torch.int32), found.values.view(torch.int32))
        assert torch.equal(whole.mask, found.mask)
        del whole, found
        contenders: dict[str, Callable[[], object]] = {
            "ours": next_night,
            "a full build": lambda: build_features(panel, WIDEST),
        }
        for clock in ("cpu", "wall"):
            taken = measure(contenders, rounds=3, clock=clock)
            name = f"a night's block, {days} days of which one is new, {len(get_set(WIDEST))} features, {clock} time"
            yield from figures(name, taken, ours="ours", value=taken["ours"], unit="s")
