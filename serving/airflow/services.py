"""Services of the Airflow stack: command lines and environment.

`docker-compose.yml` starts the same command lines with the same `COMMON_ENV`; a test compares them. Values that differ
(addresses, the database, secrets) are set by `local_env` here and by the Compose file there.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serving.airflow.databases import database_kind, database_url
from serving.airflow.secrets import Secrets
from storage.project import VARIABLE as PROJECT_VARIABLE
from storage.project import find_project
from storage.settings import Settings, known_keys

HOST: Final = "127.0.0.1"
DAGS_DIR: Final = Path(__file__).resolve().parents[2] / "dags"
PLUGINS_DIR: Final = DAGS_DIR.parent / "serving" / "airflow_plugin" / "plugins"


@dataclass(frozen=True, slots=True)
class Service:
    """One program of the stack."""

    name: str
    """Name here, in `docker-compose.yml`, and of the log."""
    command: tuple[str, ...]
    """Command line; the program is looked up in the environment of the launcher or container."""
    component: str = ""
    """Name in Airflow's health page; empty if it is not listed there."""
    needs: tuple[str, ...] = ()
    """Services that must be healthy (or finished, if they run once) before this one starts."""
    once: bool = False
    """Runs to completion instead of staying up."""
    is_optional: bool = False
    """`up` starts it only on request, since it needs network access."""
    has_tasks: bool = False
    """Runs tasks, which get time to finish when it is stopped."""
    hung_checks: int = 12
    """Failed health checks in a row, 5 s apart, after which the supervisor restarts it."""
    stop_signal: signal.Signals = signal.SIGTERM
    """Signal that asks it to end."""
    # The triggerer sometimes waits 10 s for a child that has already ended (seen 2026-11-23); killing it loses nothing.
    stop_grace_s: float = 4.0
    """Seconds that it has to end, without regard to tasks; then it is killed."""
    user: str = ""
    """User that runs it, where the launcher is root; empty: the launcher's."""


# In start order; they stop in reverse order.
SERVICES: Final = (
    Service("migrations", ("python", "-m", "serving.airflow.db_migrate"), once=True),
    Service("api-server", ("airflow", "api-server"), component="metadatabase", needs=("migrations",)),
    Service("dag-processor", ("airflow", "dag-processor"), component="dag_processor", needs=("migrations",)),
    # The log servers would listen on every interface; the log folder is shared instead.
    Service(
        "triggerer",
        ("airflow", "triggerer", "--skip-serve-logs"),
        component="triggerer",
        needs=("migrations",),
    ),
    # A scheduler without the API marks due tasks as failed before their code runs (measured).
    Service(
        "scheduler",
        ("airflow", "scheduler", "--skip-serve-logs"),
        component="scheduler",
        needs=("api-server",),
        has_tasks=True,
        # A restart ends its tasks, so it gets more time than the others.
        hung_checks=36,
    ),
    Service("recorder", ("tickwalk", "record"), is_optional=True),
)
DAEMONS: Final = tuple(service for service in SERVICES if not service.once)

COMMON_ENV: Final[dict[str, str]] = {
    "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True",
    "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
    "AIRFLOW__API__WORKERS": "1",
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "15",
    # A short outage of the API must not kill hours of training: 60 missed heartbeats, where the default is 3.
    "AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS": "60",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "300",
    # Tasks that start before the API, or meet its restart, ask again for minutes: no attempt is spent (measured).
    "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "15",
    "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "30",
    # A day, so that the token of a long training does not expire (Airflow issue 67939).
    "AIRFLOW__EXECUTION_API__JWT_EXPIRATION_TIME": "86400",
    # Without it a cleared task finds the state of its last success and does nothing.
    "AIRFLOW__STATE_STORE__CLEAR_ON_SUCCESS": "True",
}


EDGE_EXECUTOR: Final = "airflow.providers.edge3.executors.EdgeExecutor"


# A worker that was killed and comes back by the same name is refused for five of these: 50 s instead of 150 s.
EDGE_HEARTBEAT_S: Final = "10"


def executors(worker_queues: Sequence[str]) -> str:
    """Return Airflow's executors: tasks run in the scheduler, and those of queues with workers on the workers.

    Args:
        worker_queues: setting `airflow.worker_queues`.
    """
    return ",".join(["LocalExecutor", *([EDGE_EXECUTOR] if worker_queues else [])])


def edge_env(url: str) -> dict[str, str]:
    """Return the settings of the API by which workers get their tasks; `url` is the address of Airflow."""
    return {
        "AIRFLOW__EDGE__API_ENABLED": "True",
        "AIRFLOW__EDGE__API_URL": f"{url}/edge_worker/v1/rpcapi",
        "AIRFLOW__EDGE__HEARTBEAT_INTERVAL": EDGE_HEARTBEAT_S,
    }


def airflow_home(settings: Settings) -> Path:
    """Return Airflow's folder: database, logs, pid files and secrets."""
    return settings.home.resolve() / "airflow"


def base_url(settings: Settings) -> str:
    """Return the address of the web UI and the API."""
    return f"http://{HOST}:{settings.airflow.port}"


def local_env(
    settings: Settings, secrets: Secrets, *, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the complete environment of a service on this machine.

    The user's own `AIRFLOW*` variables are dropped, or another installation's database would be migrated. So is
    `PYTHONDONTWRITEBYTECODE`, with which every start would compile Airflow again. Tasks use the project folder that is
    in force here, whatever directory they run in.

    Raises:
        ProjectError: `TICKWALK_PROJECT` names a directory without a project.
    """
    home = airflow_home(settings)
    inherited = inherited_env(environ)
    if database_kind(settings.airflow.database) == "postgres":
        # The user's defaults of another server must not lead away from ours.
        inherited = {name: value for name, value in inherited.items() if not name.startswith("PG")}
    ours = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS_DIR),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PLUGINS_DIR),
        "AIRFLOW__CORE__PARALLELISM": str(settings.airflow.parallelism),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{base_url(settings)}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "AIRFLOW__CORE__FERNET_KEY": secrets.fernet_key,
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": str(settings.airflow.port),
        "AIRFLOW__API__BASE_URL": base_url(settings),
        "AIRFLOW__API__SECRET_KEY": secrets.api_secret_key,
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.jwt_secret,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database_url(settings.airflow.database, home, secrets),
        "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
        "PYTHONUNBUFFERED": "1",
    }
    if settings.airflow.worker_queues:
        ours |= {"AIRFLOW__CORE__EXECUTOR": executors(settings.airflow.worker_queues)}
        ours |= edge_env(base_url(settings))
    return inherited | COMMON_ENV | ours | settings_env(settings) | project_env(environ)


def inherited_env(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of this process that its services inherit; see `local_env`."""
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(("AIRFLOW", "TICKWALK_")) and name != "PYTHONDONTWRITEBYTECODE"
    }


def project_env(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `TICKWALK_PROJECT` of the project folder that is in force, or nothing."""
    folder = find_project(environ=environ)
    return {PROJECT_VARIABLE: str(folder.parent)} if folder else {}


def settings_env(settings: Settings) -> dict[str, str]:
    """Return `TICKWALK_*` variables from which `load_settings` restores these settings in another process."""
    values = {"TICKWALK_HOME": str(settings.home.resolve())}
    for key in known_keys():
        section, _, name = key.partition(".")
        if name:
            value = getattr(getattr(settings, section), name)
            text = ",".join(value) if isinstance(value, tuple) else str(value)
            values[f"TICKWALK_{section}_{name}".upper()] = text
    return values
