"""Program of the supervisor: `tickwalk airflow supervise`, in the foreground.

`tickwalk airflow up` starts it behind a guard (`serving/airflow/guard.py`); systemd starts it directly. SIGTERM and
Ctrl-C stop the daemons in reverse order. SIGUSR1 ends the supervisor alone, for `down` and for a successor.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Final

from serving.airflow.daemons import DaemonFolder
from serving.airflow.databases import database_kind
from serving.airflow.fold_job import stop_all_jobs
from serving.airflow.service_processes import ServiceProcesses
from serving.airflow.services import airflow_home
from serving.airflow.stack import GUARD, SUPERVISOR, daemon_folder, guard_command, services_of
from serving.airflow.supervisor import Supervisor
from serving.airflow.supervisor_state import SupervisorState, read_state, write_state
from storage.errors import TickwalkError
from storage.file_lock import file_lock
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)

_STEP_S: Final = 1.0
_GRACE_S: Final = 20.0
_HANDOVER_S: Final = 30.0


def supervise(settings: Settings, *, record: bool = False, is_guarded: bool = False) -> None:
    """Keep Airflow's daemons running until a signal.

    Args:
        settings: used by the daemons and their tasks.
        record: run the recorder too.
        is_guarded: started by the guard, which is started again if it was killed.

    Raises:
        TickwalkError: another supervisor runs, or the settings are wrong.
    """
    settings.ensure_home()
    airflow_home(settings).mkdir(mode=0o700, exist_ok=True)
    folder = daemon_folder(settings)
    folder.make()
    error = TickwalkError(
        f"another supervisor of {folder.path} is running", hint="run: tickwalk airflow status"
    )
    # A predecessor gets time to end.
    lock = file_lock(folder.path / "supervisor.lock", error=error, timeout_s=_HANDOVER_S)
    with lock, _Signals() as signals:
        if is_guarded and not _has_guard(folder, record=record):
            return
        folder.record(SUPERVISOR, os.getpid(), sys.argv)
        services = services_of(settings, record=record)
        with ServiceProcesses(settings, folder) as processes:
            previous = read_state(folder.path)
            supervisor = Supervisor(
                services,
                folder,
                start=processes.start,
                is_healthy=processes.is_healthy,
                previous=previous.services if previous else (),
            )
            logger.info("supervisor started", services=len(services), guarded=is_guarded)
            kind = database_kind(settings.airflow.database)
            while not signals.seen:
                if is_guarded and not _has_guard(folder, record=record):
                    return
                processes.begin_step()
                supervisor.step(time.monotonic(), wall_s=time.time())
                records = tuple(supervisor.records.values())
                write_state(folder.path, SupervisorState(kind, time.time(), records))
                for name in (*(service.name for service in services), SUPERVISOR):
                    folder.rotate_log(name)
                signals.wait(_STEP_S)
            logger.info("supervisor ends", signal=signals.seen[-1].name)
            if signals.seen[-1] != signal.SIGUSR1:
                supervisor.stop_all(grace_s=_GRACE_S)
                stop_all_jobs(settings)
        folder.forget(SUPERVISOR)


def _has_guard(folder: DaemonFolder, *, record: bool) -> bool:
    """Return whether this process's parent is the guard on record; if that was killed, start another one.

    Otherwise this supervisor is surplus: `down` has removed the record, or another guard has a supervisor of its own.
    """
    guard = folder.find(GUARD)
    if guard is not None and guard.pid == os.getppid():
        return True
    if guard is not None and guard.leader() is None:
        # The new guard starts a supervisor, which waits for the end of this one.
        logger.warning("guard of the supervisor ended", restarted=True)
        folder.start(GUARD, guard_command(record=record), os.environ, log=SUPERVISOR)
    return False


@dataclass(slots=True)
class _Signals:
    """Signals that this process got; `wait` ends early at one, and at the end of a child."""

    seen: list[signal.Signals] = field(default_factory=list)
    _pipe: Sequence[int] = ()

    def __enter__(self) -> _Signals:
        self._pipe = os.pipe()
        for end in self._pipe:
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._pipe[1])
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._note)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        for end in self._pipe:
            os.close(end)

    def wait(self, timeout_s: float) -> None:
        """Wait for a signal or the time."""
        if select.select([self._pipe[0]], [], [], timeout_s)[0]:
            os.read(self._pipe[0], 4096)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.seen.append(signal.Signals(number))
