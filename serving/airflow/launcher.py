"""Launcher of Airflow on one machine without Docker: four daemons on SQLite.

All files are in `<home>/airflow`. `up` and `down` are idempotent: they start what is missing and stop what runs.
`airflow standalone` is not used: it leaves orphans on SIGTERM and continues without a daemon that died.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil

from serving.airflow.client import AirflowClient, NoAnswerError
from serving.airflow.daemons import DaemonFolder, exit_text
from serving.airflow.db_migrate import PASSWORD_VARIABLE
from serving.airflow.secrets import load_secrets
from serving.airflow.services import (
    DAEMONS,
    DAGS_DIR,
    HOST,
    SERVICES,
    Service,
    airflow_home,
    base_url,
    local_env,
)
from serving.airflow.status import StackStatus, is_service_healthy, read_status
from storage.errors import SettingsError, TickwalkError
from storage.file_lock import file_lock
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)

_POLL_S: Final = 0.5
# The triggerer sometimes waits 10 s for a child that has already ended (seen 2026-11-23); killing it loses nothing.
_SHORT_GRACE_S: Final = 4.0


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
    folder = _folder(settings)
    folder.make()
    with _only_one(folder):
        secrets_file = airflow_home(settings) / "secrets.json"
        secrets, is_new = load_secrets(secrets_file)
        env = local_env(settings, secrets) | {PASSWORD_VARIABLE: secrets.admin_password}
        with AirflowClient(base_url(settings), password=secrets.admin_password) as client:
            start = _Start(settings, folder, client, deadline_s=time.monotonic() + timeout_s)
            try:
                start.daemons([service for service in DAEMONS if record or not service.is_optional], env)
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
    """Stop every daemon in reverse start order; return the names of those that were running.

    Args:
        settings: settings of the home.
        grace_s: time for running tasks to finish; then they are stopped, and retried after the next `up`.
    """
    folder = _folder(settings)
    if not folder.path.exists():
        return ()
    with _only_one(folder):
        return tuple(
            service.name
            for service in reversed(DAEMONS)
            if _stop(folder, service, grace_s=grace_s if service.has_tasks else _SHORT_GRACE_S)
        )


def status(settings: Settings) -> StackStatus:
    """Return the status of the daemons."""
    with AirflowClient(base_url(settings)) as client:
        return read_status(settings, _folder(settings), client)


class _Start:
    """State of one `up`: its deadline, and the daemons it started, so that it can stop them again."""

    def __init__(
        self, settings: Settings, folder: DaemonFolder, client: AirflowClient, *, deadline_s: float
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._client = client
        self._deadline_s = deadline_s
        self._started: list[Service] = []

    def daemons(self, wanted: Sequence[Service], env: dict[str, str]) -> None:
        """Start the missing daemons, each after the services it needs, and wait for all."""
        missing = [service for service in wanted if not self._folder.is_running(service.name)]
        if any(service.name == "api-server" for service in missing):
            _refuse_taken_port(self._settings.airflow.port)
        for service in [service for service in SERVICES if service.once and missing]:
            self._run_once(service, env)
        for service in missing:
            self._await_healthy([daemon for daemon in wanted if daemon.name in service.needs])
            _stop(self._folder, service, grace_s=0.0)  # children that a dead leader may have left
            self._folder.start(service.name, _argv(service), env)
            self._started.append(service)
            logger.info("daemon started", name=service.name, log=str(self._folder.log(service.name)))
        self._await_healthy(wanted)

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
        """Stop the daemons that were started here, last first."""
        for service in reversed(self._started):
            _stop(self._folder, service, grace_s=_SHORT_GRACE_S)

    def _run_once(self, service: Service, env: dict[str, str]) -> None:
        log = self._folder.log(service.name)
        try:
            left_s = self._deadline_s - time.monotonic()
            code = self._folder.run(service.name, _argv(service), env, timeout_s=left_s)
        except subprocess.TimeoutExpired as error:
            raise TickwalkError(f"{service.name} did not end in time", hint=f"see {log}") from error
        if code != 0:
            end = self._folder.tail(service.name)
            raise TickwalkError(f"{service.name} exited with code {code}:\n{end}", hint=f"see {log}")

    def _await_healthy(self, services: Sequence[Service]) -> None:
        def unhealthy() -> str:
            healthy = self._client.health()
            for service in services:
                self._refuse_dead(service)
            return ", ".join(
                service.name for service in services if not is_service_healthy(service, self._folder, healthy)
            )

        self._await(unhealthy)

    def _refuse_dead(self, service: Service) -> None:
        process = self._folder.find(service.name)
        if process is not None and process.leader() is None:
            raise TickwalkError(
                f"{service.name} did not stay up: {exit_text(process)}\n{self._folder.tail(service.name)}",
                hint=f"see {self._folder.log(service.name)}",
            )

    def _await(self, missing: Callable[[], str]) -> None:
        while waiting_for := missing():
            if time.monotonic() > self._deadline_s:
                raise TickwalkError(
                    f"Airflow was not ready in time; still missing: {waiting_for}",
                    hint=f"see the logs in {self._folder.path}",
                )
            time.sleep(_POLL_S)


def _folder(settings: Settings) -> DaemonFolder:
    return DaemonFolder(airflow_home(settings) / "daemons")


def _argv(service: Service) -> list[str]:
    """Return the command line with programs from the current environment."""
    program, *arguments = service.command
    found = Path(sys.executable) if program == "python" else Path(sys.executable).with_name(program)
    if not found.exists():
        raise SettingsError(
            f"the program {found} does not exist", hint="install tickwalk into this environment"
        )
    return [str(found), *arguments]


def _stop(folder: DaemonFolder, service: Service, *, grace_s: float) -> bool:
    stopped = folder.stop(service.name, grace_s=grace_s)
    if stopped:
        logger.info("daemon stopped", name=service.name)
    return stopped


def _refuse_taken_port(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise SettingsError(
                f"port {port} on {HOST} is taken{_holder(port)}",
                hint="stop that program, or set airflow.port",
            ) from error


def _holder(port: int) -> str:
    try:
        listeners = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.pid]
        owner = next(psutil.Process(c.pid) for c in listeners if c.laddr and c.laddr.port == port)
        return f" by {owner.name()} (pid {owner.pid})"
    except (psutil.Error, StopIteration):
        return ""


@contextmanager
def _only_one(folder: DaemonFolder) -> Iterator[None]:
    error = TickwalkError("another up or down of this Airflow is running", hint="wait until it has finished")
    with file_lock(folder.path / "lock", error=error):
        yield
