"""Parts of the local stack that the launcher and the supervisor share: services, command lines and pid files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from serving.airflow import postgres
from serving.airflow.daemons import DaemonFolder
from serving.airflow.databases import database_kind
from serving.airflow.services import DAEMONS, SERVICES, Service, airflow_home
from storage.errors import SettingsError
from storage.settings import Settings

SUPERVISOR: Final = "supervisor"
"""Name of the supervisor's pid file and log."""
GUARD: Final = "guard"
POSTGRES: Final = "postgres"
CLUSTER: Final = "postgres-cluster"
# Nobody waits for it. It opens the lake after the daemons have started, when the processor is free again.
RECIPE_CHECK: Final = Service(
    "recipe-check", ("python", "-m", "serving.recipe_check"), needs=("scheduler",), once=True
)


def services_of(settings: Settings, *, record: bool) -> tuple[Service, ...]:
    """Return the services that run with these settings, in start order.

    Args:
        settings: `airflow.database` decides whether our own Postgres is one of them.
        record: with the recorder.

    Raises:
        SettingsError: Postgres is wanted and not installed.
    """
    wanted = [service for service in SERVICES if record or not service.is_optional]
    wanted.append(RECIPE_CHECK)
    if database_kind(settings.airflow.database) != "postgres":
        return tuple(wanted)
    server = Service(
        POSTGRES,
        postgres.server_command(airflow_home(settings)),
        needs=(CLUSTER,),
        stop_signal=postgres.STOP_SIGNAL,
        stop_grace_s=postgres.STOP_GRACE_S,
        user=postgres.server_user(),
    )
    cluster = Service(CLUSTER, ("python", "-m", "serving.airflow.postgres"), once=True)
    dependent = [
        service if service.is_optional else replace(service, needs=(*service.needs, POSTGRES))
        for service in wanted
    ]
    return (cluster, server, *dependent)


def stoppable_services() -> tuple[Service, ...]:
    """Return every service that may run, in start order, whatever the settings were when it was started."""
    once = tuple(service for service in SERVICES if service.once)
    server = Service(POSTGRES, (), stop_signal=postgres.STOP_SIGNAL, stop_grace_s=postgres.STOP_GRACE_S)
    return (Service(CLUSTER, (), once=True), server, *once, *DAEMONS, RECIPE_CHECK)


def daemon_folder(settings: Settings) -> DaemonFolder:
    """Return the folder with logs and pid files."""
    return DaemonFolder(airflow_home(settings) / "daemons")


def argv(command: Sequence[str]) -> list[str]:
    """Return a command line with programs from the current environment.

    Raises:
        SettingsError: the program does not exist.
    """
    program, *arguments = command
    if Path(program).is_absolute():
        found = Path(program)
    else:
        found = Path(sys.executable) if program == "python" else Path(sys.executable).with_name(program)
    if not found.exists():
        raise SettingsError(
            f"the program {found} does not exist", hint="install tickwalk into this environment"
        )
    return [str(found), *arguments]


def guard_command(*, record: bool) -> list[str]:
    """Return the command line of a guarded supervisor, which takes its settings from the environment."""
    recorder = ("--record",) if record else ()
    supervise = argv(("tickwalk", "--log-level", "info", "airflow", "supervise", "--guarded", *recorder))
    return [*argv(("python", "-m", "serving.airflow.guard")), *supervise]
