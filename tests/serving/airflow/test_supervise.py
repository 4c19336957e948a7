"""The supervisor's program as a real process, with a small service in place of Airflow's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from serving.airflow import supervise as program
from serving.airflow.daemons import DaemonFolder
from serving.airflow.stack import GUARD, daemon_folder
from serving.airflow.supervisor_state import read_state
from storage.settings import Settings
from tests.paths import ROOT
from tests.patience import HANG_S

# Writes its pid to the pipe at each start, for which the test waits.
DAEMON = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
PROGRAM = f"""
import sys
from pathlib import Path
from serving.airflow import supervise as program
from serving.airflow.services import Service
from storage.logs import configure_logs
from storage.settings import Settings
daemon = Service("daemon", ("python", "-S", "-c", {DAEMON!r}, sys.argv[2]), needs=("made",))
made = Service("made", ("python", "-S", "-c", "pass"), once=True)
program.services_of = lambda settings, record: (made, daemon)
configure_logs(level="info")
program.supervise(Settings(home=Path(sys.argv[1])))
"""


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    made = tmp_path / "pipe"
    os.mkfifo(made)
    return made


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    made = Settings(home=tmp_path / "home")
    yield made
    daemon_folder(made).stop("daemon", grace_s=0.0)


def start(settings: Settings, pipe: Path) -> subprocess.Popen[str]:
    """Start the program and return it once it handles signals."""
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(settings.home), str(pipe)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    assert any("supervisor started" in line for line in child.stderr)
    return child


def end(child: subprocess.Popen[str], number: signal.Signals) -> int:
    child.send_signal(number)
    child.communicate(timeout=HANG_S)
    return child.returncode


def test_the_program_restarts_leaves_adopts_and_stops_a_daemon(settings: Settings, pipe: Path) -> None:
    child = start(settings, pipe)
    first = int(pipe.read_text())
    os.kill(first, signal.SIGKILL)
    second = int(pipe.read_text())
    assert second != first
    # SIGUSR1 ends the supervisor alone, and the next one goes on with the daemon.
    assert end(child, signal.SIGUSR1) == 0
    assert psutil.pid_exists(second)
    assert end(start(settings, pipe), signal.SIGUSR1) == 0
    state = read_state(daemon_folder(settings).path)
    assert state is not None
    records = {record.name: record for record in state.services}
    assert (records["daemon"].pid, records["daemon"].restarts) == (second, 1)
    assert records["daemon"].last_exit == "it was killed by SIGKILL"
    # SIGTERM, as systemd sends it, stops the daemon too.
    assert end(start(settings, pipe), signal.SIGTERM) == 0
    assert not psutil.pid_exists(second) or psutil.Process(second).status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def folder(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonFolder]:
    made = daemon_folder(settings)
    made.path.mkdir(parents=True)
    idle = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(program, "guard_command", lambda record: idle)
    yield made
    guard = made.find(GUARD)
    if guard is not None and guard.pid not in (os.getpid(), os.getppid()):
        made.stop(GUARD, grace_s=0.0)


def test_a_supervisor_goes_on_below_its_guard(folder: DaemonFolder) -> None:
    folder.record(GUARD, os.getppid(), ["guard"])
    assert program._has_guard(folder, record=False)


def test_a_supervisor_that_down_has_stopped_starts_nothing(folder: DaemonFolder) -> None:
    assert not program._has_guard(folder, record=False)
    assert folder.find(GUARD) is None


def test_a_supervisor_beside_that_of_another_guard_leaves(folder: DaemonFolder) -> None:
    folder.record(GUARD, os.getpid(), ["guard"])
    assert not program._has_guard(folder, record=False)
    guard = folder.find(GUARD)
    assert guard is not None
    assert guard.pid == os.getpid(), "it started no other one"


def test_a_supervisor_whose_guard_was_killed_starts_another(folder: DaemonFolder) -> None:
    killed = folder.start(GUARD, [sys.executable, "-S", "-c", "pass"], os.environ)
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)
    assert not program._has_guard(folder, record=False)
    guard = folder.find(GUARD)
    assert guard is not None
    assert guard.pid != killed.pid
    assert guard.leader() is not None
