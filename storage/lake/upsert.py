"""How does a batch meet the rows of a table: which are there already, which say something else, how do they get in?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from storage.contracts.contract import Contract


def split_new_and_conflicting(
    run: duckdb.DuckDBPyConnection, contract: Contract, rows: pa.Table
) -> tuple[pa.Table, pa.Table]:
    """Return the rows to insert and those that contradict a row already held, with the reason.

    Args:
        run: the connection, within a transaction where rows are inserted afterwards.
        contract: the table's.
        rows: at least one, with its columns.
    """
    keys = ", ".join(contract.identity)
    held = f"(SELECT * FROM {contract.name} {_near(contract)})"
    bounds = _bounds(contract, rows)
    # A join loses the order of its rows, and that of prints at one instant is known by nothing else.
    run.register("incoming", rows.append_column("row_at", pa.array(range(rows.num_rows), pa.int64())))
    fresh = run.execute(
        f"FROM incoming ANTI JOIN {held} USING ({keys}) ORDER BY row_at", bounds
    ).to_arrow_table()
    unlike = rows.slice(0, 0)
    if fresh.num_rows < rows.num_rows:
        same = _equal((*contract.identity, *contract.content))
        unlike = run.execute(
            f"SELECT n.* FROM incoming n SEMI JOIN {held} h USING ({keys}) "
            f"WHERE NOT EXISTS (SELECT 1 FROM {held} h WHERE {same})",
            bounds * 2,
        ).to_arrow_table()
    if contract.revises and unlike.num_rows:
        run.register("changed", unlike)
        revised = run.execute(
            "SELECT n.* REPLACE (CAST(n.revision + 1 + h.top"
            f" - min(n.revision) OVER (PARTITION BY {_of('n', contract.identity)}) AS INTEGER) AS revision)"
            f" FROM changed n JOIN (SELECT {keys}, max(revision) AS top, arg_max(observed_ms, revision) AS watched"
            f" FROM {held} GROUP BY {keys}) h USING ({keys})"
            # The next revision of the same computation, or another one that watched no less and knows something.
            " WHERE n.revision > h.top OR (n.observed_ms >= h.watched AND n.status <> 'unknown')",
            bounds,
        ).to_arrow_table()
        run.unregister("changed")
        names = rows.column_names
        fresh, unlike = pa.concat_tables([fresh.select(names), revised.select(names)]), rows.slice(0, 0)
    run.unregister("incoming")
    reason = pa.array(
        [f"{contract.name} holds the same key with other values"] * unlike.num_rows, pa.string()
    )
    return fresh.select(rows.column_names), unlike.select(rows.column_names).append_column("reason", reason)


def contradicted(run: duckdb.DuckDBPyConnection, contract: Contract, rows: pa.Table) -> list[bool]:
    """Return, for each row, whether the table holds its key with other values; see `split_new_and_conflicting`."""
    place = pa.array(range(rows.num_rows), pa.int64())
    run.register("given", rows.select(contract.schema.names).append_column("place", place))
    same = f"coalesce(bool_or({_equal(contract.content)}), false)"
    found = run.execute(
        f"SELECT count(h.batch) > 0 AND NOT {same} AS is_other"
        f" FROM given n LEFT JOIN {contract.name} h ON {_equal(contract.identity)}"
        " GROUP BY n.place ORDER BY n.place"
    ).fetchall()
    return [bool(row[0]) for row in found]


def insert(run: duckdb.DuckDBPyConnection, contract: Contract, rows: pa.Table, stamp: tuple[int, str]) -> int:
    """Insert rows with their stamps and return how many (arguments: `split_new_and_conflicting`)."""
    if rows.num_rows == 0:
        return 0
    run.register("incoming", rows.select(contract.schema.names))
    run.execute(
        # By name: a column that was added later stands last in the table.
        f"INSERT INTO {contract.name} BY NAME SELECT *, ? AS ts_ingested_ns, ? AS batch FROM incoming",
        list(stamp),
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
