"""What of earlier recordings have the tables not been given?"""

from __future__ import annotations

from typing import Final

from ingest.journal import segments
from ingest.replay import CAPTURE, replay
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
    for folder in sorted(settings.journal_dir.iterdir()) if settings.journal_dir.exists() else []:
        is_past = not folder.name.startswith((CAPTURE, ".")) and folder.name != but
        if not is_past or (folder / SEALED).exists() or not segments(folder):
            continue
        try:
            done = replay(folder, settings, lake)
        except TickwalkError as error:
            logger.warning("recording not recovered", name=folder.name, reason=str(error))
            continue
        (folder / SEALED).touch()
        logger.warning(
            "recording recovered", name=folder.name, frames=done.counts.frames, written=done.written
        )
        recovered.append(folder.name)
    return recovered
