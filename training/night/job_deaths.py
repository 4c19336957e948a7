"""Deaths of the processes that do a night's jobs, such as by the kernel for lack of memory: how many are tolerated."""

from __future__ import annotations

import signal
from collections import Counter
from typing import Final

from storage.errors import FitError
from storage.logs import get_logger
from training.night.fit_job import FitJob

logger = get_logger(__name__)

ATTEMPTS: Final = 3
"""How often a job is begun before the death of its process is an error."""


class JobDeaths:
    """The number of times that the process of each job has died."""

    def __init__(self) -> None:
        self._times: Counter[FitJob] = Counter()

    def add(self, job: FitJob, *, exit_code: int | None = None, cause: str = "") -> None:
        """Count a death.

        Args:
            job: the job.
            exit_code: of the process, negative for a signal, where it is known.
            cause: in words, where it is not.

        Raises:
            FitError: it was the last attempt.
        """
        self._times[job] += 1
        times, how = self._times[job], cause if exit_code is None else _describe(exit_code)
        logger.warning(
            "training process died", model=job.model, folds=job.folds, how=how, attempt=times, of=ATTEMPTS
        )
        if times < ATTEMPTS:
            return
        hint = "its last lines on standard error say why; what was trained is kept, so run the night again"
        if exit_code == -signal.SIGKILL:
            hint = (
                "the kernel kills so when memory is short: use fewer processes (training.workers); what was trained "
                "is kept"
            )
        raise FitError(
            f"the process that trains {job} died {times} times, the last time with {how}",
            hint=hint,
            model=job.model,
            fold=job.folds[0],
            exit_code=exit_code,
        )


def _describe(code: int) -> str:
    """Return an exit code as text, with the name of a signal."""
    known = {-number.value: number.name for number in signal.Signals}
    return f"exit code {code}" + (f", {known[code]}" if code in known else "")
