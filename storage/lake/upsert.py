"""Upsert of a batch into a table: new rows, unchanged rows, revisions and conflicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from storage.contracts.contract import HISTORY_ORIGINS, Contract, Stamp

_HISTORY: Final = f"origin IN {HISTORY_ORIGINS}"
# Both rows are history of one kind, or both are of recordings, the stored one of the home that writes.
_SAME_SOURCE: Final = (
    f"CASE WHEN n.{_HISTORY} THEN n.origin = h.origin ELSE NOT h.{_HISTORY} AND h.home = ? END"
)


def split_new_and_conflicting(
    run: duckdb.DuckDBPyConnection, contract: Contract, rows: pa.Table, stamp: Stamp
) -> tuple[pa.Table, pa.Table]:
    """Return the rows to insert, and those that conflict with a stored row, with the reason.

    Of a table with revisions, a row is left out if its source (`storage.lake.point_in_time`) has said the same before:
    for a recorded row, at the same `ts_knowable_ns`. Any other row becomes the next revision, whatever it says; which
    row counts is decided when bars are read.

    Args:
        run: the connection, within the transaction in which the rows will be inserted.
        contract: the table's.
        rows: at least one, with the contract's columns.
        stamp: of the rows.
    """
    keys = ", ".join(contract.identity)
    stored = f"(SELECT * FROM {contract.name} {_near(contract)})"
    bounds = _bounds(contract, rows)
    # A join does not keep the order of rows, and prints of one instant have no other order.
    run.register("incoming", rows.append_column("row_at", pa.array(range(rows.num_rows), pa.int64())))
    new = run.execute(
        f"FROM incoming ANTI JOIN {stored} USING ({keys}) ORDER BY row_at", bounds
    ).to_arrow_table()
    conflicts = rows.slice(0, 0)
    if new.num_rows < rows.num_rows:
        same = _equal((*contract.identity, *contract.content))
        if contract.has_home:
            same += f" AND {_SAME_SOURCE} AND (n.{_HISTORY} OR n.ts_knowable_ns = h.ts_knowable_ns)"
        conflicts = run.execute(
            f"SELECT n.* FROM incoming n SEMI JOIN {stored} h USING ({keys}) "
            f"WHERE NOT EXISTS (SELECT 1 FROM {stored} h WHERE {same}) ORDER BY row_at",
            [*bounds, *bounds, *([stamp.home] if contract.has_home else [])],
        ).to_arrow_table()
    if contract.revises and conflicts.num_rows:
        run.register("changed", conflicts)
        revised = run.execute(
            "SELECT n.* REPLACE (CAST(n.revision + 1 + h.top"
            f" - min(n.revision) OVER (PARTITION BY {_of('n', contract.identity)}) AS INTEGER) AS revision)"
            f" FROM changed n JOIN (SELECT {keys}, max(revision) AS top FROM {stored} GROUP BY {keys}) h"
            f" USING ({keys}) ORDER BY row_at",
            bounds,
        ).to_arrow_table()
        run.unregister("changed")
        names = rows.column_names
        new, conflicts = pa.concat_tables([new.select(names), revised.select(names)]), rows.slice(0, 0)
    run.unregister("incoming")
    reason = pa.array(
        [f"{contract.name} holds the same key with other values"] * conflicts.num_rows, pa.string()
    )
    return new.select(rows.column_names), conflicts.select(rows.column_names).append_column("reason", reason)


def contradicted(run: duckdb.DuckDBPyConnection, contract: Contract, rows: pa.Table) -> list[bool]:
    """Return, for each row, whether the table has its key with other values; see `split_new_and_conflicting`."""
    place = pa.array(range(rows.num_rows), pa.int64())
    run.register("given", rows.select(contract.schema.names).append_column("place", place))
    same = f"coalesce(bool_or({_equal(contract.content)}), false)"
    found = run.execute(
        f"SELECT count(h.batch) > 0 AND NOT {same} AS is_other"
        f" FROM given n LEFT JOIN {contract.name} h ON {_equal(contract.identity)}"
        " GROUP BY n.place ORDER BY n.place"
    ).fetchall()
    return [bool(row[0]) for row in found]


def insert(run: duckdb.DuckDBPyConnection, contract: Contract, rows: pa.Table, stamp: Stamp) -> int:
    """Insert rows with their stamps, and return how many; for arguments see `split_new_and_conflicting`."""
    if rows.num_rows == 0:
        return 0
    run.register("incoming", rows.select(contract.schema.names))
    run.execute(
        # By name, because a column that was added by a migration is the last of the table.
        f"INSERT INTO {contract.name} BY NAME"
        f" SELECT *, {', '.join(f'? AS {field.name}' for field in contract.stamps)} FROM incoming",
        list(stamp.of(contract)),
    )
    run.unregister("incoming")
    return rows.num_rows


def _near(contract: Contract) -> str:
    return f"WHERE {contract.time} BETWEEN ? AND ?" if contract.time else ""


def _bounds(contract: Contract, rows: pa.Table) -> list[object]:
    if contract.time is None:
        return []
    span: Any = pc.min_max(rows[contract.time]).as_py()
    return [span["min"], span["max"]]


def _equal(names: Sequence[str]) -> str:
    return " AND ".join(f"n.{name} IS NOT DISTINCT FROM h.{name}" for name in names)


def _of(alias: str, names: Sequence[str]) -> str:
    return ", ".join(f"{alias}.{name}" for name in names)
