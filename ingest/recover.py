"""What of earlier recordings have the tables not been given?"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ingest.journal import segments
from ingest.replay import CAPTURE, about_recording, replay
from storage.errors import TickwalkError
from storage.lake import Lake
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)

SEALED: Final = "sealed"


def recover(settings: Settings, lake: Lake, *, but: str = "") -> list[str]:
    """Replay recordings that were never sealed, unless another recorder still holds them.

    One that cannot be replayed is left as it is, and does not keep a new recording from starting.

    Args:
        settings: the home.
        lake: takes the rows.
        but: the caller's own recording.

    Returns:
        The names of those that were.
    """
    recovered = []
    for folder in _unsealed(settings.journal_dir, but):
        try:
            done = replay(folder, settings, lake)
        except TickwalkError as error:
            logger.warning("recording not recovered", name=folder.name, reason=str(error))
            continue
        except (
            Exception
        ) as error:  # a fault of ours in an old recording must not keep every new one from starting
            logger.warning("recording not recovered", name=folder.name, reason=repr(error), exc_info=True)
            continue
        (folder / SEALED).touch()
        logger.warning(
            "recording recovered", name=folder.name, frames=done.counts.frames, written=done.written
        )
        recovered.append(folder.name)
    return recovered


def _unsealed(journal: Path, but: str) -> list[Path]:
    """Return the folders of recordings that were never sealed, by when they began: each resumes from those before."""
    began: dict[Path, int] = {}
    for folder in sorted(journal.iterdir()) if journal.exists() else []:
        is_past = not folder.name.startswith((CAPTURE, ".")) and folder.name != but
        if not is_past or (folder / SEALED).exists() or not segments(folder):
            continue
        try:
            began[folder] = about_recording(folder)[1]
        except (TickwalkError, ValueError):
            began[folder] = 0  # replaying it says what is wrong with it
    return sorted(began, key=lambda folder: began[folder])
