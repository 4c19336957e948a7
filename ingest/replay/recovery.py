"""What of earlier recordings have the tables not been given?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ingest.journal.format import segments
from ingest.journal.recording import CAPTURE, SEALED, read_header
from ingest.replay.replay import replay
from storage.errors import TickwalkError
from storage.lake.lake import Lake
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)


class _Over(Exception):  # noqa: N818 - it is no error, but a reason to leave the rest to the next start
    """Who asked for the recovery has no time for it any more."""


def recover(
    settings: Settings, lake: Lake, *, but: str = "", is_over: Callable[[], bool] = lambda: False
) -> list[str]:
    """Replay recordings that were never sealed, unless another recorder still holds them.

    One that cannot be replayed is left as it is, and does not keep a new recording from starting.

    Args:
        settings: the home.
        lake: takes the rows.
        but: the caller's own recording.
        is_over: is asked all along; once it says so, what is left is left to the next recovery.

    Returns:
        The names of those that were.
    """
    recovered: list[str] = []

    def look(_: int) -> None:
        if is_over():
            raise _Over

    for folder in _unsealed(settings.journal_dir, but):
        try:
            look(0)
            done = replay(folder, settings, lake, on_bytes=look)
        except _Over:
            logger.info("recovery ended early", name=folder.name)
            return recovered
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
            began[folder] = read_header(folder)[1]
        except (TickwalkError, ValueError):
            began[folder] = 0  # replaying it says what is wrong with it
    return sorted(began, key=lambda folder: began[folder])
