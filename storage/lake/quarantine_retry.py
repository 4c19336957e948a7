"""Quarantine: list rejected rows, and retry them against the current contracts.

A quarantined row is stored completely, as JSON, so it can be validated again after its contract was corrected. Valid
rows are committed and recorded in `retries`; the row in quarantine stays, since stored rows never change. Frames that
could not be decoded are not rows: replay their recording instead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from storage.contracts.availability import with_available
from storage.contracts.contract import AVAILABLE, HISTORY_ORIGINS, TS, Contract
from storage.contracts.lake_records import RETRIES
from storage.contracts.tables import BARS, CONTRACTS
from storage.contracts.validation import failures_of
from storage.errors import LakeError
from storage.lake.history_stamps import decide
from storage.lake.lake import Lake

_ID: Final = "substr(md5(concat_ws(chr(31), table_name, source, reason)), 1, 10)"
# Reasons that differ only in the value are of one kind.
_KIND: Final = "regexp_replace(reason, ' is [^:;]*:', ' is ...:', 'g')"
_KEY: Final = ("table_name", "source", "reason")
_CHUNK_ROWS: Final = 20_000

Progress = Callable[[int], None]


@dataclass(slots=True)
class RetryResult:
    """Result of a retry: rows committed by table, and rows still rejected by reason."""

    committed: dict[str, int] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)

    def leave(self, reason: str) -> None:
        """Count a row that is still rejected."""
        self.left[reason] = self.left.get(reason, 0) + 1


def list_kinds(lake: Lake, *, table: str | None = None) -> pa.Table:
    """Return the number of quarantined rows, and of retried ones, by table and kind of reason, with an example."""
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


def find_row(lake: Lake, name: str) -> dict[str, Any]:
    """Return one row of quarantine by its id or a prefix of it.

    Raises:
        LakeError: no row, or more than one, matches.
    """
    rows = lake.query(f"SELECT *, {_ID} AS id FROM quarantine WHERE starts_with({_ID}, ?) LIMIT 2", [name])
    if rows.num_rows != 1:
        raise LakeError(
            f"{'no row' if rows.num_rows == 0 else 'more than one row'} in quarantine has the id {name!r}",
            hint="the column `example` has ids: tickwalk quarantine list",
        )
    return dict(rows.to_pylist()[0])


def count_pending(lake: Lake, *, table: str | None = None) -> int:
    """Return the number of rows that a retry would validate."""
    return int(
        lake.query(f"SELECT count(*) AS rows FROM ({_pending()})", _tables_parameter(table))["rows"][
            0
        ].as_py()
    )


def retry(
    lake: Lake, *, now_ns: int, table: str | None = None, on_rows: Progress = lambda _: None
) -> RetryResult:
    """Validate the rows in quarantine again, and commit the valid ones.

    Args:
        lake: writable.
        now_ns: the current time.
        table: only rows of this table.
        on_rows: called with the number of rows after each chunk.
    """
    done = RetryResult()
    pending = lake.query(f"{_pending()} ORDER BY {', '.join(_KEY)}", _tables_parameter(table)).to_pylist()
    for name in dict.fromkeys(row["table_name"] for row in pending):
        of_table = [row for row in pending if row["table_name"] == name]
        for start in range(0, len(of_table), _CHUNK_ROWS):
            _retry_some(lake, CONTRACTS[name], of_table[start : start + _CHUNK_ROWS], now_ns, done)
            on_rows(min(_CHUNK_ROWS, len(of_table) - start))
    return done


def _retry_some(
    lake: Lake, contract: Contract, pending: Sequence[dict[str, Any]], now_ns: int, done: RetryResult
) -> None:
    read: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for item in pending:
        try:
            row = _parse(contract, item["raw"])
            pa.Table.from_pylist([row], schema=_nullable_schema(contract))
        except (ValueError, TypeError, pa.ArrowException) as error:
            done.leave(f"{contract.name}: no row can be read from it: {error}")
            continue
        read.append(item)
        rows.append(row)
    if not rows:
        return
    batch = pa.Table.from_pylist(rows, schema=_nullable_schema(contract))
    if contract is BARS and batch[AVAILABLE.name].null_count:  # quarantined by a release without this clock
        batch = with_available(batch, lake.history_lag_ns)
    valid, notes = [], []
    for number, reason in enumerate(_reasons(lake, contract, batch)):
        if reason:
            done.leave(f"{contract.name}: {reason}")
        else:
            valid.append(number)
            notes.append({name: read[number][name] for name in _KEY} | {"ts_knowable_ns": now_ns})
    if not valid:
        return
    accepted, decision = _stamp_history(lake, contract, batch.take(valid), now_ns)
    # The batch id is derived from the rows, so a repeated retry writes nothing twice.
    names = json.dumps([[note[name] for name in _KEY] for note in notes]).encode()
    commit = lake.commit(
        {contract.name: accepted, "retries": RETRIES.rows(notes)},
        batch_id=f"retry:{contract.name}:{hashlib.sha256(names).hexdigest()[:16]}",
        inputs={"quarantine": len(notes)} | decision,
    )
    done.committed[contract.name] = done.committed.get(contract.name, 0) + commit.rows.get(contract.name, 0)


def _stamp_history(
    lake: Lake, contract: Contract, rows: pa.Table, now_ns: int
) -> tuple[pa.Table, dict[str, object]]:
    """Return accepted rows, and the decision about those bars that are history: they arrive now."""
    if contract is not BARS:
        return rows, {}
    is_history = pc.is_in(rows["origin"], pa.array(HISTORY_ORIGINS))
    stamps = decide(lake.query, rows.filter(is_history), now_ns)
    at = rows.column_names.index("ts_knowable_ns")
    column = pc.if_else(is_history, stamps.apply(rows)[at], rows[at])
    return rows.set_column(at, rows.field(at), column), stamps.to_inputs()


def _reasons(lake: Lake, contract: Contract, batch: pa.Table) -> Iterator[str]:
    """Yield, for each row, why it is still rejected; empty if it is valid."""
    broken = failures_of(contract, batch)
    # A bar with other values becomes the next revision.
    clashes = [False] * batch.num_rows if contract.revises else lake.contradicts(contract, batch)
    for row, is_other in enumerate(clashes):
        yield broken.get(row, f"{contract.name} holds the same key with other values" if is_other else "")


def _pending() -> str:
    return f"FROM quarantine ANTI JOIN retries USING ({', '.join(_KEY)}) WHERE list_contains(?, table_name)"


def _tables_parameter(table: str | None) -> list[object]:
    if table is not None and table not in CONTRACTS:
        raise LakeError(f"there is no table {table!r}", hint=f"use one of: {', '.join(CONTRACTS)}")
    return [[table] if table else list(CONTRACTS)]


def _parse(contract: Contract, raw: bytes) -> dict[str, Any]:
    """Return a row from its JSON, without columns that no longer exist and with null for new ones."""
    plain = json.loads(raw)
    if not (isinstance(plain, dict) and set(contract.key) <= set(plain)):
        raise ValueError("it is a frame; replay its recording")
    row = {}
    for column in contract.columns:
        value: Any = plain.get(column.name)
        is_time = column.type == TS and isinstance(value, str)
        row[column.name] = datetime.fromisoformat(value) if is_time else value
    return row


def _nullable_schema(contract: Contract) -> pa.Schema:
    """Return the contract's schema with all columns nullable; validation checks nulls."""
    return pa.schema([pa.field(item.name, item.type) for item in contract.schema])
