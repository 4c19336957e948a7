"""A worker on this or another machine, which runs tasks of some queues for an Airflow elsewhere.

It is Airflow's Edge worker: it asks the API for tasks over HTTP, signs its requests by the shared JWT secret, and needs
neither the database of Airflow nor an open port. Tasks read and write the lake and the home of this machine.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serving.airflow.secrets import load_secrets
from serving.airflow.services import (
    COMMON_ENV,
    DAGS_DIR,
    airflow_home,
    base_url,
    edge_env,
    inherited_env,
    project_env,
    settings_env,
)
from serving.airflow.stack import argv
from storage.errors import SettingsError
from storage.settings import Settings
from storage.settings.services import WORKER_QUEUES


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What one worker takes on."""

    queues: tuple[str, ...]
    """Queues of Airflow, such as `gpu`."""
    concurrency: int = 1
    """Tasks at a time."""
    name: str = ""
    """Name on Airflow's page of workers; empty: that of the host and the process."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.queues) - set(WORKER_QUEUES))
        if unknown or not self.queues:
            raise SettingsError(
                f"no task is ever in the queue {', '.join(unknown) or '(none)'}",
                hint=f"name one of {', '.join(WORKER_QUEUES)}",
            )
        if self.concurrency < 1:
            raise SettingsError(
                f"a worker cannot run {self.concurrency} tasks at a time", hint="set it to 1 or more"
            )


def worker_argv(options: WorkerOptions) -> list[str]:
    """Return the command line of Airflow's worker."""
    # A second worker of one name is refused, and so is one that comes back soon after it was killed.
    name = options.name or f"{socket.gethostname()}-{os.getpid()}"
    arguments = ["--queues", ",".join(options.queues), "--concurrency", str(options.concurrency)]
    return argv(("airflow", "edge", "worker", *arguments, "--edge-hostname", name))


def worker_env(settings: Settings, *, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the complete environment of the worker and its tasks.

    Raises:
        SettingsError: there is no JWT secret, or others may read it.
        ProjectError: `TICKWALK_PROJECT` names a directory without a project.
    """
    server = settings.airflow.server.rstrip("/") or base_url(settings)
    ours = {
        "AIRFLOW_HOME": str(airflow_home(settings)),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS_DIR),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{server}/execution/",
        "AIRFLOW__API_AUTH__JWT_SECRET": _jwt_secret(settings),
        # After SIGTERM, a task that takes longer is stopped too, and is retried elsewhere.
        "AIRFLOW__EDGE__DRAIN_TIMEOUT_SEC": "300",
        "PYTHONUNBUFFERED": "1",
    }
    shared = COMMON_ENV | edge_env(server)
    env = inherited_env(environ) | shared | ours | settings_env(settings) | project_env(environ)
    # The address of Airflow's database may have a password, and no worker needs it.
    env.pop("TICKWALK_AIRFLOW_DATABASE")
    return env


def run_worker(settings: Settings, options: WorkerOptions) -> None:
    """Wait for the API, then replace this process by the worker, which runs until it is stopped.

    Raises:
        SettingsError: there is no JWT secret, others may read it, or the home cannot be written.
    """
    from serving.airflow.await_api import await_healthy, health_url

    settings.ensure_home()
    airflow_home(settings).mkdir(mode=0o700, exist_ok=True)
    env = worker_env(settings)
    await_healthy(health_url(env))
    command = worker_argv(options)
    os.execve(command[0], command, env)  # noqa: S606  (no shell is wanted)


def _jwt_secret(settings: Settings) -> str:
    if not settings.airflow.secret_file:
        path = airflow_home(settings) / "secrets.json"
        if not path.exists():
            raise SettingsError(
                f"this worker has no secret: airflow.secret_file is empty, and {path} does not exist",
                hint="copy jwt_secret of the machine with Airflow into a file, and set airflow.secret_file to it",
            )
        return load_secrets(path)[0].jwt_secret
    path = Path(settings.airflow.secret_file)
    try:
        mode = path.stat().st_mode & 0o777
        secret = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(f"airflow.secret_file {path} cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise SettingsError(
            f"airflow.secret_file {path} is readable by others (mode {mode:o})", hint=f"run: chmod 600 {path}"
        )
    if not secret:
        raise SettingsError(f"airflow.secret_file {path} is empty")
    return secret
