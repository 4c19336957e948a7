"""Migrations: numbered steps that bring an older lake to this release's schema.

The table `migrations` has one row for each step applied to a lake. A lake without that table is of the first release.
Tables and columns that are merely missing need no step: they are created from the contracts, and older rows are null
there. All pending steps are applied in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from storage.contracts.availability import available_sql
from storage.contracts.contract import TS, Contract
from storage.contracts.lake_records import MIGRATIONS
from storage.contracts.tables import CONTRACTS
from storage.errors import LakeError
from storage.lake.connection import quoted
from storage.lake.history_migration import REGISTER, RESTAMP
from storage.lake.point_in_time import known_bars

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
    "bars_latest": known_bars(is_view=True),
    "coverage_days_latest": """
        SELECT * FROM coverage_days
        QUALIFY row_number() OVER (PARTITION BY instrument, day ORDER BY revision DESC) = 1
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

ExistingColumns = Mapping[str, set[str]]
"""The columns that a lake has, by name of the table or view."""


@dataclass(frozen=True, slots=True)
class HomeFacts:
    """What a step needs of the home that migrates a lake.

    Args:
        home: its id.
        lag_ns: `bars.history_lag_ms` in nanoseconds.
        now_ns: the current time.
    """

    home: str
    lag_ns: int
    now_ns: int


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered step.

    Args:
        number: steps are applied in this order, each once.
        name: what it does, for the table `migrations`.
        sql: its statements, for a lake that has the tables; a new lake is created from the contracts. `{available}`
            stands for the expression of `ts_available_ns`, `{home}` for the id of the home, `{now}` for the time.
        adds: the table and columns that the statements add; if the first exists, or the table does not, they are
            skipped.
        after: statements for a lake that has `needs`, once all tables and columns exist.
        needs: tables.
    """

    number: int
    name: str
    sql: tuple[str, ...] = ()
    adds: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    def steps(self, existing: ExistingColumns, facts: HomeFacts) -> list[str]:
        """Return the statements that a lake needs."""
        if self.adds:
            table, column, *_ = self.adds
            if table not in existing or column in existing[table]:
                return []
        return [_filled_in(statement, facts) for statement in self.sql]

    def last_steps(self, existing: ExistingColumns, facts: HomeFacts) -> list[str]:
        """Return the statements that a lake needs once all tables and columns exist."""
        if not all(table in existing for table in self.needs):
            return []
        return [_filled_in(statement, facts) for statement in self.after]


def _filled_in(statement: str, facts: HomeFacts) -> str:
    values = {"available": available_sql(facts.lag_ns), "home": quoted(facts.home), "now": facts.now_ns}
    return statement.format(**values)


STEPS: Final = (
    Migration(1, "the layout of the first release"),
    Migration(
        2,
        "a pin says whether it was set or let go; all older ones were set",
        ("ALTER TABLE pins ADD COLUMN event VARCHAR DEFAULT 'pinned'",),
        adds=("pins", "event"),
    ),
    Migration(
        3,
        "bars have the clock of the venue's publication, and the home that wrote them",
        (
            "ALTER TABLE bars ADD COLUMN ts_available_ns BIGINT",
            "ALTER TABLE bars ADD COLUMN home VARCHAR",
            "UPDATE bars SET ts_available_ns = {available}, home = {home}",
        ),
        adds=("bars", "ts_available_ns", "home"),
    ),
    Migration(
        4,
        "history of recorded instruments is known from its arrival on",
        after=(REGISTER, RESTAMP),
        needs=("bars", "coverage"),
    ),
    # A release that does not know the tables would read a sealed holdout, and count no trial.
    Migration(5, "trials are counted, and a range can be sealed"),
)
LAYOUT: Final = STEPS[-1].number


def refuse_newer(existing: ExistingColumns, number: int) -> None:
    """Refuse a lake written by a newer release, whose additional data would be lost silently.

    Args:
        existing: columns of the lake.
        number: the last step that was applied.

    Raises:
        LakeError: it has steps or columns that this release does not know.
    """
    hint = "update tickwalk, or name another folder with --home"
    if number > LAYOUT:
        raise LakeError(
            f"the lake has layout {number}, and this tickwalk knows layouts up to {LAYOUT}: a newer one wrote it",
            hint=hint,
        )
    for name, contract in CONTRACTS.items():
        if extra := existing.get(name, set()) - set(contract.stored_schema.names):
            raise LakeError(
                f"the lake's table {name} has a column {sorted(extra)[0]!r} that this tickwalk does not know: "
                "a newer one wrote it",
                hint=hint,
            )


def pending_steps(
    existing: ExistingColumns, number: int, facts: HomeFacts
) -> tuple[list[str], list[Migration]]:
    """Return the statements that migrate a lake, and the numbered steps among them.

    Args:
        existing: columns of the lake; empty for a new lake.
        number: the last step that was applied; 0 for a lake of the first release, or a new one.
        facts: of the home that migrates it.
    """
    due = [step for step in STEPS if step.number > number]
    steps = [statement for step in due for statement in step.steps(existing, facts)]
    done = {(step.adds[0], column) for step in due for column in step.adds[1:]}
    for contract in CONTRACTS.values():
        if contract.name not in existing:
            steps.append(f"CREATE TABLE {contract.name} ({', '.join(_columns(contract).values())})")
        else:
            steps += [
                f"ALTER TABLE {contract.name} ADD COLUMN {text}"
                for name, text in _columns(contract).items()
                if name not in existing[contract.name] and (contract.name, name) not in done
            ]
    # A step may be due because a view has another definition now.
    steps += [
        f"CREATE OR REPLACE VIEW {name} AS {sql}"
        for name, sql in VIEWS.items()
        if due or name not in existing
    ]
    return steps + [statement for step in due for statement in step.last_steps(existing, facts)], due


def rows_of(steps: Sequence[Migration], *, code: str, now_ns: int) -> pa.Table:
    """Return the rows of `migrations` for steps."""
    return MIGRATIONS.rows(
        [{"number": s.number, "name": s.name, "code": code, "ts_knowable_ns": now_ns} for s in steps]
    )


def _columns(contract: Contract) -> dict[str, str]:
    return {item.name: f"{item.name} {SQL_TYPES[item.type]}" for item in contract.stored_schema}
