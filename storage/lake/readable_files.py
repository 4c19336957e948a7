"""What of a table can still be read where files of it are gone or damaged?

A table of a DuckLake reads whole or not at all: one file that is gone fails every query over it. The rows of the
other files are there all the same, and are read from the files themselves.
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
    """What can be read of a table at the newest snapshot.

    Args:
        table: its name.
        relation: what stands behind FROM: the table itself, or its files that are whole.
        files: how many it has.
        lost: those that are not whole.
    """

    table: str
    relation: str
    files: int
    lost: tuple[str, ...] = ()

    def among(self, condition: str = "true") -> str:
        """Return what follows a SELECT of the rows that fulfil a condition, in the order in which they were written."""
        return f"FROM {self.relation} WHERE {condition}" + ("" if self.lost else " ORDER BY rowid")


def readable(lake: Lake, table: str, *, lost: Collection[str] | None = None) -> ReadableTable:
    """Return how a table is read, without the files that are gone or damaged.

    Args:
        lake: holds the table.
        table: its name.
        lost: absolute paths of those, of any table, where someone has looked already.
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
        # Files that were merged hold columns of the extension's own; older ones lack what was added later.
        relation += (
            " UNION ALL BY NAME SELECT COLUMNS(name -> NOT starts_with(name, '_ducklake'))"
            f" FROM read_parquet([{files}], union_by_name => true)"
        )
    return ReadableTable(table, f"({relation})", len(named), tuple(sorted(gone)))


def measure(lake: Lake, path: str) -> tuple[int, int | None]:
    """Return a file's rows, and its size where the disk tells it.

    Raises:
        FileNotFoundError: it is gone.
        OSError, ArrowException, LakeError: it is no Parquet file, or not all of one.
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
    """Return a path as a pattern that is met by itself alone: a home's name may hold the signs of one."""
    return path if "://" in path else re.sub(r"([*?\[])", r"[\1]", path)
