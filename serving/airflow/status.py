"""Status of the local Airflow: which daemons run and are healthy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serving.airflow.client import AirflowClient
from serving.airflow.daemons import DaemonFolder
from serving.airflow.services import DAEMONS, Service, airflow_home, base_url
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


@dataclass(frozen=True, slots=True)
class StackStatus:
    """Status of the local Airflow."""

    url: str
    home: Path
    daemons: tuple[DaemonStatus, ...]
    dags: tuple[str, ...] = ()
    """DAGs that Airflow lists; known only after `up`."""
    new_password: str | None = None
    """Password of `admin`, set only by the `up` that created it. It is stored in `secrets.json`."""

    @property
    def is_up(self) -> bool:
        """Whether all four Airflow daemons are healthy, regardless of the recorder."""
        optional = {service.name for service in DAEMONS if service.is_optional}
        return all(daemon.is_healthy for daemon in self.daemons if daemon.name not in optional)


def read_status(
    settings: Settings,
    folder: DaemonFolder,
    client: AirflowClient,
    *,
    dags: tuple[str, ...] = (),
    new_password: str | None = None,
) -> StackStatus:
    """Return the status according to the pid files and Airflow's health page."""
    healthy = client.health()
    daemons = []
    for service in DAEMONS:
        process = folder.find(service.name)
        pid = process.pid if process is not None and process.leader() is not None else None
        has_heartbeat = is_service_healthy(service, folder, healthy)
        daemons.append(
            DaemonStatus(name=service.name, pid=pid, is_healthy=has_heartbeat, log=folder.log(service.name))
        )
    return StackStatus(
        url=base_url(settings),
        home=airflow_home(settings),
        daemons=tuple(daemons),
        dags=dags,
        new_password=new_password,
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
