"""Columns of an imported file, read and found by the names that venues and libraries give them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from storage.errors import CaptureError


def read_columns(path: Path, *, hint: str) -> pa.Table:
    """Return the columns of a Parquet or CSV file.

    Args:
        path: its ending says what it is: `.parquet`, `.csv` or `.csv.gz`.
        hint: where its columns are described.

    Raises:
        CaptureError: it has another ending, or cannot be read.
    """
    readers: tuple[tuple[str, Callable[[Path], pa.Table]], ...] = (
        (".parquet", pq.read_table),
        (".csv", pacsv.read_csv),
        (".csv.gz", pacsv.read_csv),
    )
    for suffix, read in readers:
        if path.name.lower().endswith(suffix):
            try:
                return read(path)
            except (pa.ArrowException, OSError) as error:
                reason = str(error).splitlines()[0]
                raise CaptureError(f"{path} cannot be read as {suffix}: {reason}", hint=hint) from error
    raise CaptureError(
        f"{path} is of no known format", hint="use a file that ends in .parquet, .csv or .csv.gz"
    )


def find_column(
    columns: Sequence[str], ours: str, aliases: Collection[str], file: str, *, is_optional: bool = False
) -> int | None:
    """Return the position of a column by the first of its names that a file has.

    Exact names come before those in another case: venues name the time of the open `t` and that of the close `T`.

    Args:
        columns: of the file.
        ours, file: for messages.
        aliases: in order of preference.
        is_optional: return `None` where the file has no such column.

    Raises:
        CaptureError: the file has none, or several of one name.
    """
    lower = [name.lower() for name in columns], [alias.lower() for alias in aliases]
    for shown, wanted in ((columns, aliases), lower):
        for alias in wanted:
            at = [number for number, name in enumerate(shown) if name == alias]
            if len(at) > 1:
                names = ", ".join(columns[number] for number in at)
                raise CaptureError(
                    f"{file} has several columns for {ours}: {names}", hint=f"name one {alias}"
                )
            if at:
                return at[0]
    if is_optional:
        return None
    raise CaptureError(
        f"{file} has no column for {ours} (has {', '.join(columns)})",
        hint=f"name it one of: {', '.join(aliases)}",
    )


def typed_column(
    values: pa.ChunkedArray[Any], kind: pa.DataType, name: str, file: str, *, whose: str, hint: str
) -> pa.ChunkedArray[Any]:
    """Return a column as another type; a whole number that is NaN is null, as pandas writes it.

    Raises:
        CaptureError: it has values of another kind; `whose` says what it should belong to.
    """
    if values.type == kind:
        return values
    try:
        if pa.types.is_floating(values.type) and pa.types.is_integer(kind):
            values = pa.chunked_array([pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)])
        return values.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise CaptureError(
            f"{file} has a column that is no {whose}: {name}: {str(error).splitlines()[0]}", hint=hint
        ) from error
