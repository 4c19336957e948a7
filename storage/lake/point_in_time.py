"""Point-in-time views: every table without the rows that became knowable after an instant.

They show what a live system would have known. A snapshot shows what the lake contained. The two differ: a backfill of
today adds rows that were knowable a year ago, which a snapshot of a year ago does not have.
"""

from __future__ import annotations

from storage.contracts.tables import CONTRACTS
from storage.lake.migrations import VIEWS


def point_in_time_views(schema: str, known_at_ns: int, sql: str) -> list[str]:
    """Return the statements that shadow the lake's tables and views by point-in-time views.

    A row is known from its `ts_knowable_ns` on. `bars_latest` shows the last revision known at that instant.

    Args:
        schema: of the complete tables.
        known_at_ns: the instant, inclusive.
        sql: the query; tables that it does not name are skipped, as each statement takes milliseconds.
    """
    text = sql.lower()
    views = {name: select for name, select in VIEWS.items() if name in text}
    text += " ".join(views.values())
    tables = [
        f"CREATE TEMP VIEW {name} AS SELECT * FROM {schema}.main.{name} WHERE ts_knowable_ns <= {int(known_at_ns)}"
        for name in CONTRACTS
        if name in text
    ]
    # These name tables without a schema, so they read the views above.
    return tables + [f"CREATE TEMP VIEW {name} AS {select}" for name, select in views.items()]
