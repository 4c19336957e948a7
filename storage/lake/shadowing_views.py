"""Point-in-time views: every table without the rows that became knowable after an instant.

They show what a live system would have known. A snapshot shows what the lake contained. The two differ: a backfill of
today adds rows that were knowable a year ago, which a snapshot of a year ago does not have.
"""

from __future__ import annotations

from storage.contracts.availability import available_sql
from storage.contracts.tables import CONTRACTS
from storage.lake.migrations import VIEWS


def shadowing_views(schema: str, sql: str, *, known_at_ns: int | None, lag_ns: int | None) -> list[str]:
    """Return the statements that shadow the lake's tables and views by temporary views of the same names.

    A row is known from its `ts_knowable_ns` on. `bars_latest` shows the last revision known at that instant.

    Args:
        schema: of the complete tables.
        sql: the query; tables that it does not name are skipped, as each statement takes milliseconds.
        known_at_ns: leave out rows that became knowable after this instant.
        lag_ns: `bars` is of an older layout; it gets `ts_available_ns`, with this lag, and an empty `home`.
    """
    if known_at_ns is None and lag_ns is None:
        return []
    text = sql.lower()
    views = {name: select for name, select in VIEWS.items() if name in text}
    text += " ".join(views.values())
    bars = "*" if lag_ns is None else f"*, {available_sql(lag_ns)} AS ts_available_ns, '' AS home"
    where = "" if known_at_ns is None else f" WHERE ts_knowable_ns <= {int(known_at_ns)}"
    tables = [
        f"CREATE TEMP VIEW {name} AS SELECT {bars if name == 'bars' else '*'} FROM {schema}.main.{name}{where}"
        for name in (CONTRACTS if where else ("bars",))
        if name in text
    ]
    # These name tables without a schema, so they read the views above.
    views = views if where else {name: select for name, select in views.items() if "bars" in select}
    return tables + [f"CREATE TEMP VIEW {name} AS {select}" for name, select in views.items()]
