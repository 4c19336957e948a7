"""Launcher: start, lookup and stop of daemons, and their environment."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from serving.airflow import launcher
from serving.airflow.daemons import DaemonFolder
from serving.airflow.db_migrate import write_password
from serving.airflow.secrets import Secrets, load_secrets
from serving.airflow.services import COMMON_ENV, DAEMONS, SERVICES, local_env, settings_env
from storage.errors import ProjectError, SettingsError, TickwalkError
from storage.project import current_project
from storage.settings import Settings, load_settings
from storage.settings.recording import RecordSettings
from storage.settings.services import AirflowSettings, LakeSettings, TrainingSettings

SECRETS = Secrets(admin_password="p", fernet_key="f", jwt_secret="j", api_secret_key="a")
# A daemon with a child in a process group of its own, as Airflow's tasks are. It writes the child's pid to the
# pipe that it is given once both are ready.
FAMILY = """
import os, signal, sys, time
if sys.argv[2] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child == 0:
    time.sleep(600)
os.setpgid(child, child)
with open(sys.argv[1], "w") as pipe:
    pipe.write(str(child))
time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[DaemonFolder]:
    made = DaemonFolder(tmp_path / "daemons")
    made.make()
    yield made
    made.stop("daemon", grace_s=0.0)


def start_family(folder: DaemonFolder, manner: str = "polite") -> tuple[int, int]:
    """Start a daemon with a child; return both pids once both run."""
    pipe = folder.path / "ready"
    os.mkfifo(pipe)
    process = folder.start("daemon", [sys.executable, "-c", FAMILY, str(pipe), manner], os.environ)
    return process.pid, int(pipe.read_text())  # waits until the daemon writes


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_stop_ends_a_daemon_and_its_children_in_other_process_groups(folder: DaemonFolder) -> None:
    parent, child = start_family(folder)
    assert os.getpgid(child) != os.getpgid(parent)
    assert folder.stop("daemon", grace_s=5.0)
    assert not lives(parent)
    assert not lives(child)
    assert folder.find("daemon") is None


def test_daemon_that_ignores_sigterm_is_killed_after_its_grace(folder: DaemonFolder) -> None:
    parent, child = start_family(folder, "deaf")
    assert folder.stop("daemon", grace_s=0.1)
    assert not lives(parent)
    assert not lives(child)


def test_orphans_of_a_killed_daemon_are_found_and_stopped(folder: DaemonFolder) -> None:
    parent, child = start_family(folder)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert not folder.is_running("daemon")
    assert lives(child)
    assert folder.stop("daemon", grace_s=5.0)
    assert not lives(child)


def test_another_process_under_an_old_pid_is_left_alone(folder: DaemonFolder) -> None:
    ours = psutil.Process()
    stale = {"pid": ours.pid, "started_s": ours.create_time() - 3600}
    (folder.path / "daemon.pid.json").write_text(json.dumps(stale))
    assert not folder.is_running("daemon")
    folder.stop("daemon", grace_s=0.0)
    assert lives(ours.pid)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_a_damaged_pid_file_counts_as_stopped(folder: DaemonFolder, text: str) -> None:
    (folder.path / "daemon.pid.json").write_text(text)
    assert not folder.is_running("daemon")
    assert not folder.stop("daemon", grace_s=0.0)


def test_settings_reach_the_daemons_unchanged(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path / "a home",
        record=RecordSettings(coins=("BTC", "xyz:AAPL"), ping_s=7.5),
        lake=LakeSettings(catalog="postgres:dbname=tickwalk host=127.0.0.1"),
        training=TrainingSettings(device="cpu", seed=11),
        airflow=AirflowSettings(port=18080, parallelism=8, database="postgresql+psycopg2://me:pw@host/db"),
    )
    assert load_settings(environ=settings_env(settings)) == settings


def test_airflow_variables_of_the_user_are_dropped(tmp_path: Path) -> None:
    outside = {
        "PATH": "/bin",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://production",
        "AIRFLOW_HOME": "/opt/production",
        "TICKWALK_CONFIG": "elsewhere.toml",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    env = local_env(Settings(home=tmp_path), SECRETS, environ=outside)
    assert env["PATH"] == "/bin"
    assert env["AIRFLOW_HOME"] == str(tmp_path / "airflow")
    assert "production" not in " ".join(env.values())
    assert not {"TICKWALK_CONFIG", "PYTHONDONTWRITEBYTECODE"} & set(env)
    assert env.items() >= COMMON_ENV.items()


def test_the_project_in_force_reaches_the_tasks_wherever_they_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("named", "above"):
        (tmp_path / name / "tickwalk_project").mkdir(parents=True)
        (tmp_path / name / "tickwalk_project" / "__init__.py").touch()
    (tmp_path / "above" / "below").mkdir()
    settings = Settings(home=tmp_path)
    # Relative to the directory of `up`; tasks run in another.
    monkeypatch.chdir(tmp_path)
    named = local_env(settings, SECRETS, environ={"TICKWALK_PROJECT": "named"})
    assert named["TICKWALK_PROJECT"] == str(tmp_path / "named")
    assert "TICKWALK_PROJECT" not in local_env(settings, SECRETS, environ={})
    monkeypatch.chdir(tmp_path / "above" / "below")
    found = local_env(settings, SECRETS, environ={})
    assert found["TICKWALK_PROJECT"] == str(tmp_path / "above")
    with pytest.raises(ProjectError, match="TICKWALK_PROJECT is 'nowhere'"):
        local_env(settings, SECRETS, environ={"TICKWALK_PROJECT": "nowhere"})
    # What a task then finds.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TICKWALK_PROJECT", found["TICKWALK_PROJECT"])
    project = current_project()
    assert project is not None
    assert project.folder == tmp_path / "above" / "tickwalk_project"


def test_airflow_listens_on_loopback_only(tmp_path: Path) -> None:
    env = local_env(Settings(home=tmp_path), SECRETS, environ={})
    assert env["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert env["AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK"] == "False"
    with_log_server = {service.name for service in SERVICES if service.name in ("scheduler", "triggerer")}
    assert {s.name for s in SERVICES if "--skip-serve-logs" in s.command} == with_log_server


def test_secrets_are_created_once_for_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    made, is_new = load_secrets(path)
    assert is_new
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_secrets(path) == (made, False)
    assert len({made.admin_password, made.fernet_key, made.jwt_secret, made.api_secret_key}) == 4
    assert made.admin_password not in repr(made)


def test_secrets_that_others_may_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    load_secrets(path)
    path.chmod(0o644)
    with pytest.raises(SettingsError, match=r"readable by others \(mode 644\).*chmod 600"):
        load_secrets(path)


@pytest.mark.parametrize("text", ["", '{"admin_password": "x"}', '{"other": 1}'])
def test_damaged_secrets_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "secrets.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="damaged"):
        load_secrets(path)


def test_airflows_password_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "passwords.json"
    for password in ("one", "two"):
        write_password(path, password)
    assert json.loads(path.read_text()) == {"admin": "two"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_taken_port_is_named_with_its_holder_and_nothing_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        settings = Settings(home=tmp_path, airflow=AirflowSettings(port=port))
        with pytest.raises(SettingsError, match=rf"port {port} on 127.0.0.1 is taken.*\(pid {os.getpid()}\)"):
            launcher.up(settings)
    assert all(daemon.pid is None for daemon in launcher.status(settings).daemons)
    assert not (tmp_path / "airflow" / "airflow.db").exists()
    assert not (tmp_path / "airflow" / "secrets.json").exists(), "a password that nobody was told"


def test_two_launchers_do_not_run_at_once(tmp_path: Path) -> None:
    folder = DaemonFolder(tmp_path / "airflow" / "daemons")
    folder.path.parent.mkdir()
    folder.make()
    with (folder.path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TickwalkError, match="another up or down"):
            launcher.down(Settings(home=tmp_path))


def test_down_and_status_without_a_stack_change_nothing(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", airflow=AirflowSettings(port=1))
    assert launcher.down(settings) == ()
    stack = launcher.status(settings)
    assert not stack.is_up
    assert [daemon.name for daemon in stack.daemons] == [service.name for service in DAEMONS]
    assert not (tmp_path / "home").exists()


def test_recorder_starts_only_on_request() -> None:
    assert [service.name for service in DAEMONS if service.is_optional] == ["recorder"]
