"""Process that trains one fold of a night: `python -m serving.airflow.fold_process FOLDER NIGHT FOLD`.

`FOLDER` is that of the attempt (`serving.airflow.fold_job`). It works under the lock of the fold: where an earlier
attempt still trains, it waits, and then finds the fits that are finished. SIGTERM ends it; its next attempt continues
at the newest checkpoint.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from serving.airflow.fold_job import LOCK, STATUS, FoldStatus
from serving.fit_view import FitPoint, FitWatch
from serving.nightly import NightProgress
from storage.atomic_write import write_atomic
from storage.errors import TickwalkError
from storage.file_lock import file_lock
from storage.logs import configure_logs
from storage.settings import Settings, load_settings
from training.models.trainer import EpochLog
from training.night.artifacts import NightArtifacts
from training.night.steps import train_fold

_REPORT_EVERY_S: Final = 1.0


class _Reporter:
    """Writes the status of the attempt, at most once a second while it trains.

    Args:
        folder: of the attempt.
        night: the night, for its estimate and the number of its folds.
        fold: index of the fold.
    """

    def __init__(self, folder: Path, night: NightArtifacts, fold: int) -> None:
        self._folder = folder
        self._watch = FitWatch(len(night.read("folds.json", step="plan_folds")["folds"]))
        self._written_s = -math.inf
        self._text = ""
        self._progress = NightProgress(night, self._keep)
        self._progress.begin(f"train_fold-{fold:02d}", text="")
        self._text = ""

    def report_epoch(self, model: str, fold: int, log: EpochLog) -> None:
        """Write a validation point."""
        point = self._watch.point(model, fold, log)
        self._progress.tell(str(point))
        if time.monotonic() - self._written_s >= _REPORT_EVERY_S:
            self._written_s = time.monotonic()
            self.write(FoldStatus("running", self._text, _plain(point)))

    def write(self, status: FoldStatus) -> None:
        """Write a status."""
        write_atomic(self._folder / STATUS, json.dumps(asdict(status)), is_synced=False, is_unique=False)

    def _keep(self, text: str) -> None:
        self._text = text


def run(settings: Settings, folder: Path, night: str, fold: int) -> int:
    """Train the fold, report, and return the exit code."""
    reporter = _Reporter(folder, NightArtifacts.find(settings, night), fold)
    busy = TickwalkError(f"fold {fold} of night {night} is trained by another process")
    try:
        with file_lock(folder.parent / LOCK, error=busy, timeout_s=math.inf):
            reporter.write(FoldStatus("running"))
            result = train_fold(settings, night, fold, on_epoch=reporter.report_epoch)
    except SystemExit:
        reporter.write(FoldStatus("stopped"))
        raise
    except Exception as error:
        traceback.print_exc()
        reporter.write(FoldStatus("failed", error=_described(error)))
        return 1
    reporter.write(FoldStatus("done", result=result))
    return 0


def _described(error: Exception) -> dict[str, str]:
    message, hint = (error.message, error.hint) if isinstance(error, TickwalkError) else (str(error), "")
    return {
        "class": type(error).__name__,
        "message": message,
        "hint": hint,
        "trace": "".join(traceback.format_exception(error)),
    }


def _plain(point: FitPoint) -> dict[str, Any]:
    """Return a point as JSON, with null where a value is not known."""
    values = {
        "fold": point.fold,
        "folds": point.folds,
        "model": point.model,
        "epoch": point.log.epoch,
        "train_loss": point.log.train_loss,
        "valid_loss": point.log.valid_loss,
        "valid_ic": point.log.valid_ic,
        "rows_per_s": point.rows_per_s,
    }
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def _end(*_: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def main(arguments: list[str]) -> int:
    """Run the process of an attempt."""
    signal.signal(signal.SIGTERM, _end)
    configure_logs(level="info")
    folder, night, fold = arguments
    return run(load_settings(), Path(folder), night, int(fold))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
