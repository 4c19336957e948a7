"""Columns of a Parquet file of candles, by the names that venues and libraries give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ingest.backfill.candle_times import OpenTimes, TimeColumn
from storage.errors import CaptureError, RangeError

# Column names in files by ours; the first that a file has is used. Exact names come before those in another case:
# venues name the time of the open `t` and that of the close `T`.
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
    aliases = _ALIASES[ours]
    for shown, wanted in ((columns, aliases), ([name.lower() for name in columns], aliases)):
        for alias in wanted:
            at = [number for number, name in enumerate(shown) if name == alias]
            if len(at) > 1:
                names = ", ".join(columns[number] for number in at)
                raise CaptureError(
                    f"{file} has several columns for {ours}: {names}", hint=f"name one {alias}"
                )
            if at:
                return at[0]
    if ours in _OPTIONAL:
        return None
    raise CaptureError(
        f"{file} has no column for {ours} (has {', '.join(columns)})",
        hint=f"name it one of: {', '.join(aliases)}",
    )


def _typed(values: pa.ChunkedArray[Any], kind: pa.DataType, name: str, file: str) -> pa.ChunkedArray[Any]:
    """Return a column as another type; a number of trades that is NaN is null, as pandas writes it."""
    if values.type == kind:
        return values
    try:
        if pa.types.is_floating(values.type) and pa.types.is_integer(kind):
            values = pa.chunked_array([pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)])
        return values.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise CaptureError(
            f"{file} has a column that is no candle's: {name}: {str(error).splitlines()[0]}",
            hint="see docs/tutorial.md",
        ) from error
