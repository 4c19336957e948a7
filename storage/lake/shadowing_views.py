"""Point-in-time views: every table without the rows that became knowable after an instant.

They show what a live system would have known. A snapshot shows what the lake contained. The two differ: a backfill of
today adds rows that were knowable a year ago, which a snapshot of a year ago does not have.
"""

from __future__ import annotations

from storage.contracts.availability import available_sql
from storage.contracts.tables import CONTRACTS
from storage.lake.migrations import VIEWS
from storage.lake.point_in_time import CLOCKS, Basis


def shadowing_views(
    schema: str, sql: str, *, known_at_ns: int | None, rows: Basis = "served", lag_ns: int | None
) -> list[str]:
    """Return the statements that shadow the lake's tables and views by temporary views of the same names.

    A row is known from its `ts_knowable_ns` on; one of `bars` is from the clock of the basis on. `bars_latest` chooses
    among the rows known at that instant.

    Args:
        schema: of the complete tables.
        sql: the query; tables that it does not name are skipped, as each statement takes milliseconds.
        known_at_ns: leave out rows that became knowable after this instant.
        rows: the basis.
        lag_ns: `bars` is of an older layout; it gets `ts_available_ns`, with this lag, and an empty `home`.
    """
    if known_at_ns is None and lag_ns is None:
        return []
    text = sql.lower()
    views = {name: select for name, select in VIEWS.items() if name in text}
    text += " ".join(views.values())
    bars = f"{schema}.main.bars"
    if lag_ns is not None:
        bars = f"(SELECT *, {available_sql(lag_ns)} AS ts_available_ns, '' AS home FROM {bars})"
    tables = [
        f"CREATE TEMP VIEW {name} AS SELECT * FROM {bars if name == 'bars' else f'{schema}.main.{name}'}"
        + ("" if known_at_ns is None else f" WHERE {_clock(name, rows)} <= {int(known_at_ns)}")
        for name in (("bars",) if known_at_ns is None else CONTRACTS)
        if name in text
    ]
    # These name tables without a schema, so they read the views above.
    views = (
        views
        if known_at_ns is not None
        else {name: select for name, select in views.items() if "bars" in select}
    )
    return tables + [f"CREATE TEMP VIEW {name} AS {select}" for name, select in views.items()]


def _clock(table: str, rows: Basis) -> str:
    return CLOCKS[rows] if table == "bars" else "ts_knowable_ns"
