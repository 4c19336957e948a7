"""Which segments of the journal are copied elsewhere, and which may leave this disk?

A segment is sealed when a later one exists or its recording is sealed; only sealed segments are copied. A recording
leaves the disk when all of these hold: it is sealed and older than `keep.journal_days`; nobody records or replays
it; the lake has its last frame; and, where `keep.copy_to` is set, the copy of every segment was read again just
before and is the same. What left is named in `journal/removed.ndjson`. Journals made from captures are left alone.

One pass may be cut off anywhere and is simply run again: copies appear whole or not at all, and a recording is
renamed before its files go, so that no half recording is ever taken for one.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from ingest.concurrency import run_in_daemon_thread
from ingest.journal.backup_store import BackupStore, FileContent, content_of, open_store
from ingest.journal.format import hold_recording, segments
from ingest.journal.reader import read_journal
from ingest.journal.recording import CAPTURE
from storage.clock import DAY_NS, TimeSource, WallTime, iso
from storage.errors import JournalError, LakeError
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)

SEALED: Final = "sealed"
COPIED: Final = "copied.json"
REMOVED: Final = "removed.ndjson"
_LOCK: Final = ".keep.lock"
_LEAVING: Final = ".leaving-"

_LAST_FRAME: Final = """
    SELECT max(CAST(json_extract(inputs, '$.frames[1]') AS BIGINT)) AS frame
    FROM batches WHERE json_extract_string(inputs, '$.recording') = ?
"""

LastFrame = Callable[[str], int | None]
"""Returns the last frame of a recording that the lake has, or None."""


@dataclass(frozen=True, slots=True)
class StoredRecording:
    """One recording on this disk.

    Args:
        name: its folder's name.
        sealed: segments that nothing more is written to.
        open: segments still written to: the newest one of a recording that is not sealed, or none.
        copied: of the sealed, those that the copy is known to have.
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
    """What one pass did, and what it could not do, with the reason, by recording."""

    copied: int = 0
    copied_bytes: int = 0
    removed: list[str] = field(default_factory=list)
    removed_bytes: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def holdings(settings: Settings) -> list[StoredRecording]:
    """Return the recordings of a home, oldest name first."""
    found = []
    for folder in sorted(settings.journal_dir.iterdir()) if settings.journal_dir.exists() else []:
        paths = segments(folder) if folder.is_dir() and not folder.name.startswith((CAPTURE, ".")) else []
        if not paths:
            continue
        is_sealed = (folder / SEALED).exists()
        copied = frozenset(_read_copied(folder, settings.keep.copy_to))
        # The folder's marks and our own notes are younger than the data, so age is that of the segments.
        ended_ns = max(path.stat().st_mtime_ns for path in paths)
        cut = len(paths) if is_sealed else len(paths) - 1
        found.append(
            StoredRecording(folder.name, is_sealed, tuple(paths[:cut]), tuple(paths[cut:]), copied, ended_ns)
        )
    return found


def keep_journal(
    settings: Settings,
    *,
    now_ns: int,
    last_frame: LastFrame | None = None,
    store: BackupStore | None = None,
) -> RetentionResult:
    """Run one pass: copy sealed segments, then remove what may go.

    Args:
        settings: the home, and its `keep` section.
        now_ns: the present, which ages are counted to.
        last_frame: asks the lake; by default the one of the home.
        store: where copies go; by default what `keep.copy_to` names.

    Raises:
        JournalError: another process is at it.
    """
    done = RetentionResult()
    with _only_one(settings.journal_dir):
        for left in settings.journal_dir.glob(f"{_LEAVING}*"):
            shutil.rmtree(left)  # the last pass was cut off here; all was checked before the rename
        if settings.keep.copy_to:
            store = store or open_store(settings.keep.copy_to)
            for held in holdings(settings):
                try:
                    _copy(settings, held, store, done)
                except JournalError as error:
                    done.failed[held.name] = error.message
        if settings.keep.journal_days:
            for held in holdings(settings):
                if now_ns - held.ended_ns > settings.keep.journal_days * DAY_NS:
                    _remove_if_safe(settings, held, store, last_frame or _lake_of(settings), now_ns, done)
    return done


async def keep_forever(settings: Settings, stop: asyncio.Event, *, clock: TimeSource | None = None) -> None:
    """Run a pass every `keep.every_s` until `stop` is set; a failure is told once, and tried again."""
    clock = clock or WallTime()
    told: dict[str, str] = {}
    while not stop.is_set() and (settings.keep.copy_to or settings.keep.journal_days):
        now_ns = clock.now_ns()
        try:
            done = await run_in_daemon_thread(partial(keep_journal, settings, now_ns=now_ns), name="keep")
            failed = done.failed
            if done.copied or done.removed:
                logger.info(
                    "journal kept",
                    copied=done.copied,
                    copied_bytes=done.copied_bytes,
                    removed=done.removed,
                    removed_bytes=done.removed_bytes,
                )
        except (JournalError, LakeError, OSError) as error:
            failed = {"": str(error)}
        for recording, reason in failed.items():
            if told.get(recording) != reason:
                logger.warning("journal not kept", recording=recording, reason=reason)
        told = failed
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), settings.keep.every_s)


def _copy(settings: Settings, held: StoredRecording, store: BackupStore, done: RetentionResult) -> None:
    folder = settings.journal_dir / held.name
    copied = _read_copied(folder, settings.keep.copy_to)
    for path in held.waiting:
        content = content_of(path)
        if not store.holds(f"{held.name}/{path.name}", content):
            store.put(f"{held.name}/{path.name}", path, content)
        copied[path.name] = content
        _write_copied(folder, settings.keep.copy_to, copied)
        done.copied += 1
        done.copied_bytes += content.size_bytes
    # The mark goes last: a copy with it is a whole recording.
    mark = folder / SEALED
    if held.is_sealed and SEALED not in copied:
        copied[SEALED] = content_of(mark)
        if not store.holds(f"{held.name}/{SEALED}", copied[SEALED]):
            store.put(f"{held.name}/{SEALED}", mark, copied[SEALED])
        _write_copied(folder, settings.keep.copy_to, copied)


def _remove_if_safe(
    settings: Settings,
    held: StoredRecording,
    store: BackupStore | None,
    last_frame: LastFrame,
    now_ns: int,
    done: RetentionResult,
) -> None:
    """Remove a recording, or note why it must stay."""
    if not held.is_sealed:
        return  # it runs, or the next start of a recorder replays it
    folder, size_bytes = settings.journal_dir / held.name, held.size_bytes
    try:
        with hold_recording(folder):
            if why := _why_not(settings, held, store, last_frame):
                done.failed[held.name] = why
                return
            _note_removed(settings, held, now_ns)
            leaving = folder.rename(folder.with_name(_LEAVING + folder.name))
        shutil.rmtree(leaving)
    except (JournalError, LakeError, OSError) as error:
        done.failed[held.name] = str(error)
        return
    done.removed.append(held.name)
    done.removed_bytes += size_bytes


def _why_not(
    settings: Settings, held: StoredRecording, store: BackupStore | None, last_frame: LastFrame
) -> str:
    """Return why a sealed recording must not leave the disk, or nothing."""
    folder = settings.journal_dir / held.name
    if settings.keep.copy_to:
        assert store is not None
        copied = _read_copied(folder, settings.keep.copy_to)
        for path in held.sealed:
            content = copied.get(path.name)
            if (
                content is None
                or content != content_of(path)
                or not store.holds(f"{held.name}/{path.name}", content)
            ):
                return f"{path.name} is not copied to {settings.keep.copy_to}"
    newest = -1
    damages: list[Any] = []
    for record in read_journal(folder, on_damage=damages.append):
        newest = record.frame
    has = last_frame(held.name)
    if has is None or has < newest:
        return f"the lake has frames up to {has}, and the recording goes to {newest}; run: tickwalk replay {folder}"
    return ""


def _lake_of(settings: Settings) -> LastFrame:
    from storage.lake.lake import Lake  # a second to load, and only a removal asks it

    def ask(recording: str) -> int | None:
        with Lake.open(settings, read_only=True) as lake:
            frame: int | None = lake.query(_LAST_FRAME, [recording])["frame"][0].as_py()
        return frame

    return ask


def _note_removed(settings: Settings, held: StoredRecording, now_ns: int) -> None:
    line = {
        "recording": held.name,
        "removed": iso(now_ns),
        "bytes": held.size_bytes,
        "copy": settings.keep.copy_to,
        "segments": [path.name for path in held.sealed],
    }
    with (settings.journal_dir / REMOVED).open("a", encoding="utf-8") as notes:
        notes.write(json.dumps(line) + "\n")
        notes.flush()
        os.fsync(notes.fileno())


def _read_copied(folder: Path, to: str) -> dict[str, FileContent]:
    """Return what is known to be copied to a place; a note that cannot be read says nothing, and is made anew."""
    try:
        note = msgspec.json.decode((folder / COPIED).read_bytes(), type=dict[str, dict[str, FileContent]])
    except (OSError, msgspec.MsgspecError):
        return {}
    return note.get(to, {})


def _write_copied(folder: Path, to: str, copied: dict[str, FileContent]) -> None:
    part = folder / f".{COPIED}.part"
    part.write_bytes(msgspec.json.encode({to: copied}))
    part.replace(folder / COPIED)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise JournalError(
                "another process copies this journal now", hint="a recorder does it while it runs"
            ) from error
        yield


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
