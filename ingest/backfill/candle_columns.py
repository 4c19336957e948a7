"""Columns of a Parquet file of candles, by the names that venues and libraries give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ingest.backfill.candle_times import OpenTimes, TimeColumn
from ingest.backfill.file_columns import find_column, typed_column
from storage.errors import CaptureError, RangeError

# Column names in files by ours; the first that a file has is used.
_ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "symbol": ("coin", "symbol", "instrument", "pair", "s"),
    "t": ("t", "ts_open", "time", "timestamp", "open_time", "date"),
    "open": ("open", "o"),
    "high": ("high", "h"),
    "low": ("low", "l"),
    "close": ("close", "c"),
    "volume": ("volume", "v"),
    "trades": ("trades", "n", "count"),
}
_OPTIONAL: Final = frozenset({"trades"})
_PRICES: Final = ("open", "high", "low", "close")


@dataclass(frozen=True, slots=True)
class CandleColumns:
    """A file of candles.

    Args:
        rows: `symbol`, `t_ns`, `open`, `high`, `low`, `close`, `volume`, `trades` (null where the file has none), and
            `row_at`, the number of the row in the file; in the order of the file.
        times: how the times were read.
        time_name: the file's name of the column of times.
    """

    rows: pa.Table
    times: OpenTimes
    time_name: str


def read_candle_file(path: Path, *, timezone: str | None = None) -> CandleColumns:
    """Read a Parquet file of candles.

    Args:
        path: of the file.
        timezone: of times without a zone (default: UTC).

    Raises:
        CaptureError: it is no Parquet file, lacks a column, or a column has values of another kind.
        RangeError: it has no row.
        SettingsError: the time zone does not exist, or the times have one.
    """
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise CaptureError(
            f"{path} is not a Parquet file of candles: {error}", hint="see docs/tutorial.md"
        ) from error
    if table.num_rows == 0:
        raise RangeError(f"{path} holds no candle", hint="check the file; an empty import changes nothing")
    found = {ours: _find(table.column_names, ours, path.name) for ours in _ALIASES}
    columns = {ours: table.column(at) for ours, at in found.items() if at is not None}
    names = {ours: table.column_names[at] for ours, at in found.items() if at is not None}
    symbols = _typed(columns["symbol"], pa.string(), names["symbol"], path.name)
    if symbols.null_count:
        raise CaptureError(
            f"{path.name} has {symbols.null_count} candles without a symbol", hint="mend the file"
        )
    times = TimeColumn(path.name, names["t"], columns["t"], symbols).read(timezone)
    rows: dict[str, Any] = {"symbol": symbols, "t_ns": pa.array(times.t_ns, pa.int64())}
    for name in (*_PRICES, "volume"):
        rows[name] = _typed(columns[name], pa.float64(), names[name], path.name)
    rows["trades"] = (
        _typed(columns["trades"], pa.int64(), names["trades"], path.name)
        if "trades" in columns
        else pa.nulls(table.num_rows, pa.int64())
    )
    rows["row_at"] = pa.array(np.arange(table.num_rows))
    return CandleColumns(pa.table(rows), times, names["t"])


def _find(columns: list[str], ours: str, file: str) -> int | None:
    """Return the position of a column by its aliases."""
    return find_column(columns, ours, _ALIASES[ours], file, is_optional=ours in _OPTIONAL)


def _typed(values: pa.ChunkedArray[Any], kind: pa.DataType, name: str, file: str) -> pa.ChunkedArray[Any]:
    return typed_column(values, kind, name, file, whose="candle's", hint="see docs/tutorial.md")
