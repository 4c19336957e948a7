"""Conversion of rejected rows to rows of `quarantine`."""

from __future__ import annotations

import json

import pyarrow as pa

from storage.contracts.tables import QUARANTINE


def as_quarantine(table: str, rows: pa.Table, batch_id: str, now_ns: int, *, first: int = 0) -> pa.Table:
    """Return rows of `quarantine` for rejected rows of a table.

    Args:
        table: name of the table.
        rows: the table's columns, and `reason`.
        batch_id: of the batch that they came in.
        now_ns: the current time, for rows without `ts_knowable_ns`.
        first: number of the first row, for rows without a frame.
    """
    plain = rows.drop(["reason"]).to_pylist()
    return QUARANTINE.rows(
        [
            {
                "table_name": table,
                "reason": reason,
                "raw": json.dumps(row, default=str).encode(),
                "source": f"{row.get('journal') or row.get('source') or batch_id}:{row.get('frame', number)}",
                "ts_knowable_ns": row.get("ts_knowable_ns") or now_ns,
            }
            for number, (row, reason) in enumerate(zip(plain, rows["reason"].to_pylist(), strict=True), first)
        ]
    )


def distinct(rows: pa.Table) -> pa.Table:
    """Return the first row of `quarantine` of each key, in the order of the rows."""
    first = rows.select(list(QUARANTINE.key)).append_column("row", pa.array(range(rows.num_rows), pa.int64()))
    kept = first.group_by(list(QUARANTINE.key)).aggregate([("row", "min")])["row_min"]
    return rows.take(kept.combine_chunks().sort())
