"""Errors of queries: a snapshot that expired, a layout of an older release, or any other reason."""

from __future__ import annotations

from typing import Final

import duckdb

from storage.errors import LakeError
from storage.lake.connection import first_line
from storage.lake.schema_version import find_missing

_NO_SNAPSHOT: Final = "No snapshot found"
_MISSING: Final = (duckdb.CatalogException, duckdb.BinderException)


def failed_query(
    error: duckdb.Error, run: duckdb.DuckDBPyConnection, *, sql: str, schema: str, at: int | None
) -> LakeError:
    """Return the error for a query that failed.

    Args:
        error: of DuckDB.
        run: a connection to the lake.
        sql: the query.
        schema: name of the attached lake, or snapshot, that it read.
        at: the snapshot; None: the newest.
    """
    if at is not None and _NO_SNAPSHOT in str(error):
        return missing_snapshot(at, error)
    if isinstance(error, _MISSING) and (what := find_missing(run, schema, first_line(error))):
        return _older_release(what, at)
    return LakeError(f"the query failed: {first_line(error)}", sql=sql)


def missing_snapshot(at: int, error: duckdb.Error) -> LakeError:
    """Return the error for a snapshot that does not exist or has expired."""
    return LakeError(
        f"snapshot {at} does not exist or has expired: {first_line(error)}",
        hint="list them with: tickwalk lake snapshots",
    )


def _older_release(what: str, at: int | None) -> LakeError:
    if at is not None:
        return LakeError(
            f"snapshot {at} is of an older layout: it has no {what}", hint="ask for a later snapshot"
        )
    return LakeError(
        f"the lake is of an older layout: it has no {what}",
        hint="whatever opens it for writing brings it to this release's layout, such as: tickwalk lake compact",
    )


def kinds_of_statements(sql: str) -> set[object]:
    """Return the kinds of the statements of a text besides space and comments; an invalid one is of no known kind."""
    try:
        return {statement.type for statement in duckdb.extract_statements(sql)}
    except duckdb.Error:
        return {None}
