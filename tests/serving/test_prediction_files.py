"""Files and tables of predictions: columns, times in any unit, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from serving.prediction_files import read_predictions
from storage.clock import MS_NS, NS, US_NS
from storage.errors import CaptureError, RangeError, SettingsError
from training.night.outside_predictions import NO_FOLD

T_NS: Final = 1_770_000_000 * NS
TIMES: Final = [T_NS, T_NS + 60 * NS, T_NS]
ROWS: Final[dict[str, Any]] = {
    "instrument": ["ETH", "ETH", "BTC"],
    "ts_open": pa.array(TIMES, pa.timestamp("ns", "UTC")),
    "prediction": [0.5, -1.0, 0.25],
}


def table(**changes: Any) -> pa.Table:
    """Return the three rows with some columns replaced, added, or (None) left out."""
    return pa.table({name: value for name, value in (ROWS | changes).items() if value is not None})


def test_rows_are_sorted_and_named_after_the_file(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "my model.v2.parquet")
    found = read_predictions(tmp_path / "my model.v2.parquet")
    rows = found.rows
    assert rows.name == "my-model"
    assert (rows.instruments, rows.instrument.tolist()) == (("BTC", "ETH"), [0, 1, 1])
    assert rows.ts_ns.tolist() == [T_NS, T_NS, T_NS + 60 * NS]
    assert rows.value.tolist() == [0.25, 0.5, -1.0]
    assert set(rows.fold.tolist()) == {NO_FOLD}
    assert (rows.is_open, rows.is_return, found.ignored) == (True, False, ())


@pytest.mark.parametrize("size_ns", [NS, MS_NS, US_NS, 1])
def test_times_are_read_in_any_unit_and_from_text(tmp_path: Path, size_ns: int) -> None:
    expected = read_predictions(table(), name="mine").rows.content
    numbers = table(ts_open=[at // size_ns for at in TIMES])
    assert read_predictions(numbers, name="mine").rows.content == expected
    pacsv.write_csv(
        table(ts_open=["2026-02-02T02:40:00Z", "2026-02-02T02:41:00Z", "2026-02-02T02:40:00Z"]),
        tmp_path / "mine.csv",
    )
    assert read_predictions(tmp_path / "mine.csv").rows.content == expected


@pytest.mark.parametrize("convert", [lambda rows: rows, pl.from_arrow, lambda rows: rows.to_pandas()])
def test_tables_of_other_libraries_are_read(convert: Any) -> None:
    frame = convert(table())
    assert (
        read_predictions(frame, name="mine").rows.content
        == read_predictions(table(), name="mine").rows.content
    )
    with pytest.raises(SettingsError, match=r"no name of its own .*one lineage"):
        read_predictions(frame)


def test_null_is_no_opinion_and_other_columns_are_named() -> None:
    found = read_predictions(
        table(
            prediction=[0.5, None, 0.25], fold=[2, 2, 3], ts_open=None, ts_decided_ns=TIMES, label=[1, 2, 3]
        ),
        name="mine",
    )
    assert np.isnan(found.rows.value).tolist() == [False, True, False]
    assert found.rows.fold.tolist() == [2, 2, 3]
    assert (found.rows.is_open, found.ignored) == (False, ("label",))
    frame = pd.DataFrame(
        {"symbol": pd.Categorical(["A", "B"]), "ts_open": TIMES[:2], "predicted_return": [1e-3, np.nan]}
    )
    rows = read_predictions(frame, name="mine").rows
    assert (rows.is_return, np.isnan(rows.value).tolist()) == (True, [False, True])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"prediction": [0.1, np.nan, 0.2]},
            r"1 predictions that are not finite.* row 2, is nan for ETH .*write null",
        ),
        ({"prediction": [0.1, 0.2, -np.inf]}, "in row 3, is -inf for BTC"),
        ({"prediction": [0.1, 1e30, 0.2]}, r"beyond 1e\+06; the first, in row 2"),
        ({"prediction": ["up", "down", "up"]}, "no prediction: prediction"),
        (
            {"prediction": None},
            r"no column for the prediction .*name it one of: prediction, predicted_return",
        ),
        (
            {"predicted_return": [0.1, 0.2, 0.3]},
            "several columns for the prediction: prediction, predicted_return",
        ),
        ({"ts_open": None}, "no column for the time .*ts_open, ts_open_ns, ts_decided, ts_decided_ns"),
        ({"ts_decided": TIMES}, "several columns for the time: ts_open, ts_decided"),
        ({"ts_open": [1, 2, 3]}, "1 is no time in s, ms, us or ns since 1970"),
        ({"instrument": ["ETH", None, "BTC"]}, "1 predictions without an instrument"),
        ({"fold": [0, None, 1]}, "1 rows without a fold"),
        ({"fold": [0, -1, 1]}, "1 rows without a fold, or with one below 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        read_predictions(table(**changes), name="mine")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    with pytest.raises(CaptureError, match=r"broken.parquet cannot be read as .parquet"):
        read_predictions(tmp_path / "broken.parquet")
    with pytest.raises(CaptureError, match="is of no known format"):
        read_predictions(tmp_path / "mine.xlsx")
    with pytest.raises(RangeError, match="has no prediction"):
        read_predictions(table().slice(0, 0), name="mine")
    with pytest.raises(SettingsError, match="predictions are a list"):
        read_predictions([1, 2])
