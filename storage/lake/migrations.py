"""Which steps bring a lake of an older release to this one's layout, and which lakes are too new for it?

The table `migrations` has one row for each numbered step that a lake has been through. A lake without it is of the
first release. What a step's SQL cannot say (tables and columns that simply are not there yet) follows from the
contracts: such a column is null in rows that are older than it. All steps that a lake lacks are one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from storage.contracts.contract import TS, Contract
from storage.contracts.tables import CONTRACTS, MIGRATIONS
from storage.errors import LakeError

SQL_TYPES: Final = {
    pa.int64(): "BIGINT",
    pa.int32(): "INTEGER",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.bool_(): "BOOLEAN",
    pa.binary(): "BLOB",
    TS: "TIMESTAMPTZ",
    pa.list_(pa.float64()): "DOUBLE[]",
}

VIEWS: Final = {
    "bars_latest": """
        SELECT * FROM bars
        QUALIFY row_number() OVER (PARTITION BY instrument, width, ts_open ORDER BY revision DESC) = 1
    """,
    "instruments_valid": """
        SELECT *, ts_knowable_ns AS valid_from_ns,
               lead(ts_knowable_ns) OVER (PARTITION BY instrument ORDER BY ts_knowable_ns) AS valid_to_ns
        FROM instruments
    """,
    "pins_held": """
        SELECT pin, snapshot, content, ts_knowable_ns FROM pins
        QUALIFY row_number() OVER (PARTITION BY pin, snapshot ORDER BY ts_knowable_ns DESC) = 1
            AND event = 'pinned'
    """,
}

Held = Mapping[str, set[str]]
"""What a lake holds: the columns of each table and view, by name."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered step.

    Args:
        number: steps are taken in this order, each once.
        name: what it does, for the table `migrations`.
        sql: its statements, for a lake that holds the tables; a fresh one is made as the contracts say.
        adds: the table and column that the statements add; where it is there already they are left out.
    """

    number: int
    name: str
    sql: tuple[str, ...] = ()
    adds: tuple[str, str] | None = None

    def steps(self, held: Held) -> list[str]:
        """Return the statements that a lake needs."""
        table, column = self.adds or ("", "")
        is_needed = self.adds is None or (table in held and column not in held[table])
        return list(self.sql) if is_needed else []


STEPS: Final = (
    Migration(1, "the layout of the first release"),
    Migration(
        2,
        "a pin says whether it was set or let go; all older ones were set",
        ("ALTER TABLE pins ADD COLUMN event VARCHAR DEFAULT 'pinned'",),
        adds=("pins", "event"),
    ),
)
LAYOUT: Final = STEPS[-1].number


def refuse_newer(held: Held, number: int) -> None:
    """Refuse a lake that a newer release has written: what it knows would be lost in silence.

    Args:
        held: what the lake holds.
        number: the last step that it has been through.

    Raises:
        LakeError: it has been through steps, or has columns, that this release does not know.
    """
    hint = "update tickwalk, or name another folder with --home"
    if number > LAYOUT:
        raise LakeError(
            f"the lake has layout {number}, and this tickwalk knows layouts up to {LAYOUT}: a newer one wrote it",
            hint=hint,
        )
    for name, contract in CONTRACTS.items():
        if extra := held.get(name, set()) - set(contract.stored_schema.names):
            raise LakeError(
                f"the lake's table {name} has a column {sorted(extra)[0]!r} that this tickwalk does not know: "
                "a newer one wrote it",
                hint=hint,
            )


def steps_to_take(held: Held, number: int) -> tuple[list[str], list[Migration]]:
    """Return the statements that bring a lake to this release's layout, and the numbered steps among them.

    Args:
        held: what the lake holds; nothing, when it is fresh.
        number: the last step that it has been through; 0 for one of the first release, or a fresh one.
    """
    due = [step for step in STEPS if step.number > number]
    steps = [statement for step in due for statement in step.steps(held)]
    done = {step.adds for step in due if step.adds}
    for contract in CONTRACTS.values():
        if contract.name not in held:
            steps.append(f"CREATE TABLE {contract.name} ({', '.join(_columns(contract).values())})")
        else:
            steps += [
                f"ALTER TABLE {contract.name} ADD COLUMN {text}"
                for name, text in _columns(contract).items()
                if name not in held[contract.name] and (contract.name, name) not in done
            ]
    steps += [f"CREATE VIEW {name} AS {sql}" for name, sql in VIEWS.items() if name not in held]
    return steps, due


def rows_of(steps: Sequence[Migration], *, code: str, now_ns: int) -> pa.Table:
    """Return the rows of `migrations` for steps that are taken."""
    return MIGRATIONS.rows(
        [{"number": s.number, "name": s.name, "code": code, "ts_knowable_ns": now_ns} for s in steps]
    )


def _columns(contract: Contract) -> dict[str, str]:
    return {item.name: f"{item.name} {SQL_TYPES[item.type]}" for item in contract.stored_schema}
