"""Snapshots and pins: list, compare, pin and unpin.

A snapshot never expires while it is pinned or named in the ledger of model versions. A pin stores a hash of the rows
without their stamps, so it can be compared with a rebuilt lake, whose snapshot numbers differ.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from storage.contracts.lake_records import PINS
from storage.contracts.tables import CONTRACTS
from storage.errors import LakeError
from storage.lake.connection import machine_time_zone, quoted
from storage.lake.lake import Lake
from storage.lake.schema_version import CATALOG

ROWS_HASH: Final = "rows:"
# Tables about the lake itself, which differ in a rebuilt lake.
METADATA_TABLES: Final = frozenset({"batches", "pins", "migrations"})

# A version carried over from a replaced lake names a snapshot of that lake; its night was pinned again.
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
    """A pinned snapshot.

    Args:
        name: of the pin, such as a night's id.
        snapshot: its number.
        content: hash of the rows (see `rows_hash`), or for a night the hash of its panel.
    """

    name: str
    snapshot: int
    content: str


@dataclass(frozen=True, slots=True)
class AddedRows:
    """Rows added to a table between two snapshots, and the number of rows before."""

    table: str
    before: int
    rows: int


def snapshot_ids(lake: Lake) -> list[int]:
    """Return the numbers of the readable snapshots, oldest first."""
    found = lake.query(f"SELECT snapshot_id AS id FROM {CATALOG}.ducklake_snapshot ORDER BY id")
    numbers: list[Any] = found["id"].to_pylist()
    return [int(number) for number in numbers]


def list_snapshots(lake: Lake, *, limit: int) -> pa.Table:
    """Return the newest snapshots, newest first: time, batch, and the pins and versions that keep them."""
    rows = lake.query(
        "SELECT snapshot_id AS snapshot, date_trunc('second', snapshot_time) AS made, commit_message AS batch "
        "FROM lake.snapshots() ORDER BY snapshot_id DESC LIMIT ?",
        [limit],
    )
    holders = kept_snapshots(lake)
    numbers: list[Any] = rows["snapshot"].to_pylist()
    held_by = [", ".join(holders.get(number, ())) for number in numbers]
    return rows.append_column("held_by", pa.array(held_by, pa.string()))


def pins(lake: Lake) -> list[Pin]:
    """Return the current pins, by name."""
    rows = lake.query("SELECT pin, snapshot, content FROM pins_held ORDER BY pin, snapshot")
    return [Pin(*row.values()) for row in rows.to_pylist()]


def kept_snapshots(lake: Lake) -> dict[int, tuple[str, ...]]:
    """Return the snapshots that must not expire, with the pins and model versions that keep them."""
    holders: dict[int, list[str]] = {}
    for item in pins(lake):
        holders.setdefault(item.snapshot, []).append(item.name)
    for row in lake.query(_VERSIONS).to_pylist():
        snapshot = json.loads(row["inputs"]).get("snapshot")
        if snapshot is not None:
            holders.setdefault(int(snapshot), []).append(f"version {row['version']}")
    return {snapshot: tuple(names) for snapshot, names in holders.items()}


def pin(lake: Lake, name: str, *, now_ns: int, snapshot: int | None = None, on_step: Step = no_step) -> Pin:
    """Pin a snapshot under a name, so that it never expires; repeating it changes nothing.

    Args:
        lake: writable.
        name: of the pin.
        now_ns: the current time.
        snapshot: to pin (default: newest).
        on_step: called with the name of each table after its rows were read.

    Raises:
        LakeError: the name is used for another snapshot, or the snapshot has expired.
    """
    at = lake.snapshot() if snapshot is None else snapshot
    for existing in pins(lake):
        if existing.name == name and existing.snapshot == at:
            return existing
        if existing.name == name:
            raise LakeError(
                f"the pin {name!r} holds snapshot {existing.snapshot}, and a name holds one",
                hint=f"use another name, or first run: tickwalk lake unpin {name}",
            )
    if at not in snapshot_ids(lake):
        raise LakeError(
            f"snapshot {at} does not exist or has expired",
            hint="list what is there with: tickwalk lake snapshots",
        )
    made = Pin(name, at, rows_hash(lake, at, on_step=on_step))
    _write(lake, [made], "pinned", now_ns)
    if at not in snapshot_ids(lake):  # it expired while its rows were read; once pinned it cannot
        _write(lake, [made], "unpinned", now_ns + 1)
        raise LakeError(
            f"snapshot {at} expired while it was being pinned",
            hint="list what is there with: tickwalk lake snapshots",
        )
    return made


def unpin(lake: Lake, name: str, *, now_ns: int) -> list[Pin]:
    """Unpin the snapshots of a name by appending `unpinned` events, and return them.

    Raises:
        LakeError: there is no such pin.
    """
    removed = [item for item in pins(lake) if item.name == name]
    if not removed:
        raise LakeError(
            f"there is no pin {name!r}", hint='list them with: tickwalk sql "FROM pins_held ORDER BY pin"'
        )
    _write(lake, removed, "unpinned", now_ns)
    return removed


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
    """Return the names of the tables of a snapshot, in the order of the contracts; `with_rows` skips empty ones."""
    # From the catalog: duckdb_tables() would read every attached snapshot, even one that has expired.
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


def has_pinned_rows(lake: Lake, at: int, content: str) -> bool:
    """Return whether the rows of a snapshot have the hash of a pin.

    Earlier states of release 0.1.0 wrote the times of rows in the time zone of the machine before they hashed them, so
    a pin that does not match may be one that was made in this machine's zone.
    """
    if rows_hash(lake, at) == content:
        return True
    zone = machine_time_zone()
    return zone != "UTC" and rows_hash(lake, at, time_zone=zone) == content


def rows_hash(lake: Lake, at: int, *, on_step: Step = no_step, time_zone: str = "UTC") -> str:
    """Return a hash of all rows of a snapshot, independent of their order and files.

    Each row is hashed (MD5 of its JSON), and the hashes are added, so that no table has to be sorted. The hash reveals
    damage and mistakes; it is no protection against forgery.

    Args:
        lake: to read.
        at: the snapshot.
        on_step: called with the name of each table after its rows were read.
        time_zone: of the times in the JSON; another than UTC is only for pins of earlier states.
    """
    facts = []
    for name in tables_at(lake, at, with_rows=True):
        if name not in METADATA_TABLES:
            row = lake.query(
                f"SET TimeZone = {quoted(time_zone)};"  # for this query's session alone
                f" WITH data AS (SELECT COLUMNS(name -> NOT list_contains({_unhashed(name)}, name)) FROM {name}),"
                " texts AS (SELECT CAST(to_json(data) AS VARCHAR) AS text FROM data)"
                " SELECT count(*) AS rows, CAST(coalesce(sum(md5_number_lower(text)), 0) AS VARCHAR) AS low,"
                " CAST(coalesce(sum(md5_number_upper(text)), 0) AS VARCHAR) AS high FROM texts",
                at=at,
                as_stored=True,
            ).to_pylist()[0]
            facts.append([name, row["rows"], row["low"], row["high"]])
        on_step(name)
    return ROWS_HASH + hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _unhashed(table: str) -> list[str]:
    """Return the columns that a pin does not cover: the stamps, and what follows from other columns.

    `ts_available_ns` does, and lakes of older releases lack it: with it, no pin of theirs would read the same in a
    rebuilt lake.
    """
    return [*(field.name for field in CONTRACTS[table].stamps), "ts_available_ns"]


def rows_by_table(lake: Lake, at: int) -> dict[str, int]:
    """Return the number of rows of each table of a snapshot."""
    counts = dict.fromkeys(tables_at(lake, at), 0)
    for name in tables_at(lake, at, with_rows=True):
        counts[name] = int(lake.query(f"SELECT count(*) AS rows FROM {name}", at=at)["rows"][0].as_py())
    return counts


def diff(lake: Lake, first: int, second: int) -> list[AddedRows]:
    """Return the rows added to each table between two snapshots; rows are never removed.

    Raises:
        LakeError: a snapshot does not exist, or they are in the wrong order.
    """
    if first > second:
        raise LakeError(
            f"snapshot {first} is newer than {second}", hint=f"ask: tickwalk lake diff {second} {first}"
        )
    before: Mapping[str, int] = rows_by_table(lake, first)
    after = rows_by_table(lake, second)
    return [AddedRows(name, before.get(name, 0), rows - before.get(name, 0)) for name, rows in after.items()]


def diff_rows(lake: Lake, first: int, second: int, table: str) -> pa.Table:
    """Return the rows added to a table between two snapshots, in the order of its key.

    Raises:
        LakeError: there is no such table, or a snapshot does not exist.
    """
    if table not in CONTRACTS:
        raise LakeError(f"there is no table {table!r}", hint=f"use one of: {', '.join(CONTRACTS)}")
    diff(lake, first, second)  # raises for invalid snapshots
    # By batch, because DuckLake's table_insertions needs all snapshots in between, and some may have expired.
    known = lake.query("SELECT batch_id FROM batches", at=first)["batch_id"].to_pylist()
    order = ", ".join(CONTRACTS[table].key)
    return lake.query(
        f"SELECT * FROM {table} WHERE batch NOT IN (SELECT unnest(?)) ORDER BY {order}",
        [known],
        at=second,
    )
