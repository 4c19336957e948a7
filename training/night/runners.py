"""Runners of a night's jobs (training/night/fit_job.py): one after another, a pool of local processes, or Ray.

Every runner leaves the same bits, since a job depends on its night alone. A job whose process died is done again
(training/night/job_deaths.py) and continues at its newest checkpoint; an error of a job ends the run, and is raised as
it was.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Final, Protocol

import torch

from storage.errors import SettingsError
from storage.system_calls import usable_cores
from training.models.estimators import OnEpoch
from training.night.fit_job import FitJob, FitProcess, OnDone
from training.night.pool_runner import PoolRunner
from training.night.ray_runner import RayRunner

RUNNERS: Final = ("pool", "sequential", "ray")


class FitRunner(Protocol):
    """Does jobs, whatever their order and place."""

    def run(
        self, jobs: Sequence[FitJob], *, on_epoch: OnEpoch | None = None, on_done: OnDone | None = None
    ) -> None:
        """Do all jobs.

        Args:
            jobs: of one night, oldest fold first.
            on_epoch: called in this process at every validation point of a network with model, fold and log.
            on_done: called in this process after each job.

        Raises:
            FitError: a job failed, or its process died repeatedly.
            CheckpointError, SettingsError: see `FitProcess.run`.
        """
        ...


class SequentialRunner:
    """Does jobs one after another in this process."""

    def run(
        self, jobs: Sequence[FitJob], *, on_epoch: OnEpoch | None = None, on_done: OnDone | None = None
    ) -> None:
        """Do all jobs; see `FitRunner.run`."""
        process = FitProcess()
        for job in jobs:
            began_s = time.perf_counter()
            process.run(job, on_epoch=on_epoch)
            if on_done is not None:
                on_done(job, time.perf_counter() - began_s)


def count_workers(runner: str, workers: int, *, threads: int, device: str) -> int:
    """Return the number of processes of a runner: as asked, or as many as this machine has room for.

    Args:
        runner: one of `RUNNERS`.
        workers: as asked; 0: one for each GPU on CUDA, one on MPS, and on a CPU the cores divided by the threads.
        threads: of torch in each process; 0: all cores.
        device: of torch.

    Raises:
        SettingsError: processes times threads would exceed the cores.
    """
    cores = usable_cores()
    threads = threads or cores
    if runner == "sequential":
        return 1
    if workers * threads > cores and runner == "pool":
        raise SettingsError(
            f"training.workers is {workers}, with {threads} threads each, and this process may use {cores} cores",
            hint="use 0 for as many as fit, or fewer threads (training.threads; they are part of a night's id)",
        )
    if workers:
        return workers
    if device == "cuda":
        return max(torch.cuda.device_count(), 1)
    return 1 if device == "mps" else max(cores // threads, 1)


def make_runner(runner: str, workers: int, *, threads: int, device: str) -> FitRunner:
    """Return a runner; a pool of one process is the sequential runner.

    Args:
        runner, workers, threads, device: see `count_workers`.

    Raises:
        SettingsError: no such runner, too many workers, or Ray is not installed.
    """
    if runner not in RUNNERS:
        raise SettingsError(f"training.runner is {runner!r}", hint=f"set it to one of: {', '.join(RUNNERS)}")
    count = count_workers(runner, workers, threads=threads, device=device)
    if runner == "ray":
        return RayRunner(workers, threads=threads or usable_cores(), gpus=1 if device == "cuda" else 0)
    if count == 1:
        return SequentialRunner()
    return PoolRunner(count, gpus=_gpus() if device == "cuda" else ())


def _gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [name for name in named.split(",") if name] or [str(i) for i in range(torch.cuda.device_count())]
