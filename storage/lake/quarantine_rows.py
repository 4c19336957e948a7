"""How does a row that was refused become a row of `quarantine`?"""

from __future__ import annotations

import json

import pyarrow as pa

from storage.contracts.tables import QUARANTINE


def as_quarantine(table: str, rows: pa.Table, batch_id: str, now_ns: int, *, first: int = 0) -> pa.Table:
    """Return rows of `quarantine` for rows of a table, which have their reason in the column `reason`.

    Args:
        table: whose rows they are.
        rows: its columns, and `reason`.
        batch_id: that brought them.
        now_ns: the present, for rows without a time of their own.
        first: the number of the first of them.
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
    """Return rows of `quarantine`, the first of each key."""
    first = rows.select(list(QUARANTINE.key)).append_column("row", pa.array(range(rows.num_rows), pa.int64()))
    kept = first.group_by(list(QUARANTINE.key)).aggregate([("row", "min")])["row_min"]
    return rows.take(kept)
