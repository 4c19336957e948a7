"""Heartbeat files: a recorder's status on disk, once a second."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import psutil

from ingest.recorder.status import RecorderStatus
from storage.atomic_write import write_atomic
from storage.clock import DAY_NS
from storage.errors import JournalError
from storage.settings import Settings

SUFFIX: Final = ".json"
# The last status of an ended recording is kept for a while, to show how it ended.
_OLD_NS: Final = 7 * DAY_NS


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A recorder's status, and the wall clock time at which it was written."""

    beat_ns: int
    vitals: RecorderStatus


def write_heartbeat(settings: Settings, vitals: RecorderStatus, *, beat_ns: int | None = None) -> Path:
    """Write a recorder's status atomically, and return the path.

    Raises:
        JournalError: the home cannot be written; the caller keeps recording, since the missing heartbeat alerts.
    """
    path = settings.recorder_dir / f"{vitals.recording}{SUFFIX}"
    try:
        settings.recorder_dir.mkdir(parents=True, exist_ok=True)
        beat = msgspec.json.encode(Heartbeat(beat_ns or time.time_ns(), vitals))
        write_atomic(path, beat, is_synced=False, is_unique=False)
    except OSError as error:
        raise JournalError(f"the heartbeat {path} cannot be written: {error.strerror}") from error
    return path


def read_heartbeats(settings: Settings) -> list[Heartbeat]:
    """Return the newest heartbeat of each shard, without those of recordings that another one replaced."""
    newest: dict[str, Heartbeat] = {}
    for path in sorted(settings.recorder_dir.glob(f"*{SUFFIX}")):
        beat = read_heartbeat(path)
        if beat is None:
            continue
        before = newest.get(beat.vitals.shard)
        # By the time of writing: the clock of a simulated recording can show any time.
        if before is None or (beat.vitals.is_running, beat.beat_ns) > (
            before.vitals.is_running,
            before.beat_ns,
        ):
            newest[beat.vitals.shard] = beat
    return [newest[shard] for shard in sorted(newest)]


def read_heartbeat(path: Path) -> Heartbeat | None:
    """Return a heartbeat; None if the file is gone or is no heartbeat of this version."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Heartbeat)
    except (OSError, msgspec.MsgspecError):
        return None


def clear_heartbeats(settings: Settings, *, shard: str, now_ns: int) -> None:
    """Delete the heartbeats of a shard's earlier recordings; a recorder calls this when it begins.

    The heartbeat of an ended recording is kept for a week. One that claims to run without a live process belongs to a
    recorder that was killed, which its successor replaces.
    """
    for path in settings.recorder_dir.glob(f"*{SUFFIX}"):
        beat = read_heartbeat(path)
        is_past = beat is not None and beat.vitals.shard == shard and not _is_alive(beat.vitals)
        if is_past and beat is not None and (beat.vitals.is_running or now_ns - beat.beat_ns > _OLD_NS):
            path.unlink(missing_ok=True)


def _is_alive(vitals: RecorderStatus) -> bool:
    return vitals.is_running and vitals.pid > 0 and psutil.pid_exists(vitals.pid)
