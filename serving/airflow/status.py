"""Status of the local Airflow: its supervisor, and which daemons run and are healthy."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from serving.airflow.client import AirflowClient
from serving.airflow.daemons import DaemonFolder
from serving.airflow.services import DAEMONS, Service, airflow_home, base_url
from serving.airflow.stack import SUPERVISOR, stoppable_services
from serving.airflow.supervisor import ServiceRecord
from serving.airflow.supervisor_state import STALE_S, SupervisorState, read_state
from storage.settings import Settings


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """Status of one daemon."""

    name: str
    pid: int | None
    """Process id; `None` if it is stopped."""
    is_healthy: bool
    """It runs, and Airflow's health page shows a heartbeat since its start."""
    log: Path
    state: str = "stopped"
    """What the supervisor says of it (`healthy`, `backoff`, ...), or without one whether it runs."""
    since_s: float = 0.0
    """When the process started, or when the state began; seconds since the epoch, 0 if unknown."""
    restarts: int = 0
    """Restarts since `up`."""
    last_exit: str = ""
    """How its process ended last; empty if it never did."""
    is_optional: bool = False
    """Airflow is up without it."""


@dataclass(frozen=True, slots=True)
class SupervisorStatus:
    """Status of the supervisor."""

    state: str = "stopped"
    """`running`, `hung` (it stopped writing its state) or `stopped`: then nothing is restarted."""
    pid: int | None = None
    since_s: float = 0.0
    """When it started, seconds since the epoch; 0 if it does not run."""


@dataclass(frozen=True, slots=True)
class StackStatus:
    """Status of the local Airflow."""

    url: str
    home: Path
    daemons: tuple[DaemonStatus, ...]
    supervisor: SupervisorStatus = SupervisorStatus()
    database: str = ""
    """Kind of the database: `sqlite`, `postgres` or `server`; empty while nothing runs."""
    dags: tuple[str, ...] = ()
    """DAGs that Airflow lists; known only after `up`."""
    new_password: str | None = None
    """Password of `admin`, set only by the `up` that created it. It is stored in `secrets.json`."""

    @property
    def is_up(self) -> bool:
        """Whether the supervisor runs and all of Airflow's daemons are healthy, regardless of the recorder."""
        return self.supervisor.state == "running" and all(
            daemon.is_healthy for daemon in self.daemons if not daemon.is_optional
        )


def read_status(
    settings: Settings,
    folder: DaemonFolder,
    client: AirflowClient,
    *,
    dags: tuple[str, ...] = (),
    new_password: str | None = None,
) -> StackStatus:
    """Return the status according to the pid files, the supervisor's state and Airflow's health page."""
    healthy = client.health()
    state = read_state(folder.path)
    services = [
        service
        for service in stoppable_services()
        if not service.once and (service in DAEMONS or (state and state.find(service.name)))
    ]
    return StackStatus(
        url=base_url(settings),
        home=airflow_home(settings),
        daemons=tuple(
            _daemon_status(service, folder, state.find(service.name) if state else None, healthy)
            for service in services
        ),
        supervisor=read_supervisor(folder, state),
        database=state.database if state else "",
        dags=dags,
        new_password=new_password,
    )


def read_supervisor(
    folder: DaemonFolder, state: SupervisorState | None, *, now_s: float | None = None
) -> SupervisorStatus:
    """Return the status of the supervisor.

    Args:
        folder: with its pid file.
        state: content of its state file.
        now_s: seconds since the epoch (default: now).
    """
    process = folder.find(SUPERVISOR)
    if process is None or process.leader() is None:
        return SupervisorStatus()
    now_s = time.time() if now_s is None else now_s
    written_s = max(process.started_s, state.written_s if state else 0.0)
    return SupervisorStatus(
        "hung" if now_s - written_s > STALE_S else "running", process.pid, process.started_s
    )


def _daemon_status(
    service: Service, folder: DaemonFolder, record: ServiceRecord | None, healthy: dict[str, float]
) -> DaemonStatus:
    process = folder.find(service.name)
    is_running = process is not None and process.leader() is not None
    is_healthy = is_service_healthy(service, folder, healthy)
    if is_running and service.component == "" and record is not None:
        is_healthy = record.phase == "healthy"  # such as Postgres, which only the supervisor can ask
    phase = record.phase if record else ""
    state: str
    if is_running:
        state = "healthy" if is_healthy else "unhealthy" if phase in ("healthy", "") else phase
    else:
        state = phase if phase in ("backoff", "waiting") else "stopped"
    return DaemonStatus(
        name=service.name,
        pid=process.pid if process and is_running else None,
        is_healthy=is_healthy,
        log=folder.log(service.name),
        state=state,
        since_s=process.started_s if process and is_running else record.since_s if record else 0.0,
        restarts=record.restarts if record else 0,
        last_exit=record.last_exit if record else "",
        is_optional=service.is_optional,
    )


def is_service_healthy(service: Service, folder: DaemonFolder, healthy: dict[str, float]) -> bool:
    """Return whether a service runs and Airflow has a heartbeat since its start.

    Args:
        healthy: result of `AirflowClient.health`.
    """
    process = folder.find(service.name)
    if process is None or process.leader() is None:
        return False
    # The heartbeat of a killed predecessor still looks healthy for half a minute.
    beat_s = healthy.get(service.component, -1.0)
    return not service.component or beat_s == 0.0 or beat_s >= process.started_s
