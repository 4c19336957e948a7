"""Supervisor: order, backoff, hung daemons and adoption, with real small processes and injected time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from serving.airflow.daemons import DaemonFolder, DaemonProcess
from serving.airflow.guard import REFUSED, guard
from serving.airflow.services import SERVICES, Service
from serving.airflow.stack import stoppable_services
from serving.airflow.status import read_supervisor
from serving.airflow.supervisor import (
    START_LIMIT_S,
    RestartDelay,
    ServiceRecord,
    Supervisor,
    needed_by,
)
from serving.airflow.supervisor_state import STALE_S, SupervisorState, read_state, write_state
from storage.errors import SettingsError

STAYS = ("import time; time.sleep(600)",)
MIGRATIONS = Service("migrations", ("print('done')",), once=True)
API = Service("api", STAYS, needs=("migrations",), hung_checks=3)
WORKER = Service("worker", STAYS, needs=("api",), hung_checks=3, has_tasks=True)
WALL_S = 1_790_000_000.0


@dataclass
class Stage:
    """A supervisor whose clock and health checks the test sets."""

    folder: DaemonFolder
    services: Sequence[Service]
    previous: Sequence[ServiceRecord] = ()
    health: dict[str, bool | None] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    now_s: float = 1000.0
    refusal: Exception | None = None

    def __post_init__(self) -> None:
        self.supervisor = Supervisor(
            self.services,
            self.folder,
            start=self.start,
            is_healthy=lambda service: self.health.get(service.name, True),
            previous=self.previous,
        )

    def start(self, service: Service) -> DaemonProcess:
        if self.refusal:
            raise self.refusal
        self.started.append(service.name)
        return self.folder.start(service.name, [sys.executable, "-S", "-c", *service.command], os.environ)

    def step(self, after_s: float = 0.0) -> None:
        self.now_s += after_s
        self.supervisor.step(self.now_s, wall_s=WALL_S + self.now_s)

    def step_through(self, seconds: int) -> None:
        for _ in range(seconds):
            self.step(1.0)

    @property
    def is_settled(self) -> bool:
        return set(self.phases().values()) <= {"healthy", "done"}

    def phases(self) -> dict[str, str]:
        return {name: record.phase for name, record in self.supervisor.records.items()}

    def end(self, name: str, number: int = signal.SIGKILL) -> int:
        """End a daemon's process from outside and return its pid once it has."""
        process = self.folder.find(name)
        assert process is not None
        os.kill(process.pid, number)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        return process.pid

    def await_end(self, name: str) -> None:
        process = self.folder.find(name)
        assert process is not None
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[DaemonFolder]:
    made = DaemonFolder(tmp_path / "daemons")
    made.make()
    yield made
    for path in made.path.glob("*.pid.json"):
        made.stop(path.name.removesuffix(".pid.json"), grace_s=0.0)


@pytest.fixture
def stage(folder: DaemonFolder) -> Stage:
    """Three services, all up."""
    made = Stage(folder, (MIGRATIONS, API, WORKER))
    made.step()
    made.await_end("migrations")
    for _ in range(3):
        made.step(1.0)
    assert made.is_settled
    return made


def test_each_service_starts_after_what_it_needs_is_healthy(folder: DaemonFolder) -> None:
    stage = Stage(folder, (MIGRATIONS, API, WORKER), health={"api": False})
    stage.step()
    assert stage.started == ["migrations"]
    assert stage.phases() == {"migrations": "starting", "api": "waiting", "worker": "waiting"}
    stage.await_end("migrations")
    stage.step_through(20)
    assert stage.started == ["migrations", "api"], "the API does not answer yet"
    assert stage.phases() == {"migrations": "done", "api": "starting", "worker": "waiting"}
    stage.health["api"] = True
    stage.step_through(2)
    assert stage.started == ["migrations", "api", "worker"]
    assert stage.is_settled


def test_a_killed_daemon_comes_back_after_the_delay_and_not_before(stage: Stage) -> None:
    old = stage.end("worker")
    stage.step()
    record = stage.supervisor.records["worker"]
    assert (record.phase, record.pid) == ("backoff", None)
    assert record.last_exit == "it was killed by SIGKILL"
    assert record.retry_s == WALL_S + stage.now_s + 1.0
    stage.step(0.9)
    assert stage.started.count("worker") == 1
    stage.step(0.2)
    stage.step(1.0)
    assert stage.phases()["worker"] == "healthy"
    assert (record.restarts, record.deaths) == (1, 1)
    assert record.pid not in (None, old)
    assert stage.started == ["migrations", "api", "worker", "worker"], "nothing else was touched"


def test_the_delay_doubles_to_a_minute_and_is_short_again_after_five_minutes_up() -> None:
    delay = RestartDelay()
    assert [delay.delay_s(deaths) for deaths in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert delay.delay_s(10_000) == 60


def test_a_daemon_that_keeps_dying_is_started_less_and_less_often(folder: DaemonFolder) -> None:
    stage = Stage(folder, (Service("daemon", ("raise SystemExit(3)",)),))
    delays = []
    for _ in range(4):
        stage.step()
        stage.await_end("daemon")
        stage.step()
        record = stage.supervisor.records["daemon"]
        delays.append(record.retry_s - WALL_S - stage.now_s)
        stage.now_s += delays[-1]
    assert delays == [1.0, 2.0, 4.0, 8.0]
    assert record.last_exit == "it exited with code 3"


def test_five_minutes_up_forget_earlier_deaths(stage: Stage) -> None:
    for delay_s, up_s in ((1.0, 299.0), (2.0, 300.0), (1.0, 0.0)):
        stage.end("worker")
        stage.step()
        record = stage.supervisor.records["worker"]
        assert record.retry_s - WALL_S - stage.now_s == delay_s
        stage.step(delay_s)
        stage.step(up_s)


def test_a_hung_daemon_is_restarted_after_so_many_failed_checks(stage: Stage) -> None:
    hung = stage.supervisor.records["api"].pid
    stage.health["api"] = False
    stage.step_through(10)
    assert stage.supervisor.records["api"].pid == hung, "two checks of three have failed"
    stage.step_through(6)
    record = stage.supervisor.records["api"]
    assert record.last_exit == "it failed 3 health checks in a row and was stopped"
    stage.health["api"] = True
    stage.step_through(3)
    assert record.phase == "healthy"
    assert record.pid != hung
    assert not psutil.pid_exists(hung or 0)


def test_a_daemon_is_not_blamed_while_what_it_needs_is_down(stage: Stage) -> None:
    worker = stage.supervisor.records["worker"].pid
    stage.health |= {"api": None, "worker": False}
    stage.step_through(100)
    assert stage.supervisor.records["worker"].pid == worker
    assert stage.phases() == {"migrations": "done", "api": "unknown", "worker": "unhealthy"}


def test_a_check_without_an_answer_restarts_nothing(stage: Stage) -> None:
    stage.health["worker"] = None
    stage.step_through(100)
    assert stage.phases()["worker"] == "unknown"
    assert stage.supervisor.records["worker"].deaths == 0


def test_a_daemon_that_never_gets_healthy_is_restarted_after_the_limit(folder: DaemonFolder) -> None:
    stage = Stage(folder, (Service("daemon", STAYS, hung_checks=3),), health={"daemon": False})
    stage.step_through(int(START_LIMIT_S) - 5)
    assert stage.supervisor.records["daemon"].deaths == 0
    stage.step_through(10)
    assert stage.supervisor.records["daemon"].deaths == 1


def test_a_new_supervisor_adopts_living_daemons_and_their_counts(stage: Stage) -> None:
    stage.end("worker")
    stage.step()
    stage.step(1.0)
    stage.step(1.0)
    before = {name: record.pid for name, record in stage.supervisor.records.items()}
    previous = tuple(stage.supervisor.records.values())
    successor = Stage(stage.folder, stage.services, previous=previous)
    successor.step()
    assert successor.started == []
    assert {name: record.pid for name, record in successor.supervisor.records.items()} == before
    assert successor.is_settled
    assert successor.supervisor.records["worker"].restarts == 1


def test_a_new_supervisor_starts_what_died_while_none_ran(stage: Stage) -> None:
    stage.end("worker")
    successor = Stage(stage.folder, stage.services, previous=tuple(stage.supervisor.records.values()))
    successor.step()
    successor.step(1.0)
    record = successor.supervisor.records["worker"]
    assert successor.started == ["worker"]
    assert (record.restarts, record.last_exit) == (1, "it ended while no supervisor ran")


def test_nothing_is_migrated_beside_a_daemon_that_depends_on_it(stage: Stage) -> None:
    """The worker needs the migrations through the API, and the API is dead."""
    stage.end("api")
    successor = Stage(stage.folder, stage.services)
    successor.step_through(3)
    assert "migrations" not in successor.started
    assert successor.phases()["migrations"] == "done"
    successor.end("worker")
    successor.end("api")
    later = Stage(stage.folder, stage.services)
    later.step()
    assert later.started == ["migrations"], "nothing uses the database now"


def test_a_failed_migration_is_tried_again_and_keeps_the_rest_waiting(folder: DaemonFolder) -> None:
    stage = Stage(folder, (Service("migrations", ("raise SystemExit(1)",), once=True), API))
    stage.step()
    stage.await_end("migrations")
    stage.step()
    assert stage.phases() == {"migrations": "backoff", "api": "waiting"}
    stage.step(1.0)
    assert stage.started == ["migrations", "migrations"]


def test_a_service_that_cannot_be_started_is_tried_again(folder: DaemonFolder) -> None:
    stage = Stage(folder, (Service("daemon", STAYS),))
    stage.refusal = SettingsError("port 8080 on 127.0.0.1 is taken")
    stage.step()
    assert stage.supervisor.records["daemon"].last_exit == "port 8080 on 127.0.0.1 is taken"
    stage.refusal = None
    stage.step(1.0)
    stage.step(1.0)
    assert stage.is_settled


ORPHAN = """
import os, signal, sys, time
ready, told = sys.argv[1:]
def tell(*_):
    open(told, "w").close()
child = os.fork()
if child == 0:
    signal.signal(signal.SIGTERM, tell)
    with open(ready, "w") as pipe:
        pipe.write(str(os.getpid()))
    while True:
        time.sleep(600)
time.sleep(600)
"""


def test_what_a_killed_scheduler_leaves_gets_no_sigterm(folder: DaemonFolder, tmp_path: Path) -> None:
    """A task that gets one cancels its training; one that is killed finds it again."""
    ready, told = tmp_path / "ready", tmp_path / "told"
    os.mkfifo(ready)
    process = folder.start("worker", [sys.executable, "-c", ORPHAN, str(ready), str(told)], os.environ)
    orphan = int(ready.read_text())
    assert not folder.kill_orphans("worker"), "its leader is alive"
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert folder.kill_orphans("worker")
    assert not psutil.pid_exists(orphan) or psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE
    assert not told.exists()


def test_services_stop_in_reverse_order(stage: Stage) -> None:
    assert stage.supervisor.stop_all(grace_s=5.0) == ("worker", "api")
    assert not any(stage.folder.is_running(name) for name in ("api", "worker"))


def test_running_tasks_get_time_when_the_scheduler_is_stopped() -> None:
    assert [service.name for service in SERVICES if service.has_tasks] == ["scheduler"]


def test_postgres_stops_after_all_that_use_it() -> None:
    names = [service.name for service in stoppable_services()]
    assert names.index("postgres") < min(names.index(name) for name in ("api-server", "scheduler"))


def test_needs_are_followed_to_their_end() -> None:
    assert needed_by(WORKER, (MIGRATIONS, API, WORKER)) == {"api", "migrations"}


def test_a_log_is_rotated_by_size_while_its_daemon_writes(folder: DaemonFolder) -> None:
    writer = "import sys\nfor line in sys.stdin:\n print(line * 100, end='', flush=True)\n print('end', flush=True)"
    with folder.log("daemon").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-u", "-c", writer], stdin=subprocess.PIPE, stdout=log, text=True
        )
    assert child.stdin is not None
    for number in range(7):
        print(f"{number}", file=child.stdin, flush=True)
        wait_until(lambda: folder.log("daemon").read_text().endswith("end\n"))
        assert not folder.rotate_log("daemon", most_bytes=1000)
        assert folder.rotate_log("daemon", most_bytes=100)
        assert folder.log("daemon").stat().st_size == 0
    child.communicate()
    kept = sorted(folder.path.glob("daemon.log.*"))
    assert [path.suffix for path in kept] == [".1", ".2", ".3", ".4", ".5"]
    assert [path.read_text()[0] for path in kept] == ["6", "5", "4", "3", "2"]


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        os.sched_yield()


def test_logs_of_earlier_starts_are_kept_and_told_apart(folder: DaemonFolder) -> None:
    for word in ("first", "second"):
        process = folder.start("once", [sys.executable, "-S", "-c", f"print('{word}')"], os.environ)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    lines = folder.tail("once").splitlines()
    assert [line for line in lines if not line.startswith("---")] == ["first", "second"]
    assert [line[:14] for line in lines if line.startswith("---")] == ["--- once start"] * 2


def test_the_state_is_read_back(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None
    state = SupervisorState("sqlite", 5.0, (ServiceRecord("api", "healthy", pid=7, restarts=2),))
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state
    (tmp_path / "supervisor.state.json").write_text('{"other": 1}')
    assert read_state(tmp_path) is None


def test_a_supervisor_that_stops_writing_is_called_hung(folder: DaemonFolder) -> None:
    assert read_supervisor(folder, None).state == "stopped"
    process = folder.record("supervisor", os.getpid(), ["us"])
    written_s = process.started_s + 1000
    state = SupervisorState("sqlite", written_s, ())
    assert read_supervisor(folder, state, now_s=written_s + STALE_S).state == "running"
    assert read_supervisor(folder, state, now_s=written_s + STALE_S + 1).state == "hung"
    folder.forget("supervisor")


def run_guard(codes: Sequence[int], *, run_s: float = 1.0) -> tuple[int, list[float]]:
    """Return what a guard returned whose program ends with these codes, and its delays."""
    remaining, slept, now = list(codes), [], [0.0]

    def run(_: Sequence[str]) -> int:
        now[0] += run_s
        return remaining.pop(0)

    code = guard(["program"], run=run, clock=lambda: now[0], sleep=slept.append)
    assert remaining == []
    return code, slept


def test_the_guard_starts_a_killed_supervisor_again_with_growing_delays() -> None:
    assert run_guard([-9] * 8 + [0]) == (0, [1, 2, 4, 8, 16, 32, 60, 60])
    assert run_guard([-9, -9, -9, 0], run_s=301.0) == (0, [1, 1, 1])


def test_the_guard_ends_where_a_person_must_help_first() -> None:
    assert run_guard([-9, REFUSED]) == (REFUSED, [1])


def test_the_guard_loads_the_standard_library_only() -> None:
    code = "import sys, serving.airflow.guard; print([m for m in ('psutil', 'httpx', 'airflow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
