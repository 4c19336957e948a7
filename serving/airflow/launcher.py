"""Launcher of Airflow on one machine without Docker: starts and stops the supervisor and its daemons.

All files are in `<home>/airflow`. `up` and `down` are idempotent: they start what is missing and stop what runs.
`airflow standalone` is not used: it leaves orphans on SIGTERM and continues without a daemon that died.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from serving.airflow.client import AirflowClient, NoAnswerError
from serving.airflow.daemons import DaemonFolder
from serving.airflow.fold_job import stop_all_jobs
from serving.airflow.secrets import load_secrets
from serving.airflow.service_processes import refuse_taken_port
from serving.airflow.services import (
    DAGS_DIR,
    airflow_home,
    base_url,
    inherited_env,
    project_env,
    settings_env,
)
from serving.airflow.stack import (
    GUARD,
    RECIPE_CHECK,
    SUPERVISOR,
    daemon_folder,
    guard_command,
    services_of,
    stoppable_services,
)
from serving.airflow.status import StackStatus, read_status, read_supervisor
from serving.airflow.supervisor import stop_services
from serving.airflow.supervisor_state import read_state, state_path
from storage.errors import TickwalkError
from storage.file_lock import file_lock
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)

_POLL_S: Final = 0.5
# A supervisor may be in the middle of a step, which waits for a health page, or for a daemon to stop.
_LEAVE_S: Final = 25.0
_GUARD_GRACE_S: Final = 5.0


def up(
    settings: Settings, *, unpause: bool = False, record: bool = False, timeout_s: float = 300.0
) -> StackStatus:
    """Start what is not running, and return once everything is healthy and every DAG is visible.

    DAGs start paused, so that no schedule runs unless it was requested.

    Args:
        settings: used by the daemons and their tasks until they are restarted.
        unpause: enable the DAGs' schedules.
        record: start the recorder too, which needs network access to the venue.
        timeout_s: timeout of the whole start.

    Raises:
        SettingsError: the port is taken, or the home cannot be written.
        TickwalkError: a daemon did not start; those that this call started are stopped again.
    """
    settings.ensure_home()
    airflow_home(settings).mkdir(mode=0o700, exist_ok=True)
    folder = daemon_folder(settings)
    folder.make()
    with _only_one(folder):
        secrets_file = airflow_home(settings) / "secrets.json"
        secrets, is_new = load_secrets(secrets_file)
        with AirflowClient(base_url(settings), password=secrets.admin_password) as client:
            start = _Start(settings, folder, client, deadline_s=time.monotonic() + timeout_s)
            try:
                start.supervisor(record=record)
                start.await_healthy()
                dags = start.await_dags()
                for dag in dags if unpause else ():
                    client.unpause(dag)
            except BaseException:
                start.roll_back()
                if is_new:
                    secrets_file.unlink()  # or the password would never be shown
                raise
            password = secrets.admin_password if is_new else None
            return read_status(settings, folder, client, dags=dags, new_password=password)


def down(settings: Settings, *, grace_s: float = 20.0) -> tuple[str, ...]:
    """Stop the supervisor, then every daemon in reverse start order; return the names of the daemons that ran.

    Args:
        settings: settings of the home.
        grace_s: time for running tasks to finish; then they are stopped, and retried after the next `up`.
    """
    folder = daemon_folder(settings)
    if not folder.path.exists():
        return ()
    with _only_one(folder):
        _stop_supervisor(folder)
        stopped = stop_services(stoppable_services(), folder, grace_s=grace_s)
        stop_all_jobs(settings)
        state_path(folder.path).unlink(missing_ok=True)
        return stopped


def status(settings: Settings) -> StackStatus:
    """Return the status of the supervisor and the daemons."""
    with AirflowClient(base_url(settings)) as client:
        return read_status(settings, daemon_folder(settings), client)


class _Start:
    """State of one `up`: its deadline, and what ran before it, so that it can stop the rest again."""

    def __init__(
        self, settings: Settings, folder: DaemonFolder, client: AirflowClient, *, deadline_s: float
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._client = client
        self._deadline_s = deadline_s
        self._is_starter = False
        self._ran_before = {
            service.name for service in stoppable_services() if folder.is_running(service.name)
        }
        state = read_state(folder.path)
        self._deaths = {record.name: record.deaths for record in state.services} if state else {}

    def supervisor(self, *, record: bool) -> None:
        """Start the supervisor where none runs, or in place of one without the recorder that is wanted now."""
        state = read_state(self._folder.path)
        supervisor = read_supervisor(self._folder, state)
        has_recorder = state is not None and state.find("recorder") is not None
        if supervisor.state == "running" and (has_recorder or not record):
            return
        if "api-server" not in self._ran_before:
            refuse_taken_port(self._settings.airflow.port)
        services_of(self._settings, record=record)  # refuses what cannot start
        _stop_supervisor(self._folder)
        self._is_starter = True
        env = inherited_env(os.environ) | settings_env(self._settings) | project_env(os.environ)
        self._folder.start(
            GUARD, guard_command(record=record or "recorder" in self._ran_before), env, log=SUPERVISOR
        )

    def await_healthy(self) -> None:
        """Wait until the supervisor says that every service is healthy.

        Raises:
            TickwalkError: a service or the supervisor ended.
        """
        began_s = time.time()

        def unhealthy() -> str:
            state = read_state(self._folder.path)
            if not self._folder.is_running(GUARD) and not self._folder.is_running(SUPERVISOR):
                self._refuse("the supervisor", "it ended", log=SUPERVISOR)
            if state is None or state.written_s < began_s:
                return "the supervisor"
            needed = [found for found in state.services if found.name != RECIPE_CHECK.name]
            for found in needed:
                if found.deaths > self._deaths.get(found.name, 0):
                    self._refuse(found.name, found.last_exit, log=found.name)
            return ", ".join(found.name for found in needed if found.phase not in ("healthy", "done"))

        self._await(unhealthy)

    def await_dags(self) -> tuple[str, ...]:
        """Wait until Airflow lists the DAGs of our folder, and return them; each file holds the DAG of its name."""
        expected = {path.stem for path in DAGS_DIR.glob("*.py")}

        def unseen() -> str:
            try:
                missing = expected - self._client.dag_ids()
                errors = self._client.import_errors()
            except NoAnswerError:
                return "an answer"  # an overloaded machine; the deadline decides
            for error in errors:
                if any(f"{name}.py" in error for name in missing):
                    raise TickwalkError(
                        f"a DAG cannot be read: {error}", hint="fix the file, then run: make up"
                    )
            return ", ".join(sorted(missing))

        self._await(unseen)
        return tuple(sorted(expected))

    def roll_back(self) -> None:
        """Stop what was started here, last first."""
        if not self._is_starter:
            return
        _stop_supervisor(self._folder)
        ours = [service for service in stoppable_services() if service.name not in self._ran_before]
        stop_services(ours, self._folder, grace_s=0.0)
        if not self._ran_before:
            state_path(self._folder.path).unlink(missing_ok=True)

    def _refuse(self, name: str, how: str, *, log: str) -> None:
        raise TickwalkError(
            f"{name} did not stay up: {how}\n{self._folder.tail(log)}",
            hint=f"see {self._folder.log(log)}",
        )

    def _await(self, missing: Callable[[], str]) -> None:
        while waiting_for := missing():
            if time.monotonic() > self._deadline_s:
                raise TickwalkError(
                    f"Airflow was not ready in time; still missing: {waiting_for}",
                    hint=f"see the logs in {self._folder.path}",
                )
            time.sleep(_POLL_S)


def _stop_supervisor(folder: DaemonFolder) -> None:
    """End the supervisor and its guard, and leave the daemons as they are.

    Each of the two starts the other again where it is killed, so this looks twice.
    """
    for _ in range(2):
        _ask_to_leave(folder)
        folder.stop(GUARD, grace_s=_GUARD_GRACE_S)
    _ask_to_leave(folder)
    folder.forget(SUPERVISOR)


def _ask_to_leave(folder: DaemonFolder) -> None:
    """End the supervisor by SIGUSR1, which it obeys after its step, and otherwise by SIGKILL."""
    process = folder.find(SUPERVISOR)
    leader = process.leader() if process else None
    if leader is None:
        return
    leader.send_signal(signal.SIGUSR1)
    deadline_s = time.monotonic() + _LEAVE_S
    while folder.is_running(SUPERVISOR):
        if time.monotonic() > deadline_s:
            leader.kill()
        time.sleep(_POLL_S / 5)


@contextmanager
def _only_one(folder: DaemonFolder) -> Iterator[None]:
    error = TickwalkError("another up or down of this Airflow is running", hint="wait until it has finished")
    with file_lock(folder.path / "lock", error=error):
        yield
