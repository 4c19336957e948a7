"""Training of a fold as a detached process, and what it reports about itself.

A task of Airflow may be killed at any time: with the task runner, by an outage, or by a person. Hours of training must
not end with it. So the task starts a process in a session of its own (`serving.airflow.fold_process`), stores the id of
the attempt, and watches its files; a task that comes later finds the process by that id and goes on watching.

`<home>/airflow/jobs/NIGHT/fold-NN` has a lock, so that there is never a second copy of a fold, and a folder for each
attempt with `training.pid.json` (pid and start time, since pids are used again), `training.log` and `status.json`.
Checkpoints are in the folder of the night and belong to no attempt.

This module imports neither Airflow nor torch.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import psutil

from serving.airflow.daemons import DaemonFolder
from serving.airflow.services import settings_env
from storage import errors
from storage.errors import TickwalkError
from storage.settings import Settings

LOCK: Final = "lock"
STATUS: Final = "status.json"
PID_FILE: Final = "training.pid.json"
"""Pid file of an attempt, as `DaemonFolder` names it."""
_NAME: Final = "training"
_TAIL_LINES: Final = 20

State = Literal["waiting", "running", "done", "failed", "stopped", "lost"]
"""`waiting` for an earlier attempt to end; `stopped` by SIGTERM; `lost`: the process ended without a word."""


@dataclass(frozen=True, slots=True)
class FoldStatus:
    """What an attempt last reported.

    Args:
        state: its state.
        text: the newest validation point in words, with the time left; empty before the first.
        progress: that point as plain values: fold, model, epoch, losses, IC, pace.
        result: test IC of each model, once it is done.
        error: class, message, hint and trace of what failed.
    """

    state: State
    text: str = ""
    progress: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    error: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_active(self) -> bool:
        """Whether the process still works."""
        return self.state in ("waiting", "running")


class LostJobError(RuntimeError):
    """A training process was killed, or stopped by someone else; another attempt continues at its checkpoint."""


class FoldJob:
    """The training of one fold of a night.

    Args:
        settings: the home; its process gets the same settings.
        night: id of the night.
        fold: index of the fold.
    """

    def __init__(self, settings: Settings, night: str, fold: int) -> None:
        self._settings, self._night, self._fold = settings, night, fold
        self._folder = settings.home.resolve() / "airflow" / "jobs" / night / f"fold-{fold:02d}"

    def start(self) -> str:
        """Start a process, and return the id of the attempt."""
        attempt = uuid.uuid4().hex[:12]
        folder = self._files(attempt)
        folder.path.mkdir(parents=True)
        module = ["-m", "serving.airflow.fold_process", str(folder.path), self._night, str(self._fold)]
        folder.start(_NAME, [sys.executable, *module], os.environ | settings_env(self._settings))
        return attempt

    def log(self, attempt: str) -> Path:
        """Return the log of an attempt."""
        return self._files(attempt).log(_NAME)

    def status(self, attempt: str) -> FoldStatus:
        """Return what an attempt last reported; `lost` if its process has ended without a result."""
        # First, since a process may write its result and end between the two.
        is_alive = self._files(attempt).is_running(_NAME)
        status = read_status(self._folder / attempt)
        return (
            FoldStatus("lost", status.text, status.progress) if status.is_active and not is_alive else status
        )

    def stop(self, attempt: str) -> None:
        """Ask the process of an attempt and its children to end, by SIGTERM; finished fits and checkpoints stay."""
        if (process := self._files(attempt).find(_NAME)) is None:
            return
        for member in process.session():
            try:
                member.terminate()
            except psutil.NoSuchProcess:
                continue

    def failure(self, attempt: str) -> Exception:
        """Return the error of an attempt that has ended without a result, of the class that the process raised."""
        status = self.status(attempt)
        if not status.error:
            what = "was stopped" if status.state == "stopped" else "was killed, or ran out of memory"
            last = f"; it had reached: {status.text}" if status.text else ""
            return LostJobError(
                f"the training of fold {self._fold} {what}{last}; another attempt continues at its checkpoint\n"
                f"end of {self.log(attempt)}:\n{self._files(attempt).tail(_NAME, lines=_TAIL_LINES)}"
            )
        name, message = status.error["class"], status.error["message"]
        known = getattr(errors, name, None)
        if isinstance(known, type) and issubclass(known, TickwalkError):
            return known(message, hint=status.error["hint"])
        return RuntimeError(f"{name} while fold {self._fold} trained: {message}\n{status.error['trace']}")

    def _files(self, attempt: str) -> DaemonFolder:
        """Return the folder of an attempt, with the log and the pid file of its process."""
        return DaemonFolder(self._folder / attempt)


def stop_all_jobs(settings: Settings) -> int:
    """Stop every training process of a home by SIGTERM, and return how many were alive."""
    stopped = 0
    for file in sorted((settings.home.resolve() / "airflow" / "jobs").glob(f"*/fold-*/*/{PID_FILE}")):
        night, fold, attempt = file.parts[-4:-1]
        job = FoldJob(settings, night, int(fold.removeprefix("fold-")))
        if job.status(attempt).is_active:
            job.stop(attempt)
            stopped += 1
    return stopped


def read_status(folder: Path) -> FoldStatus:
    """Return the status in the folder of an attempt; one that has not reported yet waits."""
    try:
        return FoldStatus(**json.loads((folder / STATUS).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return FoldStatus("waiting")
