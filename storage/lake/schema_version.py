"""Is a lake of this release's layout, and what is done where it is older or newer?

A lake that is opened for writing is brought to this release's layout. One that is only read stays as it is: what it
lacks is told when a query asks for it.
"""

from __future__ import annotations

import duckdb

from storage.code_version import code_version
from storage.contracts.tables import CONTRACTS, MIGRATIONS
from storage.lake.connection import rollback
from storage.lake.migrations import VIEWS, Held, refuse_newer, rows_of, steps_to_take
from storage.lake.upsert import insert
from storage.logs import get_logger

logger = get_logger(__name__)


def bring_to_layout(run: duckdb.DuckDBPyConnection, *, now_ns: int, read_only: bool) -> None:
    """Refuse a lake of a newer release, and take the steps that one of an older release lacks.

    Args:
        run: a connection that uses the lake, under the commit lock.
        now_ns: the present.
        read_only: take none.

    Raises:
        LakeError: a newer release wrote it.
    """
    held, number = _held(run), 0
    if "migrations" in held:
        found = run.execute("SELECT max(number) FROM migrations").fetchone()
        number = found[0] if found and found[0] else 0
    refuse_newer(held, number)
    if read_only:
        return
    steps, due = steps_to_take(held, number)
    if not (steps or due):
        return
    run.execute("BEGIN TRANSACTION")
    try:
        for step in steps:
            run.execute(step)
        insert(run, MIGRATIONS, rows_of(due, code=code_version(), now_ns=now_ns), (now_ns, "migration"))
        run.execute("COMMIT")
    except BaseException:
        rollback(run)
        raise
    if held:
        logger.info("lake migrated", steps=[step.name for step in due], statements=len(steps))


def lacking(run: duckdb.DuckDBPyConnection, schema: str, told: str) -> str:
    """Return which table, view or column of ours that an error tells of is not there yet; empty: none.

    Args:
        run: a connection to the lake.
        schema: the lake, or a snapshot of it, as it is attached.
        told: what DuckDB says is not there.
    """
    for name in (*CONTRACTS, *VIEWS):
        if f"with name {name} does not exist" in told:
            return f"table {name}"
    for name, contract in CONTRACTS.items():
        for column in contract.stored_schema.names:
            if f'"{column}"' in told and column not in _columns(run, f"{schema}.{name}", {column}):
                return f"column {column} of {name}"
    return ""


def _columns(run: duckdb.DuckDBPyConnection, table: str, otherwise: set[str]) -> set[str]:
    try:
        return {name for name, *_ in run.execute(f"DESCRIBE {table}").fetchall()}
    except duckdb.Error:
        return otherwise  # it is not there at all, and was not asked for


def _held(run: duckdb.DuckDBPyConnection) -> Held:
    held: dict[str, set[str]] = {}
    for table, column in run.execute(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = 'lake'"
    ).fetchall():
        held.setdefault(table, set()).add(column)
    return held
