"""Airflow under its supervisor: it survives kills of every process, starts of all at once, and many tasks."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from serving.airflow import launcher
from serving.airflow.client import AirflowClient
from serving.airflow.secrets import load_secrets
from serving.airflow.service_processes import ServiceProcesses
from serving.airflow.services import DAEMONS, airflow_home, base_url
from serving.airflow.stack import GUARD, SUPERVISOR, daemon_folder, services_of
from serving.airflow.status import StackStatus
from serving.airflow.supervisor import Supervisor, stop_services
from storage.settings import Settings
from storage.settings.services import AirflowSettings
from tests.dags.small_night import TRAINING
from tests.paths import ROOT

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1_800)]
IS_INSTALLED = any(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
DATABASES = [
    "sqlite",
    pytest.param("postgres", marks=pytest.mark.skipif(not IS_INSTALLED, reason="apt-get install postgresql")),
]
ROUNDS = int(os.environ.get("DRILL_ROUNDS", "5"))
TEST_DAGS = ROOT / "tests" / "dags" / "mapped"
AIRFLOW = [service.name for service in DAEMONS if not service.is_optional]


@pytest.fixture(params=DATABASES)
def settings(request: pytest.FixtureRequest) -> Iterator[Settings]:
    # Pytest's folders keep out the user that runs Postgres for root.
    home = Path(tempfile.mkdtemp(prefix="tw-"))
    home.chmod(0o711)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    airflow = AirflowSettings(
        port=port, database=request.param, parallelism=4 if request.param == "sqlite" else 8
    )
    made = Settings(home=home, training=TRAINING, airflow=airflow)
    yield made
    launcher.down(made, grace_s=5)
    shutil.rmtree(home)


def await_that(what: str, is_so: Callable[[], bool], *, within_s: float = 300.0) -> float:
    """Wait for a condition and return the seconds that it took."""
    began_s = time.monotonic()
    while not is_so():
        assert time.monotonic() - began_s < within_s, f"not within {within_s} s: {what}"
        time.sleep(0.5)
    return time.monotonic() - began_s


def pid_of(settings: Settings, name: str) -> int:
    process = daemon_folder(settings).find(name)
    assert process is not None
    return process.pid


def processes_of(settings: Settings) -> list[psutil.Process]:
    """Return what has a file of a home open, as its logs, or names it; titles of processes may hide the rest."""
    home, found = str(settings.home), []
    for process in psutil.process_iter():
        try:
            paths = [file.path for file in process.open_files()]
            if process.pid != os.getpid() and any(home in text for text in (*paths, *process.cmdline())):
                found.append(process)
        except psutil.Error:
            continue
    return found


def traces(settings: Settings) -> list[str]:
    """Return what still belongs to a home: processes, its port, mounts."""
    found = [f"process {process.pid}: {process.name()}" for process in processes_of(settings)]
    connections = [item for item in psutil.net_connections("inet") if item.status == psutil.CONN_LISTEN]
    found += [f"listener {item.laddr}" for item in connections if item.laddr[1] == settings.airflow.port]
    mounts = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    return found + [line for line in mounts if str(settings.home) in line]


def listeners(settings: Settings) -> set[str]:
    """Return the addresses on which processes of a home listen."""
    connections = [item for process in processes_of(settings) for item in process.net_connections("inet")]
    return {f"{item.laddr.ip}:{item.laddr.port}" for item in connections if item.status == psutil.CONN_LISTEN}


def test_every_process_comes_back_when_it_is_killed(settings: Settings) -> None:
    stack = launcher.up(settings, timeout_s=900)
    assert stack.database == settings.airflow.database
    assert len(traces(settings)) > len(AIRFLOW), "or the last check could not fail"
    assert listeners(settings) == {f"127.0.0.1:{settings.airflow.port}"}
    server = ["postgres"] if settings.airflow.database == "postgres" else []
    killed = [*server, *AIRFLOW, SUPERVISOR, GUARD]
    for name in killed:
        old = pid_of(settings, name)
        os.kill(old, signal.SIGKILL)

        def is_back(name: str = name, old: int = old) -> bool:
            return pid_of(settings, name) != old and launcher.status(settings).is_up

        seconds = await_that(f"{name} is back", is_back)
        print(f"{name} was back after {seconds:.1f} s")
    daemons = {daemon.name: daemon for daemon in launcher.status(settings).daemons}
    for name in (*server, *AIRFLOW):
        assert daemons[name].restarts >= 1, name
        # Airflow's daemons end by themselves where the database goes away, so theirs may be another end.
        assert daemons[name].last_exit, name
    assert daemons["api-server"].last_exit == "it was killed by SIGKILL"
    crash_and_return(settings, killed)
    launcher.down(settings, grace_s=10)
    # A supervisor that the crash left half-started ends by itself.
    await_that("nothing is left", lambda: traces(settings) == [], within_s=10)
    time.sleep(5)
    assert traces(settings) == []


def crash_and_return(settings: Settings, names: list[str]) -> None:
    """Kill everything at once, as a crash of the machine does, and start again."""
    folder = daemon_folder(settings)
    for name in (GUARD, SUPERVISOR, *names):
        process = folder.find(name)
        assert process is not None
        for member in process.session():
            member.kill()
    await_that("all are dead", lambda: not any(folder.is_running(name) for name in names))
    assert not launcher.status(settings).is_up
    assert launcher.up(settings, timeout_s=900).is_up


def test_up_adopts_daemons_whose_supervisor_was_killed(settings: Settings) -> None:
    before = launcher.up(settings, timeout_s=900)
    folder = daemon_folder(settings)
    for name in (GUARD, SUPERVISOR):
        os.kill(pid_of(settings, name), signal.SIGSTOP)  # or each would start the other
    for name in (GUARD, SUPERVISOR):
        os.kill(pid_of(settings, name), signal.SIGKILL)
    await_that("no supervisor runs", lambda: not folder.is_running(SUPERVISOR))
    alone = launcher.status(settings)
    assert alone.supervisor.state == "stopped"
    assert all(daemon.is_healthy for daemon in alone.daemons if daemon.name in AIRFLOW)
    after = launcher.up(settings, timeout_s=900)
    assert after.supervisor.state == "running"
    assert pids(after) == pids(before)
    log = folder.log("migrations").read_text()
    assert log.count("--- migrations starts") == 1, "never beside a live scheduler"


def pids(stack: StackStatus) -> dict[str, int | None]:
    return {daemon.name: daemon.pid for daemon in stack.daemons}


def test_a_hung_api_server_is_restarted(settings: Settings) -> None:
    if settings.airflow.database != "sqlite":
        pytest.skip("once is enough")
    launcher.up(settings, timeout_s=900)
    old = pid_of(settings, "api-server")
    folder = daemon_folder(settings)
    process = folder.find("api-server")
    assert process is not None
    for member in process.session():
        member.suspend()
    seconds = await_that(
        "the API answers again",
        lambda: pid_of(settings, "api-server") != old and launcher.status(settings).is_up,
        within_s=600,
    )
    print(f"a hung api-server was replaced after {seconds:.1f} s")
    (api,) = [daemon for daemon in launcher.status(settings).daemons if daemon.name == "api-server"]
    assert "health checks in a row" in api.last_exit


@dataclass
class OwnDags:
    """Airflow with the DAGs of this test, supervised by the test's own process."""

    settings: Settings
    services: tuple[Any, ...] = field(init=False)
    client: AirflowClient = field(init=False)

    def __post_init__(self) -> None:
        self.settings.ensure_home()
        airflow_home(self.settings).mkdir(mode=0o700)
        self.folder = daemon_folder(self.settings)
        self.folder.make()
        secrets, _ = load_secrets(airflow_home(self.settings) / "secrets.json")
        self.services = tuple(
            service for service in services_of(self.settings, record=False) if service.name != "recipe-check"
        )
        self.processes = ServiceProcesses(self.settings, self.folder)
        self.processes.env["AIRFLOW__CORE__DAGS_FOLDER"] = str(TEST_DAGS)
        self.client = AirflowClient(base_url(self.settings), password=secrets.admin_password)

    def start(self) -> None:
        supervisor = Supervisor(
            self.services, self.folder, start=self.processes.start, is_healthy=self.processes.is_healthy
        )

        def are_ready() -> bool:
            self.processes.begin_step()
            supervisor.step(time.monotonic(), wall_s=time.time())
            return all(record.phase in ("healthy", "done") for record in supervisor.records.values())

        await_that("everything is healthy", are_ready)
        await_that("the DAGs are read", lambda: self.client.dag_ids() == {"many_tasks", "two_tasks"})
        for dag in self.client.dag_ids():
            self.client.unpause(dag)

    def start_all_at_once(self) -> None:
        """Start every daemon without waiting for any, as a container engine does after a reboot."""
        for service in self.services:
            if not service.once:
                self.processes.start(service)

    def stop(self) -> None:
        stop_services(self.services, self.folder, grace_s=10.0)

    def trigger(self, dag: str) -> str:
        run = self.client.post(f"dags/{dag}/dagRuns", {"logical_date": None})
        return f"dags/{dag}/dagRuns/{run['dag_run_id']}"

    def finish(self, run: str, *, within_s: float) -> tuple[str, list[dict[str, Any]]]:
        """Return the state of a run that has ended, and its task instances."""

        def has_ended() -> bool:
            return self.client.health() != {} and self.client.get(run)["state"] in ("success", "failed")

        await_that(f"{run} ends", has_ended, within_s=within_s)
        # The API gives 100 at a time.
        tasks = []
        for offset in ("0", "100"):
            tasks += self.client.get(f"{run}/taskInstances", offset=offset, limit="100")["task_instances"]
        return self.client.get(run)["state"], tasks

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in self.folder.path.glob("*.log*"))


@pytest.fixture
def own_dags(settings: Settings) -> Iterator[OwnDags]:
    made = OwnDags(settings)
    yield made
    made.stop()


def test_no_attempt_fails_where_all_services_start_at_once_with_a_due_run(own_dags: OwnDags) -> None:
    own_dags.start()
    for number in range(ROUNDS):
        own_dags.folder.stop("scheduler", grace_s=10.0)
        run = own_dags.trigger("two_tasks")
        own_dags.stop()
        own_dags.start_all_at_once()
        state, tasks = own_dags.finish(run, within_s=300)
        assert state == "success", f"round {number}: {tasks}"
        assert [task["try_number"] for task in tasks] == [1, 1]


def test_a_hundred_mapped_tasks_lock_no_database(own_dags: OwnDags) -> None:
    own_dags.start()
    began_s = time.monotonic()
    state, tasks = own_dags.finish(own_dags.trigger("many_tasks"), within_s=900)
    print(f"100 mapped tasks on {own_dags.settings.airflow.database}: {time.monotonic() - began_s:.0f} s")
    assert state == "success"
    assert len(tasks) == 101
    assert {task["try_number"] for task in tasks} == {1}
    assert "database is locked" not in own_dags.logs()
