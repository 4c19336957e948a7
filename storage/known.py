"""What would a live system have known at an instant: how does every table read when what came later is left out?

This is another question than what the lake held at a snapshot, and the two go together: a backfill of today brings
rows that were knowable a year ago, and a snapshot of a year ago does not hold them.
"""

from __future__ import annotations

from storage.contracts import CONTRACTS
from storage.migrations import VIEWS, Held


def known_views(schema: str, known_at_ns: int, held: Held) -> list[str]:
    """Return the statements that put every table and view, as it was known at an instant, before the lake's own.

    A row is known from its `ts_knowable_ns` on. Of a bar, `bars_latest` shows the last revision that was known.

    Args:
        schema: where the whole tables lie.
        known_at_ns: the instant, inclusive.
        held: what that schema holds; what an older layout lacks is left out.
    """
    tables = [
        f"CREATE TEMP VIEW {name} AS SELECT * FROM {schema}.main.{name} WHERE ts_knowable_ns <= {int(known_at_ns)}"
        for name in CONTRACTS
        if name in held
    ]
    # These name tables without a schema, and so read the views above.
    return tables + [f"CREATE TEMP VIEW {name} AS {sql}" for name, sql in VIEWS.items() if name in held]
