"""Registration of recordings that the lake does not know, by the headers in a home's journal.

A recorder registers its recording at its start, and a replay does it again. What is left are recordings of earlier
releases, and those whose recorder could not reach the lake.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from ingest.instruments.registry import InstrumentRegistry
from ingest.instruments.stored_listings import newest_listings
from ingest.journal.format import hold_recording, segments
from ingest.journal.reader import last_receipt_ns
from ingest.journal.recording import BACKFILL, CAPTURE, read_header
from ingest.pipeline.registration import header_instruments, recording_row
from storage.contracts.tables import RECORDINGS
from storage.errors import JournalError, TickwalkError
from storage.lake.lake import Lake
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)

# Folders of captures, which their replay registers, and of REST answers, which list nothing.
_OTHERS: Final = (".", CAPTURE, f"{BACKFILL}-")
_KNOWN: Final = (
    "SELECT recording, bool_or(ts_last_ns IS NOT NULL) AS is_ended FROM recordings WHERE home = ? GROUP BY 1"
)


def register_recordings(settings: Settings, lake: Lake) -> int:
    """Register the recordings of a home that the lake does not know, or does not know the end of; return how many rows.

    A recording that is being written has no end yet. A recording whose header cannot be read is left out.

    Args:
        settings: the home.
        lake: receives rows of `recordings`.
    """
    folders = [folder for folder in _folders(settings.journal_dir) if segments(folder)]
    if not folders:
        return 0
    known = {row["recording"]: row["is_ended"] for row in lake.query(_KNOWN, [lake.home]).to_pylist()}
    rows: list[dict[str, Any]] = []
    for folder in folders:
        if known.get(folder.name):
            continue
        try:
            rows += _rows(folder, settings, lake, is_known=folder.name in known)
        except (TickwalkError, ValueError, OSError) as error:
            logger.warning("recording not registered", name=folder.name, reason=str(error))
    if rows:
        names = sha256(repr([(row["recording"], row["ts_knowable_ns"]) for row in rows]).encode()).hexdigest()
        lake.commit({RECORDINGS.name: RECORDINGS.rows(rows)}, batch_id=f"recordings:{names[:24]}")
    return len(rows)


def _folders(journal: Path) -> list[Path]:
    found = sorted(journal.iterdir()) if journal.exists() else []
    return [folder for folder in found if not folder.name.startswith(_OTHERS)]


def _rows(folder: Path, settings: Settings, lake: Lake, *, is_known: bool) -> list[dict[str, Any]]:
    """Return the rows of a recording that the lake lacks; none where its header is lost."""
    try:
        hold_recording(folder).close()
        last_ns = last_receipt_ns(folder)
    except JournalError:
        if is_known:
            return []
        last_ns = 0  # someone writes it
    about, started_ns = read_header(folder)
    if about.get("source") != "socket":
        return []
    venue = about.get("settings", {}).get("record", {}).get("venue", settings.record.venue)
    registry = InstrumentRegistry(venue)
    registry.restore(newest_listings(lake, started_ns))
    what = (folder.name, lake.home, venue, header_instruments(about, registry))
    rows = [] if is_known else [recording_row(*what, started_ns=started_ns, now_ns=started_ns)]
    if last_ns:
        # As the replay does: the newest row counts, and a recording of one record has but one time.
        now_ns = max(last_ns, started_ns + 1)
        rows.append(recording_row(*what, started_ns=started_ns, last_ns=last_ns, now_ns=now_ns))
    return rows
