"""How is the local Airflow now: which daemons run, and which of them are well?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serving.airflow.client import AirflowClient
from serving.airflow.daemons import DaemonFolder
from serving.airflow.services import DAEMONS, Service, airflow_home, base_url
from storage.settings import Settings


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """One daemon as it is now."""

    name: str
    pid: int | None
    """Its process; `None` while it is stopped."""
    is_well: bool
    """It runs, and Airflow's health page has heard from it since it started."""
    log: Path


@dataclass(frozen=True, slots=True)
class StackStatus:
    """The local Airflow as it is now."""

    url: str
    home: Path
    daemons: tuple[DaemonStatus, ...]
    dags: tuple[str, ...] = ()
    """The DAGs that Airflow sees; known only after `up`."""
    new_password: str | None = None
    """The password of `admin`, told once: by the `up` that made it. It stays in `secrets.json`."""

    @property
    def is_up(self) -> bool:
        """Are all four of Airflow's daemons well? The recorder is not asked."""
        asked = {service.name for service in DAEMONS if service.asked}
        return all(daemon.is_well for daemon in self.daemons if daemon.name not in asked)


def look(
    settings: Settings,
    folder: DaemonFolder,
    client: AirflowClient,
    *,
    dags: tuple[str, ...] = (),
    new_password: str | None = None,
) -> StackStatus:
    """Return the stack as the pid files and Airflow's health page show it."""
    healthy = client.health()
    daemons = []
    for service in DAEMONS:
        process = folder.find(service.name)
        pid = process.pid if process is not None and process.leader() is not None else None
        well = is_well(service, folder, healthy)
        daemons.append(DaemonStatus(name=service.name, pid=pid, is_well=well, log=folder.log(service.name)))
    return StackStatus(
        url=base_url(settings),
        home=airflow_home(settings),
        daemons=tuple(daemons),
        dags=dags,
        new_password=new_password,
    )


def is_well(service: Service, folder: DaemonFolder, healthy: dict[str, float]) -> bool:
    """Does a service run, and has Airflow heard from it since it started?

    Args:
        healthy: the answer of `AirflowClient.health`.
    """
    process = folder.find(service.name)
    if process is None or process.leader() is None:
        return False
    # The heartbeat of a killed predecessor looks healthy for half a minute.
    beat_s = healthy.get(service.component, -1.0)
    return not service.component or beat_s == 0.0 or beat_s >= process.started_s
