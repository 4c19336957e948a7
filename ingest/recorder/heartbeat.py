"""Heartbeat files: a recorder's status on disk, once a second."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import psutil

from ingest.recorder.status import RecorderStatus
from storage.clock import DAY_NS
from storage.errors import JournalError
from storage.settings import Settings

SUFFIX: Final = ".json"
# An ended recording's last signs are of use for a while, to see what it ended with.
_OLD_NS: Final = 7 * DAY_NS


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Vital signs, and when they were written by the wall."""

    beat_ns: int
    vitals: RecorderStatus


def write_heartbeat(settings: Settings, vitals: RecorderStatus, *, beat_ns: int | None = None) -> Path:
    """Write a recording's vital signs, whole or not at all, and return where.

    Raises:
        JournalError: the home cannot be written; a caller goes on recording, for silence is what alerts.
    """
    path = settings.recorder_dir / f"{vitals.recording}{SUFFIX}"
    part = path.with_suffix(".part")
    try:
        settings.recorder_dir.mkdir(parents=True, exist_ok=True)
        part.write_bytes(msgspec.json.encode(Heartbeat(beat_ns or time.time_ns(), vitals)))
        part.replace(path)
    except OSError as error:
        raise JournalError(f"the heartbeat {path} cannot be written: {error.strerror}") from error
    return path


def read_heartbeats(settings: Settings) -> list[Heartbeat]:
    """Return the newest heartbeat of each shard: a recording that another one succeeded is of no more interest."""
    newest: dict[str, Heartbeat] = {}
    for path in sorted(settings.recorder_dir.glob(f"*{SUFFIX}")):
        beat = read_heartbeat(path)
        if beat is None:
            continue
        held = newest.get(beat.vitals.shard)
        # By when they were written: the clock of a simulated recording may be any.
        if held is None or (beat.vitals.is_running, beat.beat_ns) > (held.vitals.is_running, held.beat_ns):
            newest[beat.vitals.shard] = beat
    return [newest[shard] for shard in sorted(newest)]


def read_heartbeat(path: Path) -> Heartbeat | None:
    """Return a heartbeat, or None where the file is gone or no heartbeat of this version."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Heartbeat)
    except (OSError, msgspec.MsgspecError):
        return None


def clear_heartbeats(settings: Settings, *, shard: str, now_ns: int) -> None:
    """Forget the heartbeats of a shard's earlier recordings; a recorder does so when it begins.

    An ended one is kept for a week. One that says that it runs, and does not, was killed: its successor takes over.
    """
    for path in settings.recorder_dir.glob(f"*{SUFFIX}"):
        beat = read_heartbeat(path)
        is_past = beat is not None and beat.vitals.shard == shard and not _is_alive(beat.vitals)
        if is_past and beat is not None and (beat.vitals.is_running or now_ns - beat.beat_ns > _OLD_NS):
            path.unlink(missing_ok=True)


def _is_alive(vitals: RecorderStatus) -> bool:
    return vitals.is_running and vitals.pid > 0 and psutil.pid_exists(vitals.pid)
