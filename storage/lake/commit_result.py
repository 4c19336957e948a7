"""Results of a commit, and of the function that writes within its transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from storage.contracts.contract import Stamp


@dataclass(frozen=True, slots=True)
class CommitResult:
    """Result of a commit.

    Args:
        snapshot: the snapshot that has the batch.
        rows: rows written, by table, without those that existed already.
        refused: number of rows that went to quarantine.
        is_new: false if this batch id was committed before.
    """

    snapshot: int
    rows: Mapping[str, int]
    refused: int
    is_new: bool


@dataclass(frozen=True, slots=True)
class WriteResult:
    """Result of writing within one transaction.

    Args:
        rows: number written, by table.
        refused: rows for `quarantine`.
    """

    rows: dict[str, int]
    refused: list[pa.Table]


Write = Callable[[duckdb.DuckDBPyConnection, Stamp], WriteResult]
