"""A runner of a night's jobs on Ray: for many GPUs or machines without Airflow (extra `ray`).

It joins the cluster of RAY_ADDRESS, or starts one on this machine. All machines must have the home at the same path on
a shared disk, and the same environment and hardware: a job refuses to continue a night on others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

from storage.errors import SettingsError
from training.models.estimators import OnEpoch
from training.night.fit_job import FitJob, FitProcess, OnDone
from training.night.job_deaths import JobDeaths

_POLL_S = 0.2


class RayRunner:
    """Does jobs as tasks of Ray.

    Args:
        workers: largest number of tasks at once; 0: as many as the cluster has room for.
        threads: of torch, and cores that a task reserves.
        gpus: that a task reserves.

    Raises:
        SettingsError: Ray is not installed.
    """

    def __init__(self, workers: int, *, threads: int, gpus: float) -> None:
        self._ray = _ray()
        self._workers, self._threads, self._gpus = workers, threads, gpus

    def run(
        self, jobs: Sequence[FitJob], *, on_epoch: OnEpoch | None = None, on_done: OnDone | None = None
    ) -> None:
        """Do all jobs; see `training.night.runners.FitRunner`."""
        ray = self._ray
        is_ours = not ray.is_initialized()
        if is_ours:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
            local = {"address": "local", "include_dashboard": False}
            ray.init(log_to_driver=False, **({} if os.environ.get("RAY_ADDRESS") else local))
        try:
            self._run(ray, list(jobs), on_epoch, on_done)
        finally:
            if is_ours:
                ray.shutdown()

    def _run(self, ray: Any, waiting: list[FitJob], on_epoch: OnEpoch | None, on_done: OnDone | None) -> None:
        from ray.util.queue import Queue

        progress, running, deaths = Queue(actor_options={"num_cpus": 0}), dict[Any, FitJob](), JobDeaths()
        # Ray would repeat a task that ran out of memory without end, so it repeats none.
        task = ray.remote(num_cpus=self._threads, num_gpus=self._gpus, max_retries=0)(_train)
        try:
            while waiting or running:
                while waiting and len(running) < (self._workers or len(waiting) + len(running)):
                    job = waiting.pop(0)
                    running[task.remote(job.to_plain(), progress)] = job
                done, _ = ray.wait(list(running), timeout=_POLL_S)
                for message in progress.get_nowait_batch(progress.qsize()):
                    if on_epoch is not None:
                        on_epoch(*message)
                for reference in done:
                    job = running.pop(reference)
                    try:
                        seconds = ray.get(reference)
                    except ray.exceptions.RayTaskError as error:
                        raise (error.cause if isinstance(error.cause, Exception) else error) from error
                    except (ray.exceptions.RayError, OSError) as error:
                        deaths.add(job, cause=str(error).splitlines()[0])
                        waiting.insert(0, job)
                    else:
                        if on_done is not None:
                            on_done(job, seconds)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)
            progress.shutdown(force=True)


@cache
def _process() -> FitProcess:
    return FitProcess()


def _train(plain: dict[str, Any], progress: Any) -> float:
    """Do a job in a process of Ray, which keeps what it has read, and return the seconds."""
    began_s = time.perf_counter()
    _process().run(FitJob.from_plain(plain), on_epoch=lambda *message: progress.put(message))
    return time.perf_counter() - began_s


def _ray() -> Any:
    """Return the module of Ray.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise SettingsError(
            "training.runner is 'ray', and Ray is not installed",
            hint="install it: pip install 'tickwalk[ray]'",
        ) from error
    return ray
