"""Time ranges of rows by key, and their overlap with a table.

A span is the first and last instant of the rows that share the text columns of their key, such as instrument and width.
Rows are sorted by these texts and by time. Rows of one instant keep their order, which is all that orders prints.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.contracts.contract import Contract
from storage.contracts.validation import sort_order
from storage.errors import ContractError
from storage.lake.lake import Lake
from storage.lake.migrations import SQL_TYPES
from storage.lake.schema_version import CATALOG

Span = tuple[Any, Any]
Spans = dict[tuple[str, ...], Span]
"""First and last instant by the values of the key's text columns."""


def rows_before_last_instant(contract: Contract, piece: pa.Table) -> int:
    """Return how many rows of a piece precede the instant of its last row; all rows if they share one instant."""
    times = piece[_time(contract)]
    other: Any = pc.indices_nonzero(pc.not_equal(times, times[-1]))
    return other[-1].as_py() + 1 if len(other) else piece.num_rows


def in_order(contract: Contract, rows: pa.Table) -> pa.Table:
    """Return rows sorted by the key's texts and time; rows of one instant keep their order."""
    names = _order(contract)
    if rows.num_rows < 2 or sort_order(rows, names)[1]:
        return rows
    return rows.take(pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in names]))


def spans_of(contract: Contract, rows: pa.Table) -> Spans:
    """Return the spans of sorted rows."""
    begins = np.arange(rows.num_rows) == 0
    for name in contract.texts:
        begins[1:] |= pc.not_equal(rows[name][1:], rows[name][:-1]).to_numpy()
    firsts = np.flatnonzero(begins)
    lasts = np.append(firsts[1:], rows.num_rows) - 1
    names = zip(*(rows[name].take(firsts).to_pylist() for name in contract.texts), strict=True)
    ends = (rows[_time(contract)].take(at).to_pylist() for at in (firsts, lasts))
    return dict(zip(names, zip(*ends, strict=True), strict=True))


def stored_time_range(lake: Lake, contract: Contract) -> Span | None:
    """Return the first and last instant that a table has ever contained, from the catalog; None if it is empty.

    This saves a query for overlapping rows, which takes a tenth of the time of writing as many: most history does not
    overlap.
    """
    time = _time(contract)
    kind = SQL_TYPES[contract.schema.field(time).type]
    found = lake.query(
        f"""
        SELECT CAST(s.min_value AS {kind}) AS first, CAST(s.max_value AS {kind}) AS last
        FROM {CATALOG}.ducklake_table t JOIN {CATALOG}.ducklake_column c USING (table_id)
        JOIN {CATALOG}.ducklake_table_column_stats s USING (table_id, column_id)
        WHERE t.table_name = ? AND c.column_name = ? AND s.min_value IS NOT NULL
        """,
        [contract.name, time],
    ).to_pylist()
    return (found[0]["first"], found[0]["last"]) if found else None


def overlaps(stored: Span | None, spans: Spans) -> bool:
    """Return whether any span overlaps the stored time range."""
    return stored is not None and any(
        first <= stored[1] and stored[0] <= last for first, last in spans.values()
    )


def overlap_query(contract: Contract, spans: Spans) -> tuple[str, list[Any]]:
    """Return a query, with its values, that yields a row if the table has any row within the spans."""
    names, time = contract.texts, _time(contract)
    texts = [list(values) for values in zip(*spans, strict=True)]
    firsts, lasts = [first for first, _ in spans.values()], [last for _, last in spans.values()]
    given = ", ".join(f"unnest(?) AS {name}" for name in (*names, "first", "last"))
    same = " AND ".join([*(f"h.{name} = s.{name}" for name in names), f"h.{time} BETWEEN s.first AND s.last"])
    # The overall bounds let the catalog skip files.
    near = " AND ".join(f"h.{name} BETWEEN ? AND ?" for name in (*names, time))
    bounds = [bound for values in (*texts, [*firsts, *lasts]) for bound in (min(values), max(values))]
    return (
        f"WITH span AS (SELECT {given}) SELECT 1 FROM {contract.name} h JOIN span s ON {same} WHERE {near} LIMIT 1",
        [*texts, firsts, lasts, *bounds],
    )


def sort_key(contract: Contract, rows: pa.Table, at: int) -> tuple[Any, ...]:
    """Return the values by which a row is sorted."""
    return tuple(rows[name][at].as_py() for name in _order(contract))


def _order(contract: Contract) -> tuple[str, ...]:
    return (*contract.texts, _time(contract))


def _time(contract: Contract) -> str:
    if contract.time is None:
        raise ContractError(f"{contract.name} has no time in its key, so it cannot be loaded in bulk")
    return contract.time
