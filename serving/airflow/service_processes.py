"""Start and health check of the services' processes, with the environment that the settings give."""

from __future__ import annotations

import socket
from typing import Final

import psutil

from serving.airflow import postgres
from serving.airflow.client import AirflowClient
from serving.airflow.daemons import DaemonFolder, DaemonProcess
from serving.airflow.databases import cluster_dir
from serving.airflow.db_migrate import PASSWORD_VARIABLE
from serving.airflow.secrets import load_secrets
from serving.airflow.services import HOST, Service, airflow_home, base_url, local_env
from serving.airflow.stack import POSTGRES, argv
from serving.airflow.status import is_service_healthy
from storage.errors import SettingsError
from storage.settings import Settings

_CHECK_TIMEOUT_S: Final = 10.0


class ServiceProcesses:
    """Starts and checks services; a context manager.

    Args:
        settings: in force for the services.
        folder: their pid files and logs.

    Raises:
        SettingsError: the secrets are damaged.
    """

    def __init__(self, settings: Settings, folder: DaemonFolder) -> None:
        self._settings = settings
        self._folder = folder
        self._home = airflow_home(settings)
        self._secrets, _ = load_secrets(self._home / "secrets.json")
        self.env = local_env(settings, self._secrets)
        self._client = AirflowClient(base_url(settings), timeout_s=_CHECK_TIMEOUT_S)
        self._health: dict[str, float] | None = None

    def __enter__(self) -> ServiceProcesses:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.__exit__(*error)

    def begin_step(self) -> None:
        """Ask Airflow's health page anew at the next check; the services share one answer."""
        self._health = None

    def start(self, service: Service) -> DaemonProcess:
        """Start a service.

        Raises:
            SettingsError: its port is taken, or its program does not exist.
        """
        env = self.env
        if service.once:
            env = env | {PASSWORD_VARIABLE: self._secrets.admin_password}
        if service.name == "api-server":
            refuse_taken_port(self._settings.airflow.port)
        if service.name == POSTGRES:
            postgres.remove_stale_lock(cluster_dir(self._home))
        return self._folder.start(service.name, argv(service.command), env, user=service.user)

    def is_healthy(self, service: Service) -> bool | None:
        """Return whether a living service works; None where Airflow does not answer for it."""
        if service.name == POSTGRES:
            return postgres.is_ready(self._home, self._secrets.database_password)
        if not service.component:
            return True
        if self._health is None:
            self._health = self._client.health()
        if not self._health and service.name != "api-server":
            return None
        return is_service_healthy(service, self._folder, self._health)


def refuse_taken_port(port: int) -> None:
    """Refuse a port on which something listens.

    Raises:
        SettingsError: it is taken; the message names the program.
    """
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
