"""Our own Postgres cluster: its programs, its lock and its address, and the server itself where it is installed."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from serving.airflow import postgres
from serving.airflow.daemons import DaemonFolder
from serving.airflow.databases import cluster_dir, database_url
from serving.airflow.secrets import Secrets, load_secrets
from serving.airflow.services import local_env
from serving.airflow.stack import services_of
from storage.errors import SettingsError
from storage.settings import Settings, load_settings
from storage.settings.loader import shown
from storage.settings.services import AirflowSettings
from tests.paths import ROOT
from tests.patience import HANG_S

SECRETS = Secrets("p", "f", "j", "a", database_password="d")
IS_INSTALLED = any(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
OWN_SERVER = "postgresql+psycopg2://airflow:s3cret@db.example.org:5432/airflow"


def install(root: Path, *versions: str) -> None:
    for version in versions:
        (root / version / "bin").mkdir(parents=True)
        (root / version / "bin" / "postgres").touch()


def test_a_new_cluster_gets_the_newest_server(tmp_path: Path) -> None:
    install(tmp_path, "9.6", "15", "17")
    assert postgres.find_programs(tmp_path / "none", root=tmp_path) == tmp_path / "17" / "bin"


def test_a_cluster_keeps_the_version_that_made_it(tmp_path: Path) -> None:
    install(tmp_path, "15", "17")
    (tmp_path / "PG_VERSION").write_text("15\n")
    assert postgres.find_programs(tmp_path, root=tmp_path) == tmp_path / "15" / "bin"
    (tmp_path / "PG_VERSION").write_text("14\n")
    with pytest.raises(
        SettingsError, match=r"made by Postgres 14, and only 15, 17 is installed.*postgresql-14"
    ):
        postgres.find_programs(tmp_path, root=tmp_path)


def test_without_a_server_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match=r"has no server .*apt-get install postgresql"):
        postgres.find_programs(tmp_path, root=tmp_path)


@pytest.mark.parametrize(
    ("pid", "is_stale"), [(2**22 + 1, True), (os.getpid(), True)], ids=["unused", "reused"]
)
def test_the_lock_of_a_server_that_crashed_is_removed(tmp_path: Path, pid: int, is_stale: bool) -> None:
    """Its pid may belong to another process by now, here to the test."""
    (tmp_path / "postmaster.pid").write_text(f"{pid}\n{tmp_path}\n")
    assert postgres.remove_stale_lock(tmp_path) is is_stale
    assert not (tmp_path / "postmaster.pid").exists()
    assert not postgres.remove_stale_lock(tmp_path)


def test_the_lock_of_a_living_server_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "postmaster.pid").write_text(f"{os.getpid()}\n")
    monkeypatch.setattr(psutil.Process, "name", lambda _: "postgres")
    assert not postgres.remove_stale_lock(tmp_path)
    assert (tmp_path / "postmaster.pid").exists()


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / ("long" * 25))
    with pytest.raises(SettingsError, match=r"has .* characters, and the system allows 93"):
        postgres.make_cluster(settings, "password")


def test_each_database_has_its_address() -> None:
    home = Path("/srv/a home/airflow")
    assert database_url("sqlite", home, SECRETS) == "sqlite:////srv/a home/airflow/airflow.db"
    assert (
        database_url("postgres", home, SECRETS)
        == "postgresql+psycopg2://airflow:d@/airflow?host=/srv/a%20home/airflow/postgres"
    )
    assert database_url(OWN_SERVER, home, SECRETS) == OWN_SERVER


def test_the_password_of_an_own_server_is_not_shown(tmp_path: Path) -> None:
    environ = {"TICKWALK_AIRFLOW_DATABASE": OWN_SERVER, "TICKWALK_HOME": str(tmp_path)}
    settings = load_settings(environ=environ)
    assert "s3cret" not in repr(settings)
    assert (
        shown(settings, "airflow.database") == "postgresql+psycopg2://airflow:***@db.example.org:5432/airflow"
    )
    assert local_env(settings, SECRETS, environ={})["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == OWN_SERVER
    with pytest.raises(SettingsError) as caught:
        AirflowSettings(database="mysql://root:s3cret@host/db")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql+psycopg2://me:s3/cret@h/db",
        "postgresql+psycopg2://me:s3@cret@h/db",
        "postgresql+psycopg2://me@h/db?sslmode=require&password=s3cret&x=1",
    ],
)
def test_a_password_is_hidden_however_it_is_written(address: str) -> None:
    text = str(shown(Settings(airflow=AirflowSettings(database=address)), "airflow.database"))
    assert "cret" not in text
    assert "me" in text


def test_more_tasks_at_a_time_need_postgres() -> None:
    with pytest.raises(SettingsError, match=r"airflow.parallelism is 8 .*set airflow.database to postgres"):
        AirflowSettings(parallelism=8)
    assert AirflowSettings(parallelism=8, database="postgres").parallelism == 8
    with pytest.raises(SettingsError, match=r"airflow.database is 'mongo'"):
        AirflowSettings(database="mongo")


def test_an_older_secrets_file_gets_a_password_for_the_database(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    path.write_text('{"admin_password": "p", "fernet_key": "f", "jwt_secret": "j", "api_secret_key": "a"}')
    path.chmod(0o600)
    found, is_new = load_secrets(path)
    assert not is_new
    assert (found.admin_password, len(found.database_password)) == ("p", 32)
    assert load_secrets(path)[0] == found
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(("words", "is_postgres"), [(["DB=postgres"], True), ([], False)])
def test_make_up_chooses_the_database(words: list[str], is_postgres: bool) -> None:
    # Within `make test` a second make would inherit its flags, and print where it works.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--no-print-directory", "--dry-run", "up", *words]
    plan = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert plan.stdout.splitlines()[-1].endswith("tickwalk airflow up")
    assert ("TICKWALK_AIRFLOW_DATABASE=postgres" in plan.stdout) is is_postgres


def test_the_users_own_postgres_variables_do_not_lead_elsewhere(tmp_path: Path) -> None:
    outside = {"PGHOST": "production", "PGPORT": "6543", "PATH": "/bin"}
    ours = Settings(home=tmp_path, airflow=AirflowSettings(database="postgres"))
    assert not {"PGHOST", "PGPORT"} & set(local_env(ours, SECRETS, environ=outside))
    theirs = Settings(home=tmp_path, airflow=AirflowSettings(database=OWN_SERVER))
    assert local_env(theirs, SECRETS, environ=outside)["PGHOST"] == "production"


@pytest.mark.skipif(not IS_INSTALLED, reason="Postgres is not installed: apt-get install postgresql")
class TestServer:
    @pytest.fixture
    def home(self) -> Iterator[Path]:
        # Pytest's folders keep out the user that runs Postgres for root.
        made = Path(tempfile.mkdtemp(prefix="tw-"))
        made.chmod(0o711)
        yield made
        shutil.rmtree(made)

    def test_airflow_waits_for_the_server_and_the_server_for_its_cluster(self, home: Path) -> None:
        settings = Settings(home=home, airflow=AirflowSettings(database="postgres"))
        needs = {service.name: service.needs for service in services_of(settings, record=True)}
        assert list(needs)[:2] == ["postgres-cluster", "postgres"]
        assert needs["postgres"] == ("postgres-cluster",)
        assert needs["recorder"] == ()
        for name in ("migrations", "api-server", "dag-processor", "triggerer", "scheduler"):
            assert "postgres" in needs[name]

    def test_the_server_lets_in_only_who_has_the_password_and_opens_no_port(self, home: Path) -> None:
        settings = Settings(home=home, airflow=AirflowSettings(database="postgres"))
        airflow_home = home / "airflow"
        airflow_home.mkdir(mode=0o700)
        assert postgres.make_cluster(settings, "right")
        assert not postgres.make_cluster(settings, "right"), "made once"
        folder = DaemonFolder(airflow_home / "daemons")
        folder.make()
        process = folder.start(
            "postgres", postgres.server_command(airflow_home), os.environ, user=postgres.server_user()
        )
        try:
            leader = process.leader()
            assert leader is not None
            deadline = HANG_S
            while not postgres.is_ready(airflow_home, "right"):
                assert folder.is_running("postgres"), folder.tail("postgres")
                deadline -= 1
                assert deadline > 0
            assert not postgres.is_ready(airflow_home, "wrong")
            assert leader.uids().real != 0
            connections = [
                item for item in leader.net_connections("inet") if item.status == psutil.CONN_LISTEN
            ]
            assert connections == []
            assert stat.S_IMODE(cluster_dir(airflow_home).stat().st_mode) == 0o700
            assert not list(airflow_home.glob(".postgres*")), "no password is left behind"
        finally:
            assert folder.stop("postgres", grace_s=30.0, by=postgres.STOP_SIGNAL)
        assert "database system is shut down" in folder.tail("postgres", lines=3)
