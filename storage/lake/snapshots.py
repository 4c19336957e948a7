"""What did the lake hold at a snapshot, what came between two of them, and which of them must stay?

A snapshot stays for ever while a pin holds it or the ledger of versions names it. What a pin covers is told by a hash
of the rows themselves, without the stamps of when they were written: so a lake that was built anew, whose snapshots
have other numbers, can be compared with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from storage.contracts.contract import STAMPS
from storage.contracts.tables import CONTRACTS, PINS
from storage.errors import LakeError
from storage.lake.lake import Lake

CATALOG: Final = "__ducklake_metadata_lake"
"""The catalog's own tables, as the extension attaches them: read through the same library that writes them."""
ROWS_HASH: Final = "rows:"
# What a lake notes about itself; one that was built anew says otherwise.
NOTES: Final = frozenset({"batches", "pins", "migrations"})

# A version that was carried over from the lake before names a snapshot of that one; its night's pin was set anew.
_VERSIONS: Final = """
    SELECT DISTINCT v.version, v.inputs FROM versions v ANTI JOIN (
        FROM batches WHERE json_extract_string(inputs, '$.carried') = 'true'
    ) c ON v.batch = c.batch_id
    ORDER BY v.version
"""

Step = Callable[[str], None]


def no_step(_: str) -> None:
    """Show no progress."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A snapshot that is held.

    Args:
        name: the pin's, such as a night's id.
        snapshot: what it holds.
        content: hash of the rows it covers, see `rows_hash`; a night's own hash of its panel otherwise.
    """

    name: str
    snapshot: int
    content: str


@dataclass(frozen=True, slots=True)
class AddedRows:
    """What came into a table between two snapshots: `rows` before there were `before`."""

    table: str
    before: int
    rows: int


def snapshot_ids(lake: Lake) -> list[int]:
    """Return the numbers of the snapshots that can be read, oldest first."""
    found = lake.query(f"SELECT snapshot_id AS id FROM {CATALOG}.ducklake_snapshot ORDER BY id")
    numbers: list[Any] = found["id"].to_pylist()
    return [int(number) for number in numbers]


def list_snapshots(lake: Lake, *, limit: int) -> pa.Table:
    """Return the newest snapshots, newest first: when, by which batch, and what holds them."""
    rows = lake.query(
        "SELECT snapshot_id AS snapshot, date_trunc('second', snapshot_time) AS made, commit_message AS batch "
        "FROM lake.snapshots() ORDER BY snapshot_id DESC LIMIT ?",
        [limit],
    )
    holders = held_snapshots(lake)
    numbers: list[Any] = rows["snapshot"].to_pylist()
    held_by = [", ".join(holders.get(number, ())) for number in numbers]
    return rows.append_column("held_by", pa.array(held_by, pa.string()))


def pins(lake: Lake) -> list[Pin]:
    """Return the pins that hold now, by name."""
    rows = lake.query("SELECT pin, snapshot, content FROM pins_held ORDER BY pin, snapshot")
    return [Pin(*row.values()) for row in rows.to_pylist()]


def held_snapshots(lake: Lake) -> dict[int, tuple[str, ...]]:
    """Return the snapshots that must stay, with who holds them: pins, and versions of the ledger."""
    holders: dict[int, list[str]] = {}
    for item in pins(lake):
        holders.setdefault(item.snapshot, []).append(item.name)
    for row in lake.query(_VERSIONS).to_pylist():
        snapshot = json.loads(row["inputs"]).get("snapshot")
        if snapshot is not None:
            holders.setdefault(int(snapshot), []).append(f"version {row['version']}")
    return {snapshot: tuple(names) for snapshot, names in holders.items()}


def pin(lake: Lake, name: str, *, now_ns: int, snapshot: int | None = None, on_step: Step = no_step) -> Pin:
    """Hold a snapshot for ever, under a name; holding it again changes nothing.

    Args:
        lake: writable.
        name: of the pin.
        now_ns: the present.
        snapshot: the newest by default.
        on_step: is told each table whose rows have been read.

    Raises:
        LakeError: the name holds another snapshot, or the snapshot has expired.
    """
    at = lake.snapshot() if snapshot is None else snapshot
    for held in pins(lake):
        if held.name == name and held.snapshot == at:
            return held
        if held.name == name:
            raise LakeError(
                f"the pin {name!r} holds snapshot {held.snapshot}, and a name holds one",
                hint=f"take another name, or let it go first: tickwalk lake unpin {name}",
            )
    if at not in snapshot_ids(lake):
        raise LakeError(
            f"snapshot {at} does not exist or has expired",
            hint="list what is there with: tickwalk lake snapshots",
        )
    made = Pin(name, at, rows_hash(lake, at, on_step=on_step))
    _write(lake, [made], "pinned", now_ns)
    if at not in snapshot_ids(lake):  # it expired while its rows were read; from the commit on that cannot be
        _write(lake, [made], "unpinned", now_ns + 1)
        raise LakeError(
            f"snapshot {at} expired while it was being pinned",
            hint="list what is there with: tickwalk lake snapshots",
        )
    return made


def unpin(lake: Lake, name: str, *, now_ns: int) -> list[Pin]:
    """Let go what a pin holds, by one more row each; return it.

    Raises:
        LakeError: there is no such pin.
    """
    gone = [held for held in pins(lake) if held.name == name]
    if not gone:
        raise LakeError(
            f"there is no pin {name!r}", hint='list them with: tickwalk sql "FROM pins_held ORDER BY pin"'
        )
    _write(lake, gone, "unpinned", now_ns)
    return gone


def _write(lake: Lake, items: list[Pin], event: str, now_ns: int) -> None:
    rows = [
        {
            "pin": item.name,
            "snapshot": item.snapshot,
            "content": item.content,
            "event": event,
            "ts_knowable_ns": now_ns,
        }
        for item in items
    ]
    lake.commit({"pins": PINS.rows(rows)}, batch_id=f"{event}:{items[0].name}:{now_ns}")


def tables_at(lake: Lake, at: int | None = None, *, with_rows: bool = False) -> list[str]:
    """Return our tables that a snapshot holds, in the order of the contracts; only those with rows, if asked."""
    # From the catalog: duckdb_tables() would read every snapshot that is attached, also one that has expired.
    found = lake.query(
        f"""
        SELECT table_name AS name FROM {CATALOG}.ducklake_table t
        WHERE begin_snapshot <= $1 AND ($1 < end_snapshot OR end_snapshot IS NULL)
          AND (NOT $2 OR EXISTS (FROM {CATALOG}.ducklake_data_file f WHERE f.table_id = t.table_id
                                 AND f.begin_snapshot <= $1))
        """,
        [lake.snapshot() if at is None else at, with_rows],
    )
    held = set(found["name"].to_pylist())
    return [name for name in CONTRACTS if name in held]


def rows_hash(lake: Lake, at: int, *, on_step: Step = no_step) -> str:
    """Return a hash of all rows of a snapshot, whatever order and files they lie in.

    Each row is hashed (MD5 of it as JSON), and the hashes are added: the sum of equal rows is equal in any order,
    and no table need be sorted. It tells decay and mistakes, and is no proof against someone who forges rows.
    """
    stamps = ", ".join(field.name for field in STAMPS)
    facts = []
    for name in tables_at(lake, at, with_rows=True):
        if name not in NOTES:
            row = lake.query(
                f"WITH told AS (SELECT * EXCLUDE ({stamps}) FROM {name}),"
                " texts AS (SELECT CAST(to_json(told) AS VARCHAR) AS text FROM told)"
                " SELECT count(*) AS rows, CAST(coalesce(sum(md5_number_lower(text)), 0) AS VARCHAR) AS low,"
                " CAST(coalesce(sum(md5_number_upper(text)), 0) AS VARCHAR) AS high FROM texts",
                at=at,
            ).to_pylist()[0]
            facts.append([name, row["rows"], row["low"], row["high"]])
        on_step(name)
    return ROWS_HASH + hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def rows_by_table(lake: Lake, at: int) -> dict[str, int]:
    """Return how many rows each table of a snapshot has."""
    counts = dict.fromkeys(tables_at(lake, at), 0)
    for name in tables_at(lake, at, with_rows=True):
        counts[name] = int(lake.query(f"SELECT count(*) AS rows FROM {name}", at=at)["rows"][0].as_py())
    return counts


def diff(lake: Lake, first: int, second: int) -> list[AddedRows]:
    """Return what came into each table after one snapshot and up to another; rows are only ever added.

    Raises:
        LakeError: a snapshot does not exist, or they are given in the wrong order.
    """
    if first > second:
        raise LakeError(
            f"snapshot {first} is newer than {second}", hint=f"ask: tickwalk lake diff {second} {first}"
        )
    before: Mapping[str, int] = rows_by_table(lake, first)
    after = rows_by_table(lake, second)
    return [AddedRows(name, before.get(name, 0), rows - before.get(name, 0)) for name, rows in after.items()]


def diff_rows(lake: Lake, first: int, second: int, table: str) -> pa.Table:
    """Return the rows that came into a table between two snapshots, in the order of its key.

    Raises:
        LakeError: there is no such table, or a snapshot does not exist.
    """
    if table not in CONTRACTS:
        raise LakeError(f"there is no table {table!r}", hint=f"use one of: {', '.join(CONTRACTS)}")
    diff(lake, first, second)  # checks both
    # Batches, and not the extension's table_insertions: its first snapshot may have expired since.
    known = lake.query("SELECT batch_id FROM batches", at=first)["batch_id"].to_pylist()
    order = ", ".join(CONTRACTS[table].key)
    return lake.query(
        f"SELECT * FROM {table} WHERE batch NOT IN (SELECT unnest(?)) ORDER BY {order}",
        [known],
        at=second,
    )
