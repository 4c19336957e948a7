"""How does one machine run Airflow without Docker: four daemons on SQLite, up, down, and how they are.

Everything lies below `<home>/airflow`. `up` and `down` may be repeated: they start what is missing and stop what is
there. `airflow standalone` is not used: it leaves orphans on SIGTERM and goes on without a daemon that died.
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
from serving.airflow.status import StackStatus, is_well, look
from storage.errors import SettingsError, TickwalkError
from storage.file_lock import file_lock
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)

_POLL_S: Final = 0.5
# The triggerer sometimes sleeps 10 s on a child that is gone already (seen 2026-11-23); nothing is lost by force.
_SHORT_GRACE_S: Final = 4.0


def up(
    settings: Settings, *, unpause: bool = False, record: bool = False, timeout_s: float = 300.0
) -> StackStatus:
    """Start what is not running, and return once everything is well and every DAG is visible.

    DAGs begin paused: a schedule that starts by itself is something to ask for.

    Args:
        settings: in force for the daemons and their tasks until they are started again.
        unpause: let the DAGs' schedules run.
        record: start the recorder too, which needs the venue's network.
        timeout_s: how long all of it may take.

    Raises:
        SettingsError: the port is taken, or the home cannot be written.
        TickwalkError: something did not start; what this call started is stopped again.
    """
    settings.ensure_home()
    airflow_home(settings).mkdir(mode=0o700, exist_ok=True)
    folder = _folder(settings)
    folder.make()
    with _only_one(folder):
        kept = airflow_home(settings) / "secrets.json"
        secrets, is_new = load_secrets(kept)
        env = local_env(settings, secrets) | {PASSWORD_VARIABLE: secrets.admin_password}
        with AirflowClient(base_url(settings), password=secrets.admin_password) as client:
            start = _Start(settings, folder, client, deadline_s=time.monotonic() + timeout_s)
            try:
                start.daemons([service for service in DAEMONS if record or not service.asked], env)
                dags = start.await_dags()
                for dag in dags if unpause else ():
                    client.unpause(dag)
            except BaseException:
                start.take_back()
                if is_new:
                    kept.unlink()  # or the password would never be told
                raise
            password = secrets.admin_password if is_new else None
            return look(settings, folder, client, dags=dags, new_password=password)


def down(settings: Settings, *, grace_s: float = 20.0) -> tuple[str, ...]:
    """Stop every daemon and all that it started, in the reverse order of their start; return who was running.

    Args:
        settings: of the home.
        grace_s: what a task in flight has to end; then it is stopped, and tried again after the next `up`.
    """
    folder = _folder(settings)
    if not folder.path.exists():
        return ()
    with _only_one(folder):
        return tuple(
            service.name
            for service in reversed(DAEMONS)
            if _stop(folder, service, grace_s=grace_s if service.patient else _SHORT_GRACE_S)
        )


def status(settings: Settings) -> StackStatus:
    """Return how the daemons are, without changing anything."""
    with AirflowClient(base_url(settings)) as client:
        return look(settings, _folder(settings), client)


class _Start:
    """One `up` at work: what it started, so that it can be taken back, and until when it may take."""

    def __init__(
        self, settings: Settings, folder: DaemonFolder, client: AirflowClient, *, deadline_s: float
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._client = client
        self._deadline_s = deadline_s
        self._started: list[Service] = []

    def daemons(self, wanted: Sequence[Service], env: dict[str, str]) -> None:
        """Start what does not run, each after what it needs, and wait for all."""
        missing = [service for service in wanted if not self._folder.is_running(service.name)]
        if any(service.name == "api-server" for service in missing):
            _refuse_taken_port(self._settings.airflow.port)
        for service in [service for service in SERVICES if service.once and missing]:
            self._run_once(service, env)
        for service in missing:
            self._await_well([daemon for daemon in wanted if daemon.name in service.needs])
            _stop(self._folder, service, grace_s=0.0)  # what a leader that died may have left
            self._folder.start(service.name, _argv(service), env)
            self._started.append(service)
            logger.info("daemon started", name=service.name, log=str(self._folder.log(service.name)))
        self._await_well(wanted)

    def await_dags(self) -> tuple[str, ...]:
        """Return the DAGs of our folder once seen; by the house's rule each file holds the one named like it."""
        expected = {path.stem for path in DAGS_DIR.glob("*.py")}

        def unseen() -> str:
            try:
                missing = expected - self._client.dag_ids()
                errors = self._client.import_errors()
            except NoAnswerError:
                return "an answer"  # a machine at its limit; the deadline decides
            for error in errors:
                if any(f"{name}.py" in error for name in missing):
                    raise TickwalkError(
                        f"a DAG cannot be read: {error}", hint="mend the file, then run: make up"
                    )
            return ", ".join(sorted(missing))

        self._await(unseen)
        return tuple(sorted(expected))

    def take_back(self) -> None:
        """Stop what was started here, last first."""
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
            raise TickwalkError(f"{service.name} ended with status {code}:\n{end}", hint=f"see {log}")

    def _await_well(self, services: Sequence[Service]) -> None:
        def not_well() -> str:
            healthy = self._client.health()
            for service in services:
                self._refuse_dead(service)
            return ", ".join(
                service.name for service in services if not is_well(service, self._folder, healthy)
            )

        self._await(not_well)

    def _refuse_dead(self, service: Service) -> None:
        process = self._folder.find(service.name)
        if process is not None and process.leader() is None:
            raise TickwalkError(
                f"{service.name} did not stay up: {exit_text(process)}\n{self._folder.tail(service.name)}",
                hint=f"see {self._folder.log(service.name)}",
            )

    def _await(self, missing: Callable[[], str]) -> None:
        while still := missing():
            if time.monotonic() > self._deadline_s:
                raise TickwalkError(
                    f"Airflow is not ready in time; still missing: {still}",
                    hint=f"see the logs in {self._folder.path}",
                )
            time.sleep(_POLL_S)


def _folder(settings: Settings) -> DaemonFolder:
    return DaemonFolder(airflow_home(settings) / "daemons")


def _argv(service: Service) -> list[str]:
    """Return the command line with the programs of the environment that we run in."""
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
    error = TickwalkError("another up or down of this Airflow is at work", hint="wait for it")
    with file_lock(folder.path / "lock", error=error):
        yield
