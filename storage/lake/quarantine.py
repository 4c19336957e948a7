"""What was refused, and does it fit the contract as it is today?

A row in quarantine is whole, as JSON, so it can be given to its contract again after that was mended. What fits is
committed, and noted in `retries`; the row in quarantine stays, since nothing is ever edited. Frames that could not
be decoded are not rows: they come back by replaying their recording.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import pyarrow as pa

from storage.contracts.contract import TS, Contract
from storage.contracts.tables import CONTRACTS, RETRIES
from storage.contracts.validation import failures_of
from storage.errors import LakeError
from storage.lake.lake import Lake

_ID: Final = "substr(md5(concat_ws(chr(31), table_name, source, reason)), 1, 10)"
# Reasons that differ in the value alone are one kind.
_KIND: Final = "regexp_replace(reason, ' is [^:;]*:', ' is ...:', 'g')"
_KEY: Final = ("table_name", "source", "reason")
_AT_ONCE: Final = 20_000

Progress = Callable[[int], None]


@dataclass(slots=True)
class RetryResult:
    """What a retry did: rows that were committed, by table, and those that stay, by the rule they still break."""

    committed: dict[str, int] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)

    def leave(self, reason: str) -> None:
        """Count a row that stays."""
        self.left[reason] = self.left.get(reason, 0) + 1


def list_kinds(lake: Lake, *, table: str | None = None) -> pa.Table:
    """Return what is in quarantine by table and kind of reason: how many, how many were settled, and one's id."""
    return lake.query(
        f"""
        WITH settled AS (SELECT {", ".join(_KEY)}, true AS is_settled FROM retries)
        SELECT table_name AS table, {_KIND} AS reason, count(*) AS rows, count(is_settled) AS retried,
               min({_ID}) AS example, make_timestamptz(max(ts_knowable_ns) // 1000) AS newest
        FROM quarantine LEFT JOIN settled USING ({", ".join(_KEY)})
        WHERE coalesce(table_name = ?, true) GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2
        """,
        [table],
    )


def find(lake: Lake, name: str) -> dict[str, Any]:
    """Return one row of quarantine by its id, or by the first characters of it.

    Raises:
        LakeError: none has it, or several begin with it.
    """
    rows = lake.query(f"SELECT *, {_ID} AS id FROM quarantine WHERE starts_with({_ID}, ?) LIMIT 2", [name])
    if rows.num_rows != 1:
        raise LakeError(
            f"{'no row' if rows.num_rows == 0 else 'more than one row'} in quarantine has the id {name!r}",
            hint="the column `example` has ids: tickwalk quarantine list",
        )
    return dict(rows.to_pylist()[0])


def waiting(lake: Lake, *, table: str | None = None) -> int:
    """Return how many rows a retry would take."""
    return int(lake.query(f"SELECT count(*) AS rows FROM ({_waiting()})", _which(table))["rows"][0].as_py())


def retry(
    lake: Lake, *, now_ns: int, table: str | None = None, on_rows: Progress = lambda _: None
) -> RetryResult:
    """Give the rows in quarantine to their contracts again, and commit those that fit.

    Args:
        lake: writable.
        now_ns: the present.
        table: only rows that were going there.
        on_rows: is told how many rows have been looked at.
    """
    done = RetryResult()
    held = lake.query(f"{_waiting()} ORDER BY {', '.join(_KEY)}", _which(table)).to_pylist()
    for name in dict.fromkeys(row["table_name"] for row in held):
        mine = [row for row in held if row["table_name"] == name]
        for start in range(0, len(mine), _AT_ONCE):
            _retry_some(lake, CONTRACTS[name], mine[start : start + _AT_ONCE], now_ns, done)
            on_rows(min(_AT_ONCE, len(mine) - start))
    return done


def _retry_some(
    lake: Lake, contract: Contract, held: Sequence[dict[str, Any]], now_ns: int, done: RetryResult
) -> None:
    read: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for item in held:
        try:
            row = _parse(contract, item["raw"])
            pa.Table.from_pylist([row], schema=_loose(contract))
        except (ValueError, TypeError, pa.ArrowException) as error:
            done.leave(f"{contract.name}: no row can be read from it: {error}")
            continue
        read.append(item)
        rows.append(row)
    if not rows:
        return
    batch = pa.Table.from_pylist(rows, schema=_loose(contract))
    fitting, notes = [], []
    for number, reason in enumerate(_reasons(lake, contract, batch)):
        if reason:
            done.leave(f"{contract.name}: {reason}")
        else:
            fitting.append(number)
            notes.append({name: read[number][name] for name in _KEY} | {"ts_knowable_ns": now_ns})
    if not fitting:
        return
    # Named for its content: a retry that was cut short, or is done twice, writes nothing twice.
    names = json.dumps([[note[name] for name in _KEY] for note in notes]).encode()
    commit = lake.commit(
        {contract.name: batch.take(fitting), "retries": RETRIES.rows(notes)},
        batch_id=f"retry:{contract.name}:{hashlib.sha256(names).hexdigest()[:16]}",
        inputs={"quarantine": len(notes)},
    )
    done.committed[contract.name] = done.committed.get(contract.name, 0) + commit.rows.get(contract.name, 0)


def _reasons(lake: Lake, contract: Contract, batch: pa.Table) -> Iterator[str]:
    """Yield for each row why it still does not fit; empty where it does."""
    broken = failures_of(contract, batch)
    # A bar that says something else becomes the next revision.
    clashes = [False] * batch.num_rows if contract.revises else lake.contradicts(contract, batch)
    for row, is_other in enumerate(clashes):
        yield broken.get(row, f"{contract.name} holds the same key with other values" if is_other else "")


def _waiting() -> str:
    return f"FROM quarantine ANTI JOIN retries USING ({', '.join(_KEY)}) WHERE list_contains(?, table_name)"


def _which(table: str | None) -> list[object]:
    if table is not None and table not in CONTRACTS:
        raise LakeError(f"there is no table {table!r}", hint=f"use one of: {', '.join(CONTRACTS)}")
    return [[table] if table else list(CONTRACTS)]


def _parse(contract: Contract, raw: bytes) -> dict[str, Any]:
    """Return a row from its JSON: what the contract no longer knows is left out, what it lacked then is null."""
    plain = json.loads(raw)
    if not (isinstance(plain, dict) and set(contract.key) <= set(plain)):
        raise ValueError("it is a frame; replay its recording")
    row = {}
    for column in contract.columns:
        value: Any = plain.get(column.name)
        is_time = column.type == TS and isinstance(value, str)
        row[column.name] = datetime.fromisoformat(value) if is_time else value
    return row


def _loose(contract: Contract) -> pa.Schema:
    """Return the contract's schema with nulls allowed everywhere: the contract itself says what may be null."""
    return pa.schema([pa.field(item.name, item.type) for item in contract.schema])
