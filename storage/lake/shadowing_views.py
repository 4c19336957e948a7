"""Views that hide rows: those that became knowable after an instant, and market data of withheld ranges.

The former show what a live system would have known. A snapshot shows what the lake contained. The two differ: a
backfill of today adds rows that were knowable a year ago, which a snapshot of a year ago does not have.
"""

from __future__ import annotations

from collections.abc import Sequence

from storage.contracts.availability import available_sql
from storage.contracts.tables import CONTRACTS
from storage.lake.migrations import VIEWS
from storage.lake.point_in_time import CLOCKS, Basis
from storage.lake.withheld import TimeRange, outside


def shadowing_views(
    schema: str,
    sql: str,
    *,
    known_at_ns: int | None,
    rows: Basis = "served",
    lag_ns: int | None,
    withheld: Sequence[TimeRange] = (),
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
        withheld: ranges whose market data are left out.
    """
    if known_at_ns is None and lag_ns is None and not withheld:
        return []
    text = sql.lower()
    views = {name: select for name, select in VIEWS.items() if name in text}
    text += " ".join(views.values())
    bars = f"{schema}.main.bars"
    if lag_ns is not None:
        bars = f"(SELECT *, {available_sql(lag_ns)} AS ts_available_ns, '' AS home FROM {bars})"
    conditions = {
        name: [
            *([] if known_at_ns is None else [f"{_clock(name, rows)} <= {int(known_at_ns)}"]),
            *([condition] if withheld and (condition := outside(name, withheld)) else []),
        ]
        for name in CONTRACTS
        if name in text
    }
    shadowed = {name for name, found in conditions.items() if found} | (
        {"bars"} if lag_ns is not None else set()
    )
    tables = [
        f"CREATE TEMP VIEW {name} AS SELECT * FROM {bars if name == 'bars' else f'{schema}.main.{name}'}"
        + (f" WHERE {' AND '.join(found)}" if found else "")
        for name, found in conditions.items()
        if name in shadowed
    ]
    # These name tables without a schema, so they read the views above.
    return tables + [
        f"CREATE TEMP VIEW {name} AS {select}"
        for name, select in views.items()
        if any(table in select for table in shadowed)
    ]


def _clock(table: str, rows: Basis) -> str:
    return CLOCKS[rows] if table == "bars" else "ts_knowable_ns"
