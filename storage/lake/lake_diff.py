"""Comparison of two lakes, table by table.

Rows are compared without `ts_ingested_ns` and `batch`, and without the tables of metadata, which differ in a rebuilt
lake. Rows are a multiset: one that occurs twice in one lake and once in the other differs once. If files of a lake are
missing, the rows that can still be read are compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from storage.contracts.tables import CONTRACTS
from storage.lake.connection import connect_in_memory
from storage.lake.lake import Lake
from storage.lake.readable_files import ReadableTable, readable
from storage.lake.snapshots import METADATA_TABLES, Step, no_step, tables_at

# Rows compared at a time; each takes 24 bytes.
_AT_ONCE: Final = 4_000_000

_COUNT: Final = """
    SELECT coalesce(sum(least(ours, theirs)), 0) AS equal, coalesce(sum(greatest(theirs - ours, 0)), 0) AS missing,
           coalesce(sum(greatest(ours - theirs, 0)), 0) AS extra
    FROM (SELECT coalesce(o.rows, 0) AS ours, coalesce(t.rows, 0) AS theirs
          FROM our_rows o FULL JOIN their_rows t USING (low, high))
"""


@dataclass(frozen=True, slots=True)
class TableDiff:
    """Comparison of one table of a new lake with that of an old one.

    Args:
        table: its name.
        equal: rows that both have.
        missing: rows of the old lake that the new one lacks.
        extra: rows of the new lake that the old one lacks.
        lost: missing or damaged files of the old lake, whose rows were not compared.
    """

    table: str
    equal: int
    missing: int
    extra: int
    lost: tuple[str, ...] = ()


def compared_tables() -> list[str]:
    """Return the names of the tables that are compared."""
    return [name for name in CONTRACTS if name not in METADATA_TABLES]


def compare(new: Lake, old: Lake, *, on_step: Step = no_step) -> list[TableDiff]:
    """Compare the newest snapshots of two lakes; call `on_step` after each of `compared_tables`."""
    there = {lake: set(tables_at(lake, with_rows=True)) for lake in (new, old)}
    found = []
    for name in compared_tables():
        if name in there[new] | there[old]:
            ours, theirs = readable(new, name), readable(old, name) if name in there[old] else None
            found.append(_compare_table(new, old, ours, theirs))
        else:
            found.append(TableDiff(name, 0, 0, 0))
        on_step(name)
    return found


def _compare_table(new: Lake, old: Lake, ours: ReadableTable, theirs: ReadableTable | None) -> TableDiff:
    if theirs is None or not theirs.files:
        return TableDiff(ours.table, 0, 0, _rows(new, ours) if ours.files else 0)
    # A lake of an older release lacks columns; the common ones are compared.
    known = set(CONTRACTS[ours.table].schema.names)
    shared = [name for name in _columns(old, theirs) if name in known]
    parts = max(1, math.ceil((_rows(new, ours) + _rows(old, theirs)) / _AT_ONCE))
    counts = [0, 0, 0]
    for part in range(parts):
        tables = [_hashed(lake, it, shared, part, parts) for lake, it in ((new, ours), (old, theirs))]
        counts = [sum(pair) for pair in zip(counts, _count(*tables), strict=True)]
    return TableDiff(ours.table, counts[0], counts[1], counts[2], theirs.lost)


def _hashed(lake: Lake, rows: ReadableTable, columns: list[str], part: int, parts: int) -> pa.Table:
    """Return the hashes of one partition of the rows, each with its number of rows."""
    return lake.query(
        f"WITH data AS (SELECT {', '.join(columns)} FROM {rows.relation}),"
        " texts AS (SELECT CAST(to_json(data) AS VARCHAR) AS text FROM data),"
        " hashes AS (SELECT md5_number_lower(text) AS low, md5_number_upper(text) AS high FROM texts)"
        " SELECT low, high, count(*) AS rows FROM hashes WHERE low % ? = ? GROUP BY ALL",
        [parts, part],
    )


def _count(ours: pa.Table, theirs: pa.Table) -> list[int]:
    with connect_in_memory() as run:
        run.register("our_rows", ours)
        run.register("their_rows", theirs)
        found = run.execute(_COUNT).fetchone()
    assert found is not None
    return [int(count) for count in found]


def _columns(lake: Lake, rows: ReadableTable) -> list[str]:
    return lake.query(f"SELECT * FROM {rows.relation} LIMIT 0").column_names


def _rows(lake: Lake, rows: ReadableTable) -> int:
    return int(lake.query(f"SELECT count(*) AS rows FROM {rows.relation}")["rows"][0].as_py())
