"""A pool of training processes on this machine.

It is small and the project's own. `concurrent.futures.ProcessPoolExecutor` and loky give up all running jobs when one
process dies, and do not say which job killed it; pebble does, but has no channel for progress and pins no process to a
GPU. `multiprocessing` imports the main module again in each process, which runs a script without a guard twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from multiprocessing.connection import wait

from training.models.estimators import OnEpoch
from training.night.fit_job import FitJob, OnDone
from training.night.job_deaths import JobDeaths
from training.night.worker_process import WorkerProcess


class PoolRunner:
    """Does jobs in processes on this machine, each with the night's number of threads; on CUDA, one GPU each.

    A process that did a job on a fold gets the jobs of the same fold next, as it has read its rows. Each maps the
    night's files into memory, so they share the pages.

    Args:
        workers: number of processes, at least 1.
        gpus: names of the GPUs, as in CUDA_VISIBLE_DEVICES; process i sees the GPU i modulo their number.
        start: starts a process.
    """

    def __init__(
        self, workers: int, *, gpus: Sequence[str] = (), start: Callable[..., WorkerProcess] = WorkerProcess
    ) -> None:
        self._count, self._gpus, self._launch = workers, tuple(gpus), start

    def run(
        self, jobs: Sequence[FitJob], *, on_epoch: OnEpoch | None = None, on_done: OnDone | None = None
    ) -> None:
        """Do all jobs; see `training.night.runners.FitRunner`.

        Ctrl-C and errors end the processes, and what they did is kept.
        """
        waiting, deaths = list(jobs), JobDeaths()
        workers: list[WorkerProcess] = []
        try:
            for number in range(min(self._count, len(jobs))):
                workers.append(self._start(number))
                workers[-1].begin(_next_job(waiting, workers[-1], workers))
            while busy := {worker.connection: worker for worker in workers if worker.job is not None}:
                for connection in wait(list(busy)):
                    worker = busy[connection]  # type: ignore[index]  # typed as any object that can be waited for
                    job = worker.job
                    assert job is not None
                    message = worker.receive()
                    if message is None:
                        worker.job = None
                        deaths.add(job, exit_code=worker.exit_code())
                        waiting.insert(0, job)
                        workers[workers.index(worker)] = worker = self._start(worker.number)
                    elif message[0] == "epoch":
                        if on_epoch is not None:
                            on_epoch(*message[1:])
                        continue
                    elif message[0] == "failed":
                        raise message[1]
                    elif on_done is not None:
                        on_done(job, message[1])
                    worker.job = None
                    if waiting:
                        worker.begin(_next_job(waiting, worker, workers))
        except BaseException:
            for worker in workers:
                worker.interrupt()
            raise
        finally:
            for worker in workers:
                worker.close()

    def _start(self, number: int) -> WorkerProcess:
        return self._launch(number, gpu=self._gpus[number % len(self._gpus)] if self._gpus else None)


def _next_job(waiting: list[FitJob], worker: WorkerProcess, workers: Sequence[WorkerProcess]) -> FitJob:
    """Remove and return a job of the folds that a process has open, else of folds that no other process has open."""
    taken = {other.folds for other in workers if other is not worker}
    own = [job for job in waiting if job.folds == worker.folds]
    free = [job for job in waiting if job.folds not in taken]
    job = (own or free or waiting)[0]
    waiting.remove(job)
    return job
