"""Integrity checks of a lake: files against the catalog, rows against batches and pins, and orphaned files.

A `kill -9` during a commit or a load leaves files that the catalog does not name. These orphans are harmless. Only
their age distinguishes them from the files of a running load, so they are removed after `lake.grace_h`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import pyarrow as pa

from storage.errors import LakeError
from storage.lake.history_migration import MIGRATION_BATCH
from storage.lake.lake import Lake
from storage.lake.maintenance import grace_cutoff
from storage.lake.readable_files import measure, readable
from storage.lake.schema_version import CATALOG
from storage.lake.snapshots import (
    ROWS_HASH,
    Pin,
    Step,
    has_pinned_rows,
    no_step,
    pins,
    snapshot_ids,
    tables_at,
)

Kind = Literal["missing", "damaged", "orphan", "batch", "pin"]

# Their rows are written when a lake is opened, or are the batches themselves.
_NO_BATCH: Final = frozenset({"batches", "migrations"})


@dataclass(frozen=True, slots=True)
class IntegrityFinding:
    """One problem.

    Args:
        kind: `missing` or `damaged` file, `orphan` (a file that the catalog does not name), `batch` with more or
            fewer rows than were committed, or `pin` whose rows changed or cannot be read.
        name: of the file, batch or pin.
        detail: what was found, and what was expected.
    """

    kind: Kind
    name: str
    detail: str


@dataclass(frozen=True, slots=True)
class IntegrityReport:
    """What was checked, and what was found.

    Args:
        files: number of files in the catalog, with `rows` rows.
        batches: number of batches whose rows were counted.
        pins: number of pins whose rows were read.
        findings: the problems, orphans included.
        removed: paths of the orphans that were removed.
    """

    files: int
    rows: int
    batches: int
    pins: int
    findings: tuple[IntegrityFinding, ...]
    removed: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing or changed; orphans do not count."""
        return all(item.kind == "orphan" for item in self.findings)


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    rows: int
    size_bytes: int


def verify(
    lake: Lake, *, now_ns: int, mend: bool = False, with_pins: bool = True, on_step: Step = no_step
) -> IntegrityReport:
    """Check every file, batch and pin of a lake.

    Args:
        lake: writable if `mend`.
        now_ns: the current time.
        mend: remove orphans that are older than `lake.grace_h`.
        with_pins: also read the rows of pinned snapshots, which takes longest.
        on_step: called after each of `verify_steps`.
    """
    with (
        lake.alone()
    ):  # no commit runs, so only a running load may still register a file that is not in the catalog
        named, other = _named(lake), _other_files(lake)
        existing = _on_disk(lake)
    on_step("files that are named")
    found = [item for file in named if (item := _check_file(lake, file)) is not None]
    on_step("files")
    orphans = sorted(existing - {file.path for file in named} - other)
    found += [IntegrityFinding("orphan", path, "no catalog entry names this file") for path in orphans]
    batches, mismatches = _compare_batches(lake, {item.name for item in found})
    found += mismatches
    on_step("batches")
    pinned = pins(lake) if with_pins else []
    readable = set(snapshot_ids(lake))
    for pin in pinned:
        if pin.snapshot not in readable:
            found.append(IntegrityFinding("pin", pin.name, f"snapshot {pin.snapshot} is no longer there"))
        elif pin.content.startswith(ROWS_HASH) and (flaw := _compare_rows(lake, pin)):
            found.append(IntegrityFinding("pin", pin.name, flaw))
        on_step(f"pin {pin.name}")
    removed = _remove_orphans(lake, orphans, now_ns) if mend and orphans else ()
    return IntegrityReport(
        len(named), sum(file.rows for file in named), batches, len(pinned), tuple(found), tuple(removed)
    )


def verify_steps(lake: Lake, *, with_pins: bool = True) -> int:
    """Return the number of steps of `verify`."""
    return 3 + (len(pins(lake)) if with_pins else 0)


def _named(lake: Lake) -> list[_File]:
    """Return the data files of all snapshots."""
    rows = lake.query(
        f"""
        SELECT s.path AS schema, s.path_is_relative AS below, t.path AS folder, t.path_is_relative AS inside,
               f.path AS file, f.path_is_relative AS within, f.record_count AS rows, f.file_size_bytes AS size_bytes
        FROM {CATALOG}.ducklake_data_file f
        JOIN {CATALOG}.ducklake_table t USING (table_id)
        JOIN {CATALOG}.ducklake_schema s USING (schema_id)
        """
    ).to_pylist()
    return [
        _File(
            _join(lake.data, (r["schema"], r["below"]), (r["folder"], r["inside"]), (r["file"], r["within"])),
            r["rows"],
            r["size_bytes"],
        )
        for r in rows
    ]


def _other_files(lake: Lake) -> set[str]:
    """Return the other files in the catalog: those scheduled for removal, and delete files."""
    waiting = lake.query(
        f"SELECT path, path_is_relative AS below FROM {CATALOG}.ducklake_files_scheduled_for_deletion"
    ).to_pylist()
    deletes = lake.query(
        f"""
        SELECT s.path AS schema, s.path_is_relative AS below, t.path AS folder, t.path_is_relative AS inside,
               f.path AS file, f.path_is_relative AS within
        FROM {CATALOG}.ducklake_delete_file f
        JOIN {CATALOG}.ducklake_table t USING (table_id)
        JOIN {CATALOG}.ducklake_schema s USING (schema_id)
        """
    ).to_pylist()
    return {_join(lake.data, (row["path"], row["below"])) for row in waiting} | {
        _join(lake.data, (r["schema"], r["below"]), (r["folder"], r["inside"]), (r["file"], r["within"]))
        for r in deletes
    }


def _join(base: str, *parts: tuple[str, object]) -> str:
    for path, is_relative in parts:
        base = f"{base.rstrip('/')}/{path}" if is_relative else path
    return base if "://" in base else str(Path(base).absolute())


def _on_disk(lake: Lake) -> set[str]:
    if "://" in lake.data:
        found = lake.query("SELECT file FROM glob(?)", [f"{lake.data.rstrip('/')}/**/*.parquet"])
        return {str(path) for path in found["file"].to_pylist()}
    # Not by DuckDB's glob, as the path of a home may contain its special characters.
    return {str(path.absolute()) for path in Path(lake.data).rglob("*.parquet")}


def _check_file(lake: Lake, file: _File) -> IntegrityFinding | None:
    """Return the problem of a file, if any: missing, unreadable, or with another number of rows or bytes."""
    try:
        rows, size_bytes = measure(lake, file.path)
    except FileNotFoundError:
        # It was merged and removed since the catalog was read, or it is really missing.
        is_named = any(other.path == file.path for other in _named(lake))
        return (
            IntegrityFinding("missing", file.path, f"its {file.rows:,} rows are gone") if is_named else None
        )
    except (OSError, pa.ArrowException, LakeError) as error:
        return IntegrityFinding("damaged", file.path, f"it cannot be read: {error}")
    if rows != file.rows:
        return IntegrityFinding("damaged", file.path, f"it has {rows:,} rows, and {file.rows:,} were written")
    if size_bytes is not None and size_bytes != file.size_bytes:
        return IntegrityFinding(
            "damaged", file.path, f"it has {size_bytes:,} bytes, and {file.size_bytes:,} were written"
        )
    return None


def _compare_batches(lake: Lake, lost: Collection[str]) -> tuple[int, list[IntegrityFinding]]:
    """Return the number of batches, and those with more or fewer rows than were written; lost files are left out."""
    found: list[IntegrityFinding] = []

    def relation(table: str) -> str:
        return readable(lake, table, lost=lost).relation if lost else table

    batches = relation("batches")
    names = lake.query(f"SELECT DISTINCT unnest(json_keys(rows)) AS name FROM {batches}")["name"].to_pylist()
    # In any other table, no rows were written and none exist.
    compared = {*names, *tables_at(lake, with_rows=True)}
    for table in tables_at(lake):
        if table in _NO_BATCH or table not in compared:
            continue
        rows_of = relation(table)
        rows = lake.query(
            f"""
            WITH said AS (SELECT batch_id, coalesce(CAST(rows->>'$.{table}' AS BIGINT), 0) AS said FROM {batches}),
                 held AS (SELECT batch AS batch_id, count(*) AS held FROM {rows_of}
                          WHERE batch <> '{MIGRATION_BATCH}' GROUP BY batch)
            SELECT batch_id, coalesce(said, 0) AS said, coalesce(held, 0) AS held
            FROM said FULL JOIN held USING (batch_id)
            WHERE coalesce(said, 0) <> coalesce(held, 0) ORDER BY batch_id
            """
        )
        found += [
            IntegrityFinding(
                "batch",
                row["batch_id"],
                f"{table} holds {row['held']:,} of its rows, and {row['said']:,} were written",
            )
            for row in rows.to_pylist()
        ]
    return int(lake.query(f"SELECT count(*) AS rows FROM {batches}")["rows"][0].as_py()), found


def _compare_rows(lake: Lake, pin: Pin) -> str:
    """Return the problem of the rows of a pinned snapshot, or an empty text."""
    try:
        is_same = has_pinned_rows(lake, pin.snapshot, pin.content)
    except LakeError as error:
        return f"the rows of snapshot {pin.snapshot} cannot be read: {error.message}"
    return "" if is_same else f"the rows of snapshot {pin.snapshot} read otherwise"


def _remove_orphans(lake: Lake, orphans: Sequence[str], now_ns: int) -> list[str]:
    """Remove orphans that are old enough, and return them.

    Raises:
        LakeError: DuckLake would remove a file that the catalog names (as in ducklake#815).
    """
    before = grace_cutoff(lake, now_ns)
    sweep = "SELECT path FROM ducklake_delete_orphaned_files('lake', dry_run => {}, older_than => ?)"
    with lake.alone():
        listed = {
            _join("", (str(path), False))
            for path in lake.call(sweep.format("true"), [before])["path"].to_pylist()
        }
        if wrong := listed - set(orphans):
            raise LakeError(
                f"{len(wrong)} files would be removed that are no orphans, such as {sorted(wrong)[0]}",
                hint="nothing was removed; run tickwalk lake verify again when no one writes",
            )
        lake.call(sweep.format("false"), [before])
    return sorted(listed)
