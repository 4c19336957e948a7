"""Airflow operator that trains a fold in a detached process and survives the death of its task."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk import BaseOperator, ResumableJobMixin

from serving.airflow.fold_job import FoldJob, FoldStatus
from serving.airflow.queues import in_queue
from storage.settings import load_settings

if TYPE_CHECKING:
    from airflow.sdk import Context

_POLL_S: Final = 0.5
_REPORT_EVERY_S: Final = 10.0
PROGRESS_KEY: Final = "progress"
"""Key of the newest validation point in the task's state."""


def train_folds(night: Any, folds: Any) -> Any:
    """Return the tasks `train_fold` of a DAG: one for each fold, in the pool and the queue `gpu`.

    Args:
        night: id of the night, or the task that returns it.
        folds: indices of its folds, or the task that returns them.
    """
    tasks = TrainFoldOperator.partial(
        task_id="train_fold",
        night=night,
        pool="gpu",
        map_index_template="fold {{ task.fold }}",
        **in_queue("gpu"),
    )
    return tasks.expand(fold=folds)


class TrainFoldOperator(ResumableJobMixin, BaseOperator):
    """Trains one fold of a night (`serving.airflow.fold_job`).

    A retry finds the process of the attempt before it, and starts another one only where that has ended without a
    result. Every 10 s the newest validation point goes to the log and to the task's state. "Mark failed", clearing and
    timeouts stop the process by SIGTERM; its checkpoints stay.

    Args:
        night: id of the night.
        fold: index of the fold.
    """

    template_fields: Sequence[str] = ("night", "fold")
    external_id_key = "attempt"

    def __init__(self, *, night: str, fold: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.night, self.fold = night, fold
        self._attempt: str | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Train the fold, and return the test IC of each model.

        Raises:
            TickwalkError: what the training raised, of the same class, so that the retry policy applies.
            LostJobError: the process was killed.
        """
        result: dict[str, Any] = self.execute_resumable(context)
        # The mixin returns nothing where it reconnected to a process that was still at work.
        return result if result is not None else self.get_job_result(self._attempt or "", context)

    def submit_job(self, context: Context) -> str:  # noqa: ARG002  # Airflow's signature, here and below
        """Start the process, and return the id of the attempt."""
        self._attempt = self._job.start()
        self.log.info("training of fold %s started; its log: %s", self.fold, self._job.log(self._attempt))
        return self._attempt

    def get_job_status(self, external_id: Any, context: Context) -> str:  # noqa: ARG002
        """Return the state of an attempt."""
        return self._job.status(str(external_id)).state

    def is_job_active(self, status: str) -> bool:
        """Return whether an attempt in this state still works."""
        return FoldStatus(status).is_active  # type: ignore[arg-type]  # it is one of ours

    def is_job_succeeded(self, status: str) -> bool:
        """Return whether an attempt in this state has a result."""
        return status == "done"

    def poll_until_complete(self, external_id: Any, context: Context) -> None:
        """Wait for the end of an attempt, and report its progress."""
        self._attempt, reported_s, told = str(external_id), -_REPORT_EVERY_S, ""
        while (status := self._job.status(self._attempt)).is_active:
            now_s = time.monotonic()
            if status.text != told and now_s - reported_s >= _REPORT_EVERY_S:
                reported_s, told = now_s, status.text
                self._report(status, context)
            time.sleep(_POLL_S)
        if status.state != "done":
            raise self._job.failure(self._attempt)

    def get_job_result(self, external_id: Any, context: Context) -> dict[str, Any]:  # noqa: ARG002
        """Return the test IC of each model."""
        return dict(self._job.status(str(external_id)).result)

    def on_kill(self) -> None:
        """Stop the process; Airflow calls this for "mark failed", clearing and timeouts."""
        if self._attempt is not None:
            self._job.stop(self._attempt)

    @property
    def _job(self) -> FoldJob:
        return FoldJob(load_settings(), self.night, int(self.fold))

    def _report(self, status: FoldStatus, context: Context) -> None:
        self.log.info(status.text)
        if (store := context.get("task_state_store")) is not None:
            store.set(PROGRESS_KEY, dict(status.progress) | {"text": status.text})
