"""Readable part of a table some of whose files are missing or damaged.

In DuckLake one missing file makes every query over its table fail. The rows of the other files still exist, and are
read directly from them.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import LakeError
from storage.lake.connection import quoted
from storage.lake.lake import Lake


@dataclass(frozen=True, slots=True)
class ReadableTable:
    """The readable part of a table at the newest snapshot.

    Args:
        table: its name.
        relation: for a FROM clause: the table itself, or its intact files.
        files: number of its files.
        lost: files that are missing or damaged.
    """

    table: str
    relation: str
    files: int
    lost: tuple[str, ...] = ()

    def among(self, condition: str = "true") -> str:
        """Return the clauses after SELECT for the rows that meet a condition, in the order of writing."""
        return f"FROM {self.relation} WHERE {condition}" + ("" if self.lost else " ORDER BY rowid")


def readable(lake: Lake, table: str, *, lost: Collection[str] | None = None) -> ReadableTable:
    """Return the readable part of a table.

    Args:
        lake: that has the table.
        table: its name.
        lost: absolute paths of missing or damaged files, of any table (default: checks them now).
    """
    named = lake.query(
        "SELECT data_file AS path, data_file_size_bytes AS size_bytes"
        f" FROM ducklake_list_files('lake', {quoted(table)})"
    ).to_pylist()
    if lost is None:
        gone = {row["path"] for row in named if not _is_whole(lake, row["path"], row["size_bytes"])}
    else:
        gone = {row["path"] for row in named if _absolute(row["path"]) in lost}
    if not gone:
        return ReadableTable(table, table, len(named))
    relation = f"SELECT * FROM {table} WHERE false"
    if whole := [row["path"] for row in named if row["path"] not in gone]:
        files = ", ".join(quoted(_literally(path)) for path in whole)
        # Merged files have columns of DuckLake's own; older files lack columns that were added later.
        relation += (
            " UNION ALL BY NAME SELECT COLUMNS(name -> NOT starts_with(name, '_ducklake'))"
            f" FROM read_parquet([{files}], union_by_name => true)"
        )
    return ReadableTable(table, f"({relation})", len(named), tuple(sorted(gone)))


def measure(lake: Lake, path: str) -> tuple[int, int | None]:
    """Return a file's number of rows, and its size if it is on a local disk.

    Raises:
        FileNotFoundError: it does not exist.
        OSError, ArrowException, LakeError: it is not a complete Parquet file.
    """
    if "://" not in path:
        return pq.read_metadata(path).num_rows, Path(path).stat().st_size
    if not lake.query("SELECT file FROM glob(?)", [path]).num_rows:
        raise FileNotFoundError(path)
    rows = lake.query("SELECT sum(num_rows) AS rows FROM parquet_file_metadata(?)", [path])["rows"][0]
    return int(rows.as_py()), None


def _is_whole(lake: Lake, path: str, size_bytes: int) -> bool:
    try:
        return measure(lake, path)[1] in (None, size_bytes)
    except (OSError, pa.ArrowException, LakeError):
        return False


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).absolute())


def _literally(path: str) -> str:
    """Return a glob pattern that matches only this path, whose name may contain special characters."""
    return path if "://" in path else re.sub(r"([*?\[])", r"[\1]", path)
