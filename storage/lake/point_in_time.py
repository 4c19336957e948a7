"""What would a live system have known at an instant: how does every table read when what came later is left out?

This is another question than what the lake held at a snapshot, and the two go together: a backfill of today brings
rows that were knowable a year ago, and a snapshot of a year ago does not hold them.
"""

from __future__ import annotations

from storage.contracts.tables import CONTRACTS
from storage.lake.migrations import VIEWS


def point_in_time_views(schema: str, known_at_ns: int, sql: str) -> list[str]:
    """Return the statements that put tables and views, as they were known at an instant, before the lake's own.

    A row is known from its `ts_knowable_ns` on. Of a bar, `bars_latest` shows the last revision that was known.

    Args:
        schema: where the whole tables lie.
        known_at_ns: the instant, inclusive.
        sql: the query; what it does not name is left out, since each statement takes milliseconds.
    """
    asked = sql.lower()
    views = {name: made for name, made in VIEWS.items() if name in asked}
    asked += " ".join(views.values())
    tables = [
        f"CREATE TEMP VIEW {name} AS SELECT * FROM {schema}.main.{name} WHERE ts_knowable_ns <= {int(known_at_ns)}"
        for name in CONTRACTS
        if name in asked
    ]
    # These name tables without a schema, and so read the views above.
    return tables + [f"CREATE TEMP VIEW {name} AS {made}" for name, made in views.items()]
