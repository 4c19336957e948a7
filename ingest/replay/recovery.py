"""Crash recovery: replay of recordings that were not sealed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ingest.backfill.history import HistoryStamper
from ingest.journal.format import segments
from ingest.journal.recording import CAPTURE, SEALED, read_header
from ingest.replay.replay import replay
from storage.errors import JournalError, TickwalkError
from storage.lake.lake import Lake
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)


class _Over(Exception):  # noqa: N818 - no error: the next start recovers the rest
    """The caller has to end before the recovery is done."""


def recover(
    settings: Settings, lake: Lake, *, exclude: str = "", is_over: Callable[[], bool] = lambda: False
) -> list[str]:
    """Replay recordings that were never sealed, unless another recorder still writes them.

    A recording that cannot be replayed is left unchanged, and does not keep a new one from starting.

    Args:
        settings: the home.
        lake: receives the rows.
        exclude: the caller's own recording.
        is_over: called repeatedly; once it returns true, the rest is left to the next recovery.

    Returns:
        The names of the recovered recordings.
    """
    recovered: list[str] = []
    # Answers that a killed backfill had received reach the tables only now.
    stamper = HistoryStamper(lake, settings, not_before_ns=lake.stamp("").ingested_ns)

    def check(_: int) -> None:
        if is_over():
            raise _Over

    for folder in _unsealed(settings.journal_dir, exclude):
        try:
            check(0)
            done = replay(folder, settings, lake, on_bytes=check, stamper=stamper)
        except _Over:
            logger.info("recovery ended early", name=folder.name)
            return recovered
        except TickwalkError as error:
            is_in_use = isinstance(error, JournalError) and "in use" in error.message
            log = logger.info if is_in_use else logger.warning
            log("recording not recovered", name=folder.name, reason=str(error))
            continue
        except Exception as error:  # a bug met in an old recording must not keep every new one from starting
            logger.warning("recording not recovered", name=folder.name, reason=repr(error), exc_info=True)
            continue
        (folder / SEALED).touch()
        logger.warning(
            "recording recovered", name=folder.name, frames=done.counts.frames, written=done.written
        )
        recovered.append(folder.name)
    return recovered


def _unsealed(journal: Path, exclude: str) -> list[Path]:
    """Return the folders of unsealed recordings by start time, since each resumes from those before."""
    began: dict[Path, int] = {}
    for folder in sorted(journal.iterdir()) if journal.exists() else []:
        is_past = not folder.name.startswith((CAPTURE, ".")) and folder.name != exclude
        if not is_past or (folder / SEALED).exists() or not segments(folder):
            continue
        try:
            began[folder] = read_header(folder)[1]
        except (TickwalkError, ValueError):
            began[folder] = 0  # its replay reports what is wrong with it
    return sorted(began, key=lambda folder: began[folder])
