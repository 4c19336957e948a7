"""Progress of a night, until its report is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serving.airflow.fold_job import PID_FILE, read_status
from storage.settings import Settings
from training.night.night_list import read_night


@dataclass(frozen=True, slots=True)
class FoldProgress:
    """A fold that is trained by Airflow, and what its newest attempt reported."""

    fold: str
    state: str
    text: str


@dataclass(frozen=True, slots=True)
class NightPageProgress:
    """What is known of a night.

    Args:
        night: its id.
        outcome: `unfinished` while it is at work.
        reason: of the verdict; empty before.
        seconds, estimated_s: that its steps took so far, and the estimate of all; 0: none.
        folds: those that Airflow trains.
        report: its page; `None` while there is none.
    """

    night: str
    outcome: str
    reason: str
    seconds: float
    estimated_s: float
    folds: tuple[FoldProgress, ...]
    report: Path | None


def read_progress(settings: Settings, night: str) -> NightPageProgress:
    """Return the progress of a night.

    Raises:
        GateError: there is no such night.
    """
    details = read_night(settings, night)
    folds = []
    for folder in sorted((settings.home / "airflow" / "jobs" / details.night).glob("fold-*")):
        attempts = sorted(folder.glob(f"*/{PID_FILE}"), key=lambda path: path.stat().st_mtime)
        if attempts:
            status = read_status(attempts[-1].parent)
            folds.append(FoldProgress(folder.name.replace("-", " "), status.state, status.text))
    return NightPageProgress(
        night=details.night,
        outcome=details.outcome,
        reason=str(details.verdict.get("reason", "")),
        seconds=details.seconds,
        estimated_s=float(details.estimate.get("seconds", 0.0)),
        folds=tuple(folds),
        report=details.report,
    )
