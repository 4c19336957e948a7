"""Header and marks of a recording: its kind, its settings, whether it was sealed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from ingest.journal.reader import read_journal
from ingest.journal.records import RecordKind
from storage.settings import Settings

# Rows are handed to the lake in lots of about this many, which keeps memory flat and commits few.
COMMIT_FRAMES: Final = 100_000
# A recording made from a capture is named for its content.
CAPTURE: Final = "capture-"
# What a recording says of itself that holds answers about the past instead of frames.
BACKFILL: Final = "backfill"
# The sections of the settings that decide which rows a journal becomes.
SECTIONS: Final = ("record", "gaiaex", "bars")
# An empty file of this name in its folder says that all rows of a recording are in the lake.
SEALED: Final = "sealed"


def about_recording(folder: Path) -> tuple[dict[str, Any], int]:
    """Return what a recording says of itself (`source`, `coins`, ...), and when it began.

    A recording of whose beginning nothing is left says nothing.
    """
    for record in read_journal(folder):
        return (json.loads(record.body) if record.kind is RecordKind.STARTED else {}), record.recv_ns
    return {}, 0


def settings_of(about: Mapping[str, Any], settings: Settings) -> Settings:
    """Return the settings under which a recording was made, as far as they decide its rows; today's home and lake."""
    in_force = about.get("settings")
    if not in_force:
        return settings
    sections = {name: msgspec.convert(in_force[name], type(getattr(settings, name))) for name in SECTIONS}
    return dataclasses.replace(settings, **sections)


def about_settings(settings: Settings) -> dict[str, Any]:
    """Return the sections of the settings that decide a recording's rows, as JSON; see `settings_of`."""
    return {name: msgspec.to_builtins(getattr(settings, name)) for name in SECTIONS}
