"""How does a lake stay small while others write and read: merging files, expiring snapshots, removing what is free?

None of it changes what a reader at a snapshot sees. Each step is alone with the catalog and then lets it go, so that
a recorder's commits come in between; each may be cut short, and doing it again does only what is left.

What is freed stays for `lake.grace_h`: a reader that began before still reads it. Snapshots expire by their numbers,
those that are held excepted, and both are looked up under the lock under which they expire.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final

from storage.clock import DAY_NS, NS
from storage.lake.lake import Lake
from storage.lake.snapshots import CATALOG, Step, held_snapshots, no_step, pins
from storage.logs import get_logger

logger = get_logger(__name__)

# A file of this size is left alone: merging it again each night would write the same rows for ever.
MERGE_BELOW_BYTES: Final = 64 * 1024 * 1024
# So many expire at a time: each such step took 0.1-0.4 s, in which no one can commit.
_EXPIRE_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class TableStatus:
    """One table at the newest snapshot.

    Args:
        table: its name.
        rows: in it.
        files, size_bytes: that hold them.
        small: of the files, those that merging would take.
    """

    table: str
    rows: int
    files: int
    size_bytes: int
    small: int


@dataclass(frozen=True, slots=True)
class LakeStatus:
    """What a lake holds, and what upkeep would gain.

    Args:
        tables: each table.
        snapshots: that can be read; `oldest` is the first, made at `oldest_ns`.
        pins: that hold now.
        expirable: snapshots that are old enough to expire and that nothing holds.
        freed: files that merging or expiry has freed; `removable` of them for longer than the grace.
    """

    tables: tuple[TableStatus, ...]
    snapshots: int
    oldest: int
    oldest_ns: int
    pins: int
    expirable: int
    freed: int
    removable: int


def status(lake: Lake, *, now_ns: int) -> LakeStatus:
    """Return what a lake holds, from its catalog alone: no row is read."""
    # Numbers are written into the statements: to bind a parameter, DuckDB imports pandas, a quarter of a second.
    free_before = _timestamp(grace_begins(lake, now_ns))
    tables = lake.query(
        f"""
        SELECT t.table_name AS table, CAST(coalesce(sum(f.record_count), 0) AS BIGINT) AS rows,
               count(f.data_file_id) AS files, CAST(coalesce(sum(f.file_size_bytes), 0) AS BIGINT) AS size_bytes,
               count(f.data_file_id) FILTER (WHERE f.file_size_bytes < {MERGE_BELOW_BYTES}) AS small
        FROM {CATALOG}.ducklake_table t
        LEFT JOIN {CATALOG}.ducklake_data_file f ON f.table_id = t.table_id AND f.end_snapshot IS NULL
        WHERE t.end_snapshot IS NULL GROUP BY ALL ORDER BY t.table_name
        """
    )
    snapshots = lake.query(
        "SELECT count(*) AS count, min(snapshot_id) AS oldest, epoch_us(min(snapshot_time)) AS made"
        " FROM lake.snapshots()"
    ).to_pylist()[0]
    freed = lake.query(
        f"SELECT count(*) AS freed, count(*) FILTER (WHERE CAST(schedule_start AS TIMESTAMPTZ) < {free_before})"
        f" AS removable FROM {CATALOG}.ducklake_files_scheduled_for_deletion"
    ).to_pylist()[0]
    return LakeStatus(
        tables=tuple(TableStatus(**row) for row in tables.to_pylist()),
        snapshots=snapshots["count"],
        oldest=snapshots["oldest"],
        oldest_ns=snapshots["made"] * 1000,
        pins=len(pins(lake)),
        expirable=len(expirable(lake, now_ns=now_ns)),
        **freed,
    )


def expirable(lake: Lake, *, now_ns: int) -> list[int]:
    """Return the snapshots that are older than `lake.keep_snapshots_days` and that nothing holds, oldest first.

    The newest never expires, whatever its age.
    """
    before_ns = now_ns - round(lake.settings.keep_snapshots_days * DAY_NS)
    found = lake.query(
        f"SELECT snapshot_id AS id FROM lake.snapshots() WHERE snapshot_time < {_timestamp(_moment(before_ns))}"
        " AND snapshot_id < (SELECT max(snapshot_id) FROM lake.snapshots()) ORDER BY id"
    )
    held = held_snapshots(lake)
    numbers: list[Any] = found["id"].to_pylist()
    return [number for number in numbers if number not in held]


def compact(lake: Lake, *, now_ns: int, on_step: Step = no_step) -> dict[str, tuple[int, int]]:
    """Merge small files table by table, then remove what has been free for long; no snapshot is lost by it.

    Args:
        lake: writable.
        now_ns: the present.
        on_step: is told each table that is done.

    Returns:
        Files merged, and files they became, by table; those where nothing was to do are left out.
    """
    merged: dict[str, tuple[int, int]] = {}
    for item in status(lake, now_ns=now_ns).tables:
        while item.small > 1:
            with lake.alone():
                # One output file a call: others may commit before the next.
                done = lake.call(
                    "SELECT coalesce(sum(files_processed), 0) AS taken, coalesce(sum(files_created), 0) AS made"
                    " FROM ducklake_merge_adjacent_files('lake', ?, max_compacted_files => 1, max_file_size => ?)",
                    [item.table, MERGE_BELOW_BYTES],
                ).to_pylist()[0]
            if not done["made"]:
                break
            taken, made = merged.get(item.table, (0, 0))
            merged[item.table] = (taken + int(done["taken"]), made + int(done["made"]))
        on_step(item.table)
    remove_freed(lake, now_ns=now_ns)
    logger.info("lake compacted", tables=len(merged), files=sum(taken for taken, _ in merged.values()))
    return merged


def expire(lake: Lake, *, now_ns: int, dry_run: bool = True, on_step: Step = no_step) -> list[int]:
    """Expire snapshots that are old and that nothing holds, then remove files that have been free for long.

    Args:
        lake: writable, unless `dry_run`.
        now_ns: the present.
        dry_run: only say which.
        on_step: is told the last number of each step of `expiry_steps`.

    Returns:
        The snapshots that expired, or would.
    """
    due = expirable(lake, now_ns=now_ns)
    if dry_run:
        return due
    gone: list[int] = []
    for some in _chunks(due):
        with lake.alone():
            # A pin that was set since: it is read under the lock that its own commit needs.
            held = held_snapshots(lake)
            versions = [number for number in some if number not in held]
            if versions:
                lake.call(f"CALL ducklake_expire_snapshots('lake', versions => {versions})")
        gone += versions
        on_step(f"snapshot {some[-1]}")
    remove_freed(lake, now_ns=now_ns)
    logger.info("snapshots expired", snapshots=len(gone))
    return gone


def expiry_steps(snapshots: int) -> int:
    """Return in how many steps so many snapshots expire."""
    return math.ceil(snapshots / _EXPIRE_AT_ONCE)


def remove_freed(lake: Lake, *, now_ns: int) -> int:
    """Remove the files that nothing has named for `lake.grace_h`; return how many."""
    with lake.alone():
        done = lake.call(
            "SELECT count(*) AS files FROM ducklake_cleanup_old_files('lake', older_than => ?)",
            [grace_begins(lake, now_ns)],
        )
    return int(done["files"][0].as_py())


def grace_begins(lake: Lake, now_ns: int) -> datetime:
    """Return the instant before which what is free may be removed."""
    return _moment(now_ns - round(lake.settings.grace_h * 3_600 * NS))


def _timestamp(at: datetime) -> str:
    """Return SQL for an instant, to the microsecond."""
    return f"make_timestamptz({(at - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)})"


def _moment(t_ns: int) -> datetime:
    return datetime.fromtimestamp(t_ns / NS, UTC)


def _chunks(numbers: list[int]) -> Iterator[list[int]]:
    rest = iter(numbers)
    while some := list(islice(rest, _EXPIRE_AT_ONCE)):
        yield some
