"""Header and marks of a recording: its kind, its settings, whether it is sealed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from ingest.journal.reader import find_records, read_journal
from ingest.journal.records import RecordKind
from storage.settings import Settings

# Frames per commit to the lake, about; keeps memory flat and commits few.
COMMIT_FRAMES: Final = 100_000
# Prefix of a recording made from a capture, which is named by its content.
CAPTURE: Final = "capture-"
# Kind of a recording that holds REST answers about the past instead of frames.
BACKFILL: Final = "backfill"
# Sections of the settings that decide which rows a journal becomes.
SECTIONS: Final = ("record", "gaiaex", "bars")
# An empty file of this name in the folder of a recording marks that all its rows are in the lake.
SEALED: Final = "sealed"


def read_header(folder: Path) -> tuple[dict[str, Any], int]:
    """Return the header of a recording (`source`, `coins`, ...) and its start time.

    The header is empty if the beginning of the recording is lost.
    """
    # Block by block, since a segment has tens of megabytes; from its beginning where frame 0 is lost.
    found = find_records(folder, (0,))
    for record in (found[0][2],) if found else read_journal(folder):
        return (json.loads(record.body) if record.kind is RecordKind.STARTED else {}), record.recv_ns
    return {}, 0


def settings_of_recording(header: Mapping[str, Any], settings: Settings) -> Settings:
    """Return the settings of a recording as far as they decide its rows, with today's home and lake."""
    in_force = header.get("settings")
    if not in_force:
        return settings
    sections = {name: msgspec.convert(in_force[name], type(getattr(settings, name))) for name in SECTIONS}
    return dataclasses.replace(settings, **sections)


def settings_for_header(settings: Settings) -> dict[str, Any]:
    """Return the settings that decide a recording's rows, as JSON; see `settings_of_recording`."""
    return {name: msgspec.to_builtins(getattr(settings, name)) for name in SECTIONS}
