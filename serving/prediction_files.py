"""Files and tables of predictions that were made elsewhere (docs/outside-models.md has the columns)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from ingest.backfill.candle_times import TimeColumn
from ingest.backfill.file_columns import find_column, read_columns, typed_column
from storage.errors import CaptureError, RangeError, SettingsError
from training.night.outside_predictions import NO_FOLD, OutsidePredictions

_INSTRUMENT: Final = ("instrument", "symbol", "coin")
_OPENS: Final = ("ts_open", "ts_open_ns")
_DECISIONS: Final = ("ts_decided", "ts_decided_ns")
_LABEL: Final = "prediction"
_RETURN: Final = "predicted_return"
_HINT: Final = "docs/outside-models.md has the columns of such a file"
# No label is anywhere near, and float32 still holds it.
_LARGEST: Final = 1e6


@dataclass(frozen=True, slots=True)
class PredictionFile:
    """Predictions as they were read.

    Args:
        rows: the predictions.
        ignored: columns that are not used.
    """

    rows: OutsidePredictions
    ignored: tuple[str, ...]


def read_predictions(source: str | Path | Any, *, name: str | None = None) -> PredictionFile:
    """Return the predictions of a Parquet or CSV file, or of a table.

    Args:
        source: a path that ends in `.parquet`, `.csv` or `.csv.gz`, or a table that exports an Arrow stream (pyarrow,
            polars, DuckDB, pandas from 2.2).
        name: of the predictions (default: that of the file).

    Raises:
        CaptureError: the file cannot be read, lacks a column, or has a value that is no prediction.
        RangeError: it has no row.
        SettingsError: a table was given without a name.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        return _parse(
            read_columns(path, hint=_HINT), file=path.name, name=name or plain_name(path.name.split(".")[0])
        )
    if not hasattr(source, "__arrow_c_stream__"):
        raise SettingsError(
            f"predictions are a {type(source).__name__}",
            hint="pass a path, or a table of pyarrow, polars, DuckDB or pandas",
        )
    if not name:
        raise SettingsError(
            "a table of predictions has no name of its own",
            hint='pass name="...": all predictions of one name are one lineage',
        )
    return _parse(pa.table(source), file="the table", name=name)


def _parse(table: pa.Table, *, file: str, name: str) -> PredictionFile:
    if table.num_rows == 0:
        raise RangeError(f"{file} has no prediction", hint="write one row per instrument and bar")
    names = table.column_names
    instrument = names[_one(names, "the instrument", _INSTRUMENT, file)]
    time = names[_one(names, "the time", (*_OPENS, *_DECISIONS), file)]
    value = names[_one(names, "the prediction", (_LABEL, _RETURN), file)]
    fold = "fold" if "fold" in names else None
    symbols = typed_column(
        _plain(table[instrument]), pa.string(), instrument, file, whose="instrument's name", hint=_HINT
    )
    if symbols.null_count:
        raise CaptureError(
            f"{file} has {symbols.null_count} predictions without an instrument", hint="name it in each row"
        )
    times = TimeColumn(file, time, table[time], symbols, rows="predictions").read()
    values = _values(table[value], value, file, symbols)
    encoded: Any = symbols.combine_chunks().dictionary_encode()
    rows = OutsidePredictions(
        name=name,
        instruments=tuple(encoded.dictionary.to_pylist()),
        instrument=encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32),
        ts_ns=times.t_ns,
        fold=_folds(table, fold, file),
        value=values,
        is_open=time in _OPENS,
        is_return=value == _RETURN,
    ).sorted()
    return PredictionFile(rows, tuple(sorted(set(names) - {instrument, time, value, fold})))


def _one(names: list[str], what: str, known: tuple[str, ...], file: str) -> int:
    """Return the position of the only column of several names that a file may have."""
    found = [name for name in names if name in known]
    if len(found) > 1:
        raise CaptureError(
            f"{file} has several columns for {what}: {', '.join(found)}", hint=f"keep one of them; {_HINT}"
        )
    at = find_column(names, what, found or known, file)
    assert at is not None
    return at


def _plain(values: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    """Return a column without its dictionary, as a categorical has one."""
    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values


def _values(column: pa.ChunkedArray[Any], name: str, file: str, symbols: pa.ChunkedArray[Any]) -> np.ndarray:
    """Return predictions as float64, NaN where null.

    Raises:
        CaptureError: one is NaN, infinite or far from any label.
    """
    typed = typed_column(column, pa.float64(), name, file, whose="prediction", hint=_HINT)
    is_null = np.asarray(typed.is_null().to_numpy(), dtype=bool)
    values = np.asarray(typed.to_numpy(), dtype=np.float64)
    bad = ~is_null & ~(np.abs(np.where(is_null, 0.0, values)) <= _LARGEST)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise CaptureError(
            f"{file} has {int(bad.sum())} predictions that are not finite, or beyond {_LARGEST:g}; the first, in row "
            f"{row + 1}, is {values[row]} for {symbols[row].as_py()}",
            hint="leave a row out, or write null, where the model has no opinion",
        )
    return np.where(is_null, np.nan, values)


def _folds(table: pa.Table, name: str | None, file: str) -> np.ndarray:
    if name is None:
        return np.full(table.num_rows, NO_FOLD, dtype=np.int32)
    typed = typed_column(table[name], pa.int32(), name, file, whose="fold", hint=_HINT)
    folds = np.asarray(typed.fill_null(pa.scalar(NO_FOLD, pa.int32())).to_numpy(), dtype=np.int32)
    if typed.null_count or (folds < 0).any():
        raise CaptureError(
            f"{file} has {int((folds < 0).sum())} rows without a fold, or with one below 0",
            hint="name the fold in each row, or leave the column out",
        )
    return folds


def plain_name(name: str) -> str:
    """Return a file's name as one that predictions can have: other characters become hyphens.

    >>> plain_name("my model (2)")
    'my-model-2'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:40]
