"""Maintenance of a lake in use: merge small files, expire snapshots, remove unused files.

Maintenance never changes what a reader of a snapshot sees. Each step locks the catalog only for itself, so that a
recorder can commit in between. A step may be interrupted; the next run does what is left.

Unused files stay for `lake.grace_h`, because an earlier reader may still need them. Snapshots that are pinned or named
by a model version do not expire; this is checked under the lock under which the others expire.
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
from storage.lake.schema_version import CATALOG
from storage.lake.snapshots import Step, kept_snapshots, no_step, pins
from storage.logs import get_logger

logger = get_logger(__name__)

# Larger files are not merged, or each night would rewrite the same rows.
MERGE_BELOW_BYTES: Final = 64 * 1024 * 1024
# Snapshots that expire per step; a step took 0.1-0.4 s, during which no one can commit.
_EXPIRE_PER_STEP: Final = 500


@dataclass(frozen=True, slots=True)
class TableStatus:
    """Size of a table at the newest snapshot.

    Args:
        table: its name.
        rows: number of rows.
        files, size_bytes: number and total size of its files.
        small: number of files that merging would combine.
    """

    table: str
    rows: int
    files: int
    size_bytes: int
    small: int


@dataclass(frozen=True, slots=True)
class LakeStatus:
    """Size of a lake, and what maintenance would remove.

    Args:
        tables: size of each table.
        snapshots: number of readable snapshots; `oldest` is the first, made at `oldest_ns`.
        pins: number of current pins.
        expirable: number of snapshots that are old enough to expire and not kept.
        freed: number of unused files; `removable` of them for longer than the grace period.
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
    free_before = _timestamp(grace_cutoff(lake, now_ns))
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
    """Return the snapshots older than `lake.keep_snapshots_days` that nothing keeps, oldest first.

    The newest snapshot never expires.
    """
    before_ns = now_ns - round(lake.settings.keep_snapshots_days * DAY_NS)
    found = lake.query(
        f"SELECT snapshot_id AS id FROM lake.snapshots() WHERE snapshot_time < {_timestamp(_moment(before_ns))}"
        " AND snapshot_id < (SELECT max(snapshot_id) FROM lake.snapshots()) ORDER BY id"
    )
    kept = kept_snapshots(lake)
    numbers: list[Any] = found["id"].to_pylist()
    return [number for number in numbers if number not in kept]


def compact(lake: Lake, *, now_ns: int, on_step: Step = no_step) -> dict[str, tuple[int, int]]:
    """Merge small files table by table, then remove unused files after their grace period; no snapshot is lost.

    Args:
        lake: writable.
        now_ns: the current time.
        on_step: called with the name of each finished table.

    Returns:
        Number of files merged, and of files made of them, by table; tables without merges are left out.
    """
    merged: dict[str, tuple[int, int]] = {}
    for item in status(lake, now_ns=now_ns).tables:
        while item.small > 1:
            with lake.alone():
                # One output file per call, so that others may commit before the next.
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
    """Expire old snapshots that nothing keeps, then remove unused files after their grace period.

    Args:
        lake: writable, unless `dry_run`.
        now_ns: the current time.
        dry_run: return the snapshots without expiring them.
        on_step: called after each of `expiry_steps` with its last snapshot.

    Returns:
        The snapshots that expired, or would expire.
    """
    due = expirable(lake, now_ns=now_ns)
    if dry_run:
        return due
    expired: list[int] = []
    for chunk in _chunks(due):
        with lake.alone():
            # Read again under the lock that a new pin needs, so that no pin is missed.
            kept = kept_snapshots(lake)
            versions = [number for number in chunk if number not in kept]
            if versions:
                lake.call(f"CALL ducklake_expire_snapshots('lake', versions => {versions})")
        expired += versions
        on_step(f"snapshot {chunk[-1]}")
    remove_freed(lake, now_ns=now_ns)
    logger.info("snapshots expired", snapshots=len(expired))
    return expired


def expiry_steps(snapshots: int) -> int:
    """Return the number of steps in which that many snapshots expire."""
    return math.ceil(snapshots / _EXPIRE_PER_STEP)


def remove_freed(lake: Lake, *, now_ns: int) -> int:
    """Remove the files that have been unused for `lake.grace_h`; return how many."""
    with lake.alone():
        done = lake.call(
            "SELECT count(*) AS files FROM ducklake_cleanup_old_files('lake', older_than => ?)",
            [grace_cutoff(lake, now_ns)],
        )
    return int(done["files"][0].as_py())


def grace_cutoff(lake: Lake, now_ns: int) -> datetime:
    """Return the instant before which a file must have become unused to be removed."""
    return _moment(now_ns - round(lake.settings.grace_h * 3_600 * NS))


def _timestamp(at: datetime) -> str:
    """Return SQL for an instant, to the microsecond."""
    return f"make_timestamptz({(at - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)})"


def _moment(t_ns: int) -> datetime:
    return datetime.fromtimestamp(t_ns / NS, UTC)


def _chunks(numbers: list[int]) -> Iterator[list[int]]:
    rest = iter(numbers)
    while chunk := list(islice(rest, _EXPIRE_PER_STEP)):
        yield chunk
