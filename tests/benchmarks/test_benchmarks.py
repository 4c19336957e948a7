"""Benchmarks on small sizes: equal results, contenders in turn, one ratio per figure."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch

from features.build import compute
from storage.clock import width_ns
from storage.contracts.tables import CONTRACTS
from storage.contracts.validation import validate
from tests.benchmarks import bench_commit, bench_gpu, bench_load, bench_reads
from tests.benchmarks.bench_bars import check_equal, fold_duckdb, fold_ours, fold_polars, make_prints
from tests.benchmarks.bench_commit import make_batch
from tests.benchmarks.bench_features import by_duckdb, by_polars, make_panel, ten
from tests.benchmarks.bench_features import check_equal as check_features
from tests.benchmarks.bench_features import table_of as feature_table
from tests.benchmarks.harness import figures, measure
from tests.benchmarks.made_bars import made_bars


@pytest.mark.parametrize("width", ["1m", "1h"])
def test_all_engines_fold_equal_bars(width: str) -> None:
    prints = make_prints(20_000)
    frame = pl.from_arrow(prints.table)
    assert isinstance(frame, pl.DataFrame)
    run = duckdb.connect()
    run.register("prints", prints.table)
    ours = fold_ours(prints, width_ns(width))
    assert ours.trades.sum() == 20_000
    check_equal(ours, fold_duckdb(run, width_ns(width)))
    check_equal(ours, fold_polars(frame.lazy(), width_ns(width)).to_arrow())


def test_a_difference_between_engines_is_refused() -> None:
    prints = make_prints(1_000)
    frame = pl.from_arrow(prints.table)
    assert isinstance(frame, pl.DataFrame)
    theirs = fold_polars(frame.lazy(), width_ns("1h"))
    with pytest.raises(AssertionError):
        check_equal(fold_ours(prints, width_ns("1h")), theirs.with_columns(pl.col("close") + 0.1).to_arrow())


def test_all_engines_compute_equal_features() -> None:
    panel, features = make_panel(7, 400), ten()
    table = feature_table(panel)
    run = duckdb.connect()
    run.register("bars_table", table)
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    values, mask = compute(panel, features)
    for theirs in (by_duckdb(run), by_polars(frame.lazy()).to_arrow()):
        assert check_features(values, mask, theirs) > 10 * 7 * 270
    with pytest.raises(AssertionError, match="log_return_5"):
        check_features(values * torch.tensor([1.0, 1.01, *[1.0] * 8]), mask, by_duckdb(run))


def test_a_batch_fits_its_contracts_and_shares_no_key_with_the_next() -> None:
    first, second = make_batch(0), make_batch(1)
    assert sum(table.num_rows for table in first.values()) == 2_000
    for name, table in first.items():
        good, bad = validate(CONTRACTS[name], table)
        assert (good.num_rows, bad.num_rows) == (table.num_rows, 0)
        frames = np.intersect1d(table["frame"].to_numpy(), second[name]["frame"].to_numpy())
        assert frames.size == 0


def test_contenders_take_turns() -> None:
    calls: list[str] = []
    taken = measure({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2, warm_ups=1)
    assert calls == ["a", "b"] * 3
    assert set(taken) == {"a", "b"}


def test_a_ratio_says_how_many_times_as_fast_we_are() -> None:
    (figure,) = figures("x", {"ours": 2.0, "theirs": 5.0}, ours="ours", value=1.0, unit="ms")
    assert (figure.against, figure.ratio) == ("theirs", 2.5)


def test_made_bars_fit_their_contract_and_come_instrument_by_instrument() -> None:
    tables = list(made_bars(250, minutes=100))
    good, bad = validate(CONTRACTS["bars"], pa.concat_tables(tables))
    assert (good.num_rows, bad.num_rows, [table.num_rows for table in tables]) == (250, 0, [100, 100, 50])
    assert all(good[name].null_count < good.num_rows for name in good.column_names)
    assert good["instrument"].to_pylist() == sorted(good["instrument"].to_pylist())


@pytest.mark.drill
def test_a_load_and_a_plain_write_hold_the_same_rows() -> None:
    taken, sizes = bench_load.alternate(list(made_bars(300, minutes=100)), rounds=1)
    assert set(taken) == set(sizes) == {bench_load.OURS, bench_load.AGAINST}
    reads = bench_load.alternate_reads(list(made_bars(300, minutes=100)), rounds=1)
    assert set(reads) == set(taken)


@pytest.mark.drill
def test_the_memory_of_a_load_is_measured_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_load, "MEMORY_ROWS", 100)
    (figure,) = bench_load.memory()
    assert (figure.unit, 50 < figure.value < bench_load.LIMIT_MB) == ("MB", True)


@pytest.mark.drill
def test_a_read_gives_the_same_rows_after_any_number_of_commits(tmp_path: Path) -> None:
    homes = bench_reads.make_homes(tmp_path, (1, 2))
    taken = bench_reads.read_all(homes, rounds=1)
    assert [set(by_commits) for by_commits in taken.values()] == [{1, 2}] * 3


@pytest.mark.drill
def test_the_parts_of_a_commit_are_measured() -> None:
    taken = bench_commit.alternate(1, "cpu")
    assert {name: len(seconds) for name, seconds in taken.items()} == {
        bench_commit.OURS: 1,
        bench_commit.CHECKS: 1,
        bench_commit.AGAINST: 1,
    }


def test_the_benchmark_of_a_gpu_runs_on_any_device_and_says_if_there_is_none() -> None:
    found = list(bench_gpu.figures_of(torch.device("cpu"), name="a CPU", steps=120, batch=32, rounds=2))
    assert [figure.bench.partition(" on ")[0] for figure in found] == [
        "gather", "steps of mlp", "steps of transformer", "sixteen fits of an MLP",
    ]  # fmt: skip
    assert all(figure.value > 0 and figure.ratio > 0 for figure in found)
    if not torch.cuda.is_available():
        (nothing,) = bench_gpu.gpu()
        assert (nothing.value, nothing.unit) == (0.0, "CUDA devices")
