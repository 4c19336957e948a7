"""A process that trains for a `PoolRunner`, and its handle in the process that started it.

Both ends of a socket exchange pickled messages: jobs as plain values go in; `("epoch", model, fold, log)`,
`("done", seconds)` or `("failed", error)` come back. The process has a group of its own, so Ctrl-C reaches its parent
alone; it ends when told to, or at the next message after its parent has ended.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from storage.errors import TickwalkError
from storage.logs import configure_logs, shown_level
from training.night.fit_job import FitJob, FitProcess

_GRACE_S: Final = 10.0
_ENDED: Final = (EOFError, ConnectionError, BrokenPipeError)


class WorkerProcess:
    """A training process.

    Args:
        number: of the process, from 0.
        gpu: the only GPU that it sees; `None`: all.
    """

    def __init__(self, number: int, *, gpu: str | None = None) -> None:
        self.number = number
        self.job: FitJob | None = None
        self.folds: tuple[int, ...] = ()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = self._launch(theirs.fileno(), gpu)
        self.connection: Connection[Any, Any] = Connection(ours.detach())

    def _launch(self, handle: int, gpu: str | None) -> subprocess.Popen[bytes]:
        """Start the process with its end of the connection."""
        paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        environment = os.environ | {"PYTHONPATH": paths}
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        # -P: a package of the working directory must not hide ours.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, str(handle), shown_level()],
            pass_fds=[handle],
            stdin=subprocess.DEVNULL,
            env=environment,
            process_group=0,
        )

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    def begin(self, job: FitJob) -> None:
        """Send a job; a process that has ended meanwhile is noticed when its answer is received."""
        self.job, self.folds = job, job.folds
        with suppress(*_ENDED):
            self.connection.send(job.to_plain())

    def receive(self) -> tuple[Any, ...] | None:
        """Return the next message, or `None` if the process has ended."""
        try:
            message: tuple[Any, ...] = self.connection.recv()
        except (EOFError, OSError):
            return None
        return message

    def exit_code(self) -> int:
        """Return the exit code of a process that has ended, after the connection is closed."""
        self.connection.close()
        return self._process.wait()

    def interrupt(self) -> None:
        """Ask the process to end at once; checkpoints and finished fits stay."""
        self._process.terminate()

    def close(self) -> None:
        """Close the connection, and wait until the process has ended; it is killed where that takes too long."""
        self.connection.close()
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # in a library that notices no signal; every file is written atomically
            self._process.wait()


def serve(connection: Connection[Any, Any]) -> None:
    """Do jobs until the connection is closed."""
    process = FitProcess()
    with suppress(*_ENDED):
        while True:
            job = FitJob.from_plain(connection.recv())
            began_s = time.perf_counter()
            try:
                process.run(job, on_epoch=lambda *progress: connection.send(("epoch", *progress)))
                answer: tuple[Any, ...] = ("done", time.perf_counter() - began_s)
            except _ENDED:
                raise
            except Exception as error:
                answer = ("failed", _portable(error, job))
            connection.send(answer)


def _portable(error: Exception, job: FitJob) -> Exception:
    """Return an error that can be pickled, with its trace as a note."""
    trace = "".join(traceback.format_exception(error))
    is_known = isinstance(error, TickwalkError) or type(error).__module__ == "builtins"
    try:
        pickle.dumps(error)
    except Exception:
        is_known = False  # a fact of it is no plain value
    if not is_known:  # the other process may not be able to import its class
        error = RuntimeError(f"{type(error).__name__} while training {job}: {error}")
    error.add_note(f"in the process {os.getpid()}, which trained {job}:\n{trace}")
    return error


def _end(*_: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    configure_logs(level=sys.argv[2])
    serve(Connection(int(sys.argv[1])))
