"""Retention of the journal: copies of sealed segments elsewhere, and removal of old recordings.

A segment is sealed when a later one exists or its recording is sealed; only sealed segments are copied. A recording
is removed from this disk when all of these hold: it is sealed and older than `keep.journal_days`; no process records
or replays it; the lake has its last frame; and, where `keep.copy_to` is set, the copy of every segment was just read
back and is identical. Removals are listed in `journal/removed.ndjson`. Journals made from captures are left alone.

A pass may be interrupted anywhere and is simply run again: copies appear whole or not at all, and a recording is
renamed before its files are deleted, so that a half recording is never taken for a whole one.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from ingest.concurrency import run_in_daemon_thread
from ingest.journal.backup_store import BackupStore, open_store
from ingest.journal.format import hold_recording, segments
from ingest.journal.reader import read_journal
from ingest.journal.recording import CAPTURE, SEALED
from storage.atomic_write import write_atomic
from storage.clock import DAY_NS, TimeSource, WallTime, iso
from storage.errors import JournalError, LakeError
from storage.file_lock import file_lock
from storage.logs import get_logger
from storage.object_store import FileContent, content_of
from storage.settings import Settings
from storage.system_calls import sync_file

logger = get_logger(__name__)

COPIED: Final = "copied.json"
REMOVED: Final = "removed.ndjson"
_LOCK: Final = ".keep.lock"
_REMOVING: Final = ".leaving-"

_LAST_FRAME: Final = """
    SELECT max(CAST(json_extract(inputs, '$.frames[1]') AS BIGINT)) AS frame
    FROM batches WHERE json_extract_string(inputs, '$.recording') = ?
"""

LastFrame = Callable[[str], int | None]
"""Returns the number of the last frame of a recording in the lake, or None."""


@dataclass(frozen=True, slots=True)
class StoredRecording:
    """One recording on this disk.

    Args:
        name: of its folder.
        sealed: segments that are complete.
        open: the newest segment of a recording that is not sealed, or none.
        copied: names of the sealed segments known to be copied.
        ended_ns: when its newest segment was last written.
    """

    name: str
    is_sealed: bool
    sealed: tuple[Path, ...]
    open: tuple[Path, ...]
    copied: frozenset[str]
    ended_ns: int

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments."""
        return sum(_size(path) for path in (*self.sealed, *self.open))

    @property
    def waiting(self) -> tuple[Path, ...]:
        """Sealed segments that are not copied yet."""
        return tuple(path for path in self.sealed if path.name not in self.copied)


@dataclass(slots=True)
class RetentionResult:
    """Copies and removals of one pass, and failures by recording, with the reason."""

    copied: int = 0
    copied_bytes: int = 0
    removed: list[str] = field(default_factory=list)
    removed_bytes: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def stored_recordings(settings: Settings) -> list[StoredRecording]:
    """Return the recordings of a home, oldest name first."""
    found = []
    for folder in sorted(settings.journal_dir.iterdir()) if settings.journal_dir.exists() else []:
        paths = segments(folder) if folder.is_dir() and not folder.name.startswith((CAPTURE, ".")) else []
        if not paths:
            continue
        is_sealed = (folder / SEALED).exists()
        copied = frozenset(_read_copied(folder, settings.keep.copy_to))
        # Marks and notes in the folder are younger than the data, so the segments decide the age.
        ended_ns = max(path.stat().st_mtime_ns for path in paths)
        cut = len(paths) if is_sealed else len(paths) - 1
        found.append(
            StoredRecording(folder.name, is_sealed, tuple(paths[:cut]), tuple(paths[cut:]), copied, ended_ns)
        )
    return found


def apply_retention(
    settings: Settings,
    *,
    now_ns: int,
    last_frame: LastFrame | None = None,
    store: BackupStore | None = None,
) -> RetentionResult:
    """Run one pass: copy sealed segments, then remove old recordings that are safe.

    Args:
        settings: home and section `keep`.
        now_ns: the present, for ages.
        last_frame: queries the lake (default: the lake of the home).
        store: for the copies (default: by `keep.copy_to`).

    Raises:
        JournalError: another process runs a pass.
    """
    result = RetentionResult()
    with _single_pass(settings.journal_dir):
        for leftover in settings.journal_dir.glob(f"{_REMOVING}*"):
            shutil.rmtree(leftover)  # the last pass was interrupted here; all was checked before the rename
        if settings.keep.copy_to:
            store = store or open_store(settings.keep.copy_to)
            for recording in stored_recordings(settings):
                try:
                    _copy(settings, recording, store, result)
                except JournalError as error:
                    result.failed[recording.name] = error.message
        if settings.keep.journal_days:
            for recording in stored_recordings(settings):
                if now_ns - recording.ended_ns > settings.keep.journal_days * DAY_NS:
                    _remove_if_safe(
                        settings, recording, store, last_frame or _lake_query(settings), now_ns, result
                    )
    return result


async def run_retention(settings: Settings, stop: asyncio.Event, *, clock: TimeSource | None = None) -> None:
    """Run a pass every `keep.every_s` until `stop` is set; a failure is logged once and retried."""
    clock = clock or WallTime()
    reported: dict[str, str] = {}
    while not stop.is_set() and (settings.keep.copy_to or settings.keep.journal_days):
        now_ns = clock.now_ns()
        try:
            result = await run_in_daemon_thread(
                partial(apply_retention, settings, now_ns=now_ns), name="keep"
            )
            failed = result.failed
            if result.copied or result.removed:
                logger.info(
                    "journal kept",
                    copied=result.copied,
                    copied_bytes=result.copied_bytes,
                    removed=result.removed,
                    removed_bytes=result.removed_bytes,
                )
        except (JournalError, LakeError, OSError) as error:
            failed = {"": str(error)}
        for recording, reason in failed.items():
            if reported.get(recording) != reason:
                logger.warning("journal not kept", recording=recording, reason=reason)
        reported = failed
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), settings.keep.every_s)


def _copy(
    settings: Settings, recording: StoredRecording, store: BackupStore, result: RetentionResult
) -> None:
    folder = settings.journal_dir / recording.name
    copied = _read_copied(folder, settings.keep.copy_to)
    for path in recording.waiting:
        content = content_of(path)
        if not store.holds(f"{recording.name}/{path.name}", content):
            store.put(f"{recording.name}/{path.name}", path, content)
        copied[path.name] = content
        _write_copied(folder, settings.keep.copy_to, copied)
        result.copied += 1
        result.copied_bytes += content.size_bytes
    # Copy the mark last: a copy that has it is a whole recording.
    mark = folder / SEALED
    if recording.is_sealed and SEALED not in copied:
        copied[SEALED] = content_of(mark)
        if not store.holds(f"{recording.name}/{SEALED}", copied[SEALED]):
            store.put(f"{recording.name}/{SEALED}", mark, copied[SEALED])
        _write_copied(folder, settings.keep.copy_to, copied)


def _remove_if_safe(
    settings: Settings,
    recording: StoredRecording,
    store: BackupStore | None,
    last_frame: LastFrame,
    now_ns: int,
    result: RetentionResult,
) -> None:
    """Remove a recording, or note why it must be kept."""
    if not recording.is_sealed:
        return  # it is being recorded, or the next start of a recorder replays it
    folder, size_bytes = settings.journal_dir / recording.name, recording.size_bytes
    try:
        with hold_recording(folder):
            if why := _reason_to_keep(settings, recording, store, last_frame):
                result.failed[recording.name] = why
                return
            _note_removed(settings, recording, now_ns)
            removing = folder.rename(folder.with_name(_REMOVING + folder.name))
        shutil.rmtree(removing)
    except (JournalError, LakeError, OSError) as error:
        result.failed[recording.name] = str(error)
        return
    result.removed.append(recording.name)
    result.removed_bytes += size_bytes


def _reason_to_keep(
    settings: Settings, recording: StoredRecording, store: BackupStore | None, last_frame: LastFrame
) -> str:
    """Return why a sealed recording must be kept, or an empty string."""
    folder = settings.journal_dir / recording.name
    if settings.keep.copy_to:
        assert store is not None
        copied = _read_copied(folder, settings.keep.copy_to)
        for path in recording.sealed:
            content = copied.get(path.name)
            if (
                content is None
                or content != content_of(path)
                or not store.holds(f"{recording.name}/{path.name}", content)
            ):
                return f"{path.name} is not copied to {settings.keep.copy_to}"
    newest = -1
    damages: list[Any] = []
    for record in read_journal(folder, on_damage=damages.append):
        newest = record.frame
    has = last_frame(recording.name)
    if has is None or has < newest:
        return f"the lake has frames up to {has}, and the recording goes to {newest}; run: tickwalk replay {folder}"
    return ""


def _lake_query(settings: Settings) -> LastFrame:
    from storage.lake.lake import Lake  # loading takes a second, and only a removal needs it

    def ask(recording: str) -> int | None:
        with Lake.open(settings, read_only=True) as lake:
            frame: int | None = lake.query(_LAST_FRAME, [recording])["frame"][0].as_py()
        return frame

    return ask


def _note_removed(settings: Settings, recording: StoredRecording, now_ns: int) -> None:
    line = {
        "recording": recording.name,
        "removed": iso(now_ns),
        "bytes": recording.size_bytes,
        "copy": settings.keep.copy_to,
        "segments": [path.name for path in recording.sealed],
    }
    with (settings.journal_dir / REMOVED).open("a", encoding="utf-8") as notes:
        notes.write(json.dumps(line) + "\n")
        notes.flush()
        sync_file(notes.fileno())


def _read_copied(folder: Path, to: str) -> dict[str, FileContent]:
    """Return the files known to be copied to a store; an unreadable note counts as empty and is rewritten."""
    try:
        note = msgspec.json.decode((folder / COPIED).read_bytes(), type=dict[str, dict[str, FileContent]])
    except (OSError, msgspec.MsgspecError):
        return {}
    return note.get(to, {})


def _write_copied(folder: Path, to: str, copied: dict[str, FileContent]) -> None:
    note = msgspec.json.encode({to: copied})
    write_atomic(folder / COPIED, note, is_synced=False, is_unique=False)


@contextmanager
def _single_pass(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    error = JournalError("another process copies this journal now", hint="a recorder does it while it runs")
    with file_lock(folder / _LOCK, error=error):
        yield


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
