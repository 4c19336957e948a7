"""Lineage of the lake's batches: the source of each, and whether it can be replayed.

A batch names its source (`batches.inputs`): a recording's frames, an archive's objects, a file. A recording that is in
the journal and was never committed is a source too. Of any other batch, or where the source is gone or incomplete, only
the rows themselves are left.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from ingest.backfill.rest.journaled_client import PREFIX
from ingest.journal.captures import content_id
from ingest.journal.format import hold_recording, segments
from ingest.journal.reader import read_batches
from ingest.journal.recording import CAPTURE, read_header
from storage.errors import JournalError, TickwalkError
from storage.lake.lake import Lake
from storage.lake.readable_files import readable
from storage.lake.snapshots import METADATA_TABLES, tables_at
from storage.settings import Settings

SourceKind = Literal["recording", "capture", "backfill", "bars of a backfill", "archive", "file", "other"]

# Rows without a source in the journal; that is normal.
_NO_SOURCE: Final = "no journal holds it: a command wrote it, or a night"
_BARS: Final = "candle bars:"
_FRAMES: Final = re.compile(r"(?:live|replay):(.+?):(\d+)-(\d+)(?::\w+)?")
_KINDS: Final[dict[str, SourceKind]] = {CAPTURE: "capture", PREFIX: "backfill"}
# Pins name snapshots of their own lake; see `ingest.replay.rebuild`.
_PINS: Final = frozenset({"pins"})


@dataclass(frozen=True, slots=True)
class BatchLineage:
    """One commit of the old lake."""

    batch_id: str
    inputs: Mapping[str, Any]
    rows: Mapping[str, int]
    ingested_ns: int


@dataclass(slots=True)
class LineageSource:
    """A source of rows, which can be replayed if `why_not` is empty.

    Args:
        kind: of source.
        name: the recording, or the batch.
        path: of the source, if it is one folder or file.
        batches: of the old lake that were made from it; none if it was never committed.
        began_ns: orders sources: time of the first commit, else of the first frame.
        size_bytes: to read.
        why_not: why it cannot be replayed, so that the old lake's rows are carried over.
        is_in_use: a recorder is writing it now.
    """

    kind: SourceKind
    name: str
    path: Path | None = None
    batches: list[BatchLineage] = field(default_factory=list)
    began_ns: int = 0
    size_bytes: int = 0
    why_not: str = ""
    is_in_use: bool = False

    @property
    def rows(self) -> int:
        """Rows of the old lake that were made from it."""
        return sum(sum(batch.rows.values()) for batch in self.batches)


def batches_of(lake: Lake) -> list[BatchLineage]:
    """Return the commits of a lake, oldest first; a commit that is no longer listed is inferred from its rows."""
    kept = readable(lake, "batches")
    rows = lake.query(f"SELECT batch_id, inputs, rows, ts_ingested_ns {kept.among()}").to_pylist()
    found = [
        BatchLineage(
            row["batch_id"], json.loads(row["inputs"]), json.loads(row["rows"]), row["ts_ingested_ns"]
        )
        for row in rows
    ]
    if kept.lost:
        found += _batches_of_rows(lake, {batch.batch_id for batch in found})
    return sorted(found, key=lambda batch: batch.ingested_ns)


def _batches_of_rows(lake: Lake, known: set[str]) -> list[BatchLineage]:
    """Infer unknown batches from their rows: tables, commit time, and the frames of a recording."""
    rows: dict[str, dict[str, int]] = {}
    ingested: dict[str, int] = {}
    for table in tables_at(lake, with_rows=True):
        if table in METADATA_TABLES and table not in _PINS:
            continue
        counted = lake.query(
            "SELECT batch, count(*) AS rows, min(ts_ingested_ns) AS first_ns"
            f" FROM {readable(lake, table).relation} GROUP BY batch"
        ).to_pylist()
        for row in counted:
            if row["batch"] not in known:
                rows.setdefault(row["batch"], {})[table] = row["rows"]
                ingested[row["batch"]] = min(row["first_ns"], ingested.get(row["batch"], row["first_ns"]))
    return [BatchLineage(name, _inputs_of(name), counts, ingested[name]) for name, counts in rows.items()]


def _inputs_of(batch_id: str) -> dict[str, Any]:
    """Return the inputs that a batch id names.

    >>> _inputs_of("live:monday:0-99")
    {'recording': 'monday', 'frames': [0, 99]}
    """
    found = _FRAMES.fullmatch(batch_id)
    return {"recording": found[1], "frames": [int(found[2]), int(found[3])]} if found else {}


def sources_of(
    lake: Lake, settings: Settings, *, on_bytes: Callable[[int], None] = lambda _: None
) -> list[LineageSource]:
    """Return all sources of a home's lake, in the order of their first commit.

    Args:
        lake: the old one.
        settings: the home, with its journal and its archive's objects.
        on_bytes: called with the number of journal bytes checked; see `journal_bytes`.
    """
    recordings = {folder.name: _recording(folder) for folder in _folders(settings)}
    others: list[LineageSource] = []
    for batch in batches_of(lake):
        if set(batch.rows) == _PINS:
            continue
        name = batch.inputs.get("recording")
        if name is None:
            others.append(_other(batch, settings))
            continue
        gone = LineageSource(_kind(name), name, why_not="its journal is not here")
        recordings.setdefault(name, gone).batches.append(batch)
    for source in recordings.values():
        if source.batches:
            source.began_ns = source.batches[0].ingested_ns
        if source.path is not None:
            source.why_not = source.why_not or _why_not(source, on_bytes)
    return sorted([*recordings.values(), *others], key=lambda source: source.began_ns)


def journal_bytes(settings: Settings) -> int:
    """Return the number of journal bytes that `sources_of` checks."""
    return sum(_size(folder) for folder in _folders(settings))


def _folders(settings: Settings) -> Iterator[Path]:
    for folder in sorted(settings.journal_dir.iterdir()) if settings.journal_dir.exists() else []:
        if folder.is_dir() and not folder.name.startswith(".") and segments(folder):
            yield folder


def _recording(folder: Path) -> LineageSource:
    source = LineageSource(_kind(folder.name), folder.name, folder, size_bytes=_size(folder))
    try:
        _, source.began_ns = read_header(folder)
    except (TickwalkError, ValueError) as error:
        source.why_not = f"its journal cannot be read: {error}"
    return source


def _kind(name: str) -> SourceKind:
    return next((kind for prefix, kind in _KINDS.items() if name.startswith(prefix)), "recording")


def _why_not(source: LineageSource, on_bytes: Callable[[int], None]) -> str:
    """Return why a recording cannot be replayed to all its rows, or an empty text if no frame is missing."""
    assert source.path is not None
    last = max((int(batch.inputs.get("frames", (0, -1))[1]) for batch in source.batches), default=-1)
    following = 0
    try:
        hold_recording(source.path).close()
        for batch in read_batches(source.path, on_bytes=on_bytes):
            if batch.first != following:
                break
            following += len(batch)
    except JournalError as error:
        source.is_in_use = "in use" in error.message
        return error.message
    if following <= last:
        return f"its journal lacks frame {following:,}, and the lake has frames up to {last:,}"
    return ""


def _other(batch: BatchLineage, settings: Settings) -> LineageSource:
    """Return the source of a batch that was not made from a recording."""
    source = LineageSource(
        "other", batch.batch_id, batches=[batch], began_ns=batch.ingested_ns, why_not=_NO_SOURCE
    )
    if batch.batch_id.startswith(_BARS):
        source.kind, source.why_not = "bars of a backfill", ""
    elif "objects" in batch.inputs:
        source.kind = "archive"
        paths = [settings.archive_dir / name.partition("://")[2] for name in batch.inputs["objects"]]
        gone = [path.name for path in paths if not path.exists()]
        source.why_not = f"{len(gone)} of its objects are not here, such as {gone[0]}" if gone else ""
        source.size_bytes = sum(path.stat().st_size for path in paths if path.exists())
    elif "file" in batch.inputs:
        source.kind = "file"
        source.path, source.why_not = _file(batch)
        source.size_bytes = source.path.stat().st_size if source.path and not source.why_not else 0
    return source


def _file(batch: BatchLineage) -> tuple[Path | None, str]:
    if "path" not in batch.inputs:
        return None, "where its file lay was not noted"
    path = Path(batch.inputs["path"])
    if not path.exists():
        return path, f"{path} is not there"
    return path, "" if content_id(path) == batch.inputs["sha256"] else f"{path} holds something else now"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in segments(folder))
