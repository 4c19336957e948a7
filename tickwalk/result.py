"""Rows of a query as an Arrow table, with conversions to polars, pandas and torch."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import SettingsError

if TYPE_CHECKING:
    import pandas
    import polars
    import torch

_REPR_ROWS: Final = 10
_REPR_COLUMNS: Final = 8
_HTML_ROWS: Final = 20
_CELL: Final = 32
_EXACT: Final = 2**53
"""Integers up to this size are exact in float64."""


class QueryResult:
    """All rows of a query, in memory; they do not change when the home does."""

    def __init__(self, table: pa.Table) -> None:
        """Wrap an Arrow table.

        Raises:
            SettingsError: two columns have one name, so that neither could be asked for.
        """
        if repeated := [name for name in table.column_names if table.column_names.count(name) > 1]:
            raise SettingsError(
                f"the query has two columns called {repeated[0]!r}", hint="name one of them AS ..."
            )
        self._table = table

    def arrow(self) -> pa.Table:
        """Return the rows as a `pyarrow.Table`; nothing is copied."""
        return self._table

    def pl(self) -> polars.DataFrame:
        """Return the rows as a polars DataFrame."""
        import polars

        frame = polars.from_arrow(self._table)
        assert isinstance(frame, polars.DataFrame)
        return frame

    def df(self) -> pandas.DataFrame:
        """Return the rows as a pandas DataFrame."""
        frame: pandas.DataFrame = self._table.to_pandas()
        return frame

    def torch(self) -> dict[str, torch.Tensor]:
        """Return one tensor a column, by name, each of shape (N,) for N rows.

        Floats keep their width and are NaN where null. Integers become int64, or float64 with NaN where a column has
        nulls; a decimal without fraction counts as an integer, any other as float64.

        Raises:
            TypeError: a column is not numeric (text, a timestamp, a boolean, a list), or its integers fit neither; the
                message names the column.
        """
        import torch

        return {
            name: torch.from_numpy(_numeric(name, self._table[name]).copy())
            for name in self._table.column_names
        }

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in order."""
        return list(self._table.column_names)

    def __len__(self) -> int:
        """Return how many rows there are."""
        return int(self._table.num_rows)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the rows as an Arrow stream, so that other libraries read a result as it is."""
        stream: object = getattr(self._table, "__arrow_c_stream__")(requested_schema)  # noqa: B009 - untyped
        return stream

    def __repr__(self) -> str:
        """Return the size, and the first rows and columns as text."""
        names, rows = self.columns[:_REPR_COLUMNS], _cells(self._table, _REPR_ROWS, _REPR_COLUMNS)
        widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)) for row in (names, *rows)
        ]
        return "\n".join(
            [f"QueryResult: {self._size()}", *(line.rstrip() for line in lines), *self._rest(_REPR_ROWS)]
        )

    def _repr_html_(self) -> str:
        """Return the first rows as a table, for notebooks."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        body = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>"
            for row in _cells(self._table, _HTML_ROWS, len(self.columns))
        )
        note = "; ".join([self._size(), *self._rest(_HTML_ROWS, with_columns=False)])
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{html.escape(note)}</p>"

    def _size(self) -> str:
        rows, columns = len(self), len(self.columns)
        return f"{rows:,} row{'' if rows == 1 else 's'} x {columns} column{'' if columns == 1 else 's'}"

    def _rest(self, rows: int, *, with_columns: bool = True) -> list[str]:
        hidden = []
        if len(self) > rows:
            hidden.append(f"{len(self) - rows:,} more rows")
        if with_columns and (names := self.columns[_REPR_COLUMNS:]):
            hidden.append(f"{len(names)} more columns: {', '.join(names)}")
        return [f"... {' and '.join(hidden)}"] if hidden else []


def _cells(table: pa.Table, rows: int, columns: int) -> list[list[str]]:
    shown = table.select(list(range(min(columns, table.num_columns)))).slice(0, rows)
    texts: list[Sequence[str]] = [[_text(value) for value in column.to_pylist()] for column in shown.columns]
    return [list(row) for row in zip(*texts, strict=True)]


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.10g}"
    text = value.isoformat(" ") if hasattr(value, "isoformat") else str(value)
    return text if len(text) <= _CELL else f"{text[: _CELL - 3]}..."


def _numeric(name: str, column: pa.ChunkedArray[Any]) -> Any:
    """Return a column as a NumPy array of a type that torch has."""
    kind = column.type
    if pa.types.is_floating(kind):
        return column.to_numpy()
    if pa.types.is_null(kind):
        return column.cast(pa.float64()).to_numpy()
    if not (pa.types.is_integer(kind) or pa.types.is_decimal(kind)):
        raise TypeError(
            f"column {name!r} is {kind}, and a tensor holds numbers only; "
            "leave it out, or cast it in SQL, as in epoch_us(ts_open) or CAST(repaired AS TINYINT)"
        )
    if pa.types.is_decimal(kind) and kind.scale:
        return column.cast(pa.float64()).to_numpy()
    try:
        whole = column.cast(pa.int64())
    except pa.ArrowInvalid:
        raise TypeError(f"column {name!r} holds integers beyond int64; cast it in SQL to DOUBLE") from None
    if not whole.null_count:
        return whole.to_numpy()
    largest = pc.max(pc.abs(whole)).as_py() or 0
    if largest > _EXACT:
        raise TypeError(
            f"column {name!r} has nulls and integers beyond 2**53, which float64 cannot hold exactly; "
            "fill the nulls in SQL with coalesce"
        )
    return whole.cast(pa.float64()).to_numpy()
