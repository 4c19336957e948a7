"""A training process that is forked from the test, which has torch loaded: importing it takes seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import traceback
from multiprocessing.connection import Connection
from typing import Any, cast

from training.night.worker_process import WorkerProcess, serve


class ForkedWorker(WorkerProcess):
    """A `WorkerProcess` in all else: it has a process id, can be killed, and is told its jobs over the same socket."""

    def _launch(self, handle: int, gpu: str | None) -> subprocess.Popen[bytes]:
        assert gpu is None
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
                own = os.dup2(handle, 3)
                os.closerange(4, 1024)  # ends of the sockets of other processes among them
                serve(Connection(own))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        return cast("subprocess.Popen[bytes]", _Forked(pid))


class _Forked:
    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def wait(self, timeout_s: Any = None) -> int:
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code

    def terminate(self) -> None:
        if self._code is None:
            os.kill(self.pid, signal.SIGTERM)
