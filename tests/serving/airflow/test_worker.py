"""Workers on other machines: command line, environment and the queues of tasks."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from serving.airflow.queues import in_queue
from serving.airflow.secrets import load_secrets
from serving.airflow.services import COMMON_ENV, DAGS_DIR, EDGE_EXECUTOR, airflow_home, local_env
from serving.airflow.worker import WorkerOptions, worker_argv, worker_env
from storage.errors import SettingsError
from storage.settings import Settings, load_settings
from storage.settings.services import AirflowSettings
from tests.paths import ROOT

SECRET = "0123456789abcdef"


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "jwt_secret"
    path.touch(mode=0o600)
    path.write_text(f"{SECRET}\n", encoding="utf-8")
    return path


def settings_for(home: Path, secret_file: Path) -> Settings:
    airflow = AirflowSettings(server="http://10.0.0.5:8080/", secret_file=str(secret_file))
    return Settings(home=home, airflow=airflow)


def test_worker_knows_the_api_and_the_secret_and_no_database(tmp_path: Path, secret_file: Path) -> None:
    settings = settings_for(tmp_path / "home", secret_file)
    foreign = {"PATH": "/bin", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://elsewhere"}
    env = worker_env(settings, environ=foreign)
    assert env["AIRFLOW__EDGE__API_URL"] == "http://10.0.0.5:8080/edge_worker/v1/rpcapi"
    assert env["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://10.0.0.5:8080/execution/"
    assert env["AIRFLOW__API_AUTH__JWT_SECRET"] == SECRET
    assert not [name for name in env if "DATABASE" in name]
    assert {name: env[name] for name in COMMON_ENV} == COMMON_ENV, "an outage of the API costs no attempt"
    assert load_settings(environ={k: v for k, v in env.items() if k.startswith("TICKWALK")}) == Settings(
        home=settings.home.resolve(), airflow=settings.airflow
    )


def test_worker_beside_airflow_uses_the_secret_of_the_home(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, airflow=AirflowSettings(port=8123))
    with pytest.raises(SettingsError, match="this worker has no secret"):
        worker_env(settings)
    airflow_home(settings).mkdir()
    secrets, _ = load_secrets(airflow_home(settings) / "secrets.json")
    env = worker_env(settings)
    assert env["AIRFLOW__API_AUTH__JWT_SECRET"] == secrets.jwt_secret
    assert env["AIRFLOW__EDGE__API_URL"] == "http://127.0.0.1:8123/edge_worker/v1/rpcapi"


def test_secret_that_others_may_read_is_refused(tmp_path: Path, secret_file: Path) -> None:
    settings = settings_for(tmp_path, secret_file)
    secret_file.chmod(0o640)
    with pytest.raises(SettingsError, match="readable by others"):
        worker_env(settings)
    secret_file.chmod(0o600)
    secret_file.write_text("", encoding="utf-8")
    with pytest.raises(SettingsError, match="is empty"):
        worker_env(settings)
    secret_file.unlink()
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        worker_env(settings)


def test_command_line_names_queues_concurrency_and_a_name_of_its_own() -> None:
    argv = worker_argv(WorkerOptions(("gpu", "backfill"), concurrency=2, name="box"))
    assert Path(argv[0]).name == "airflow"
    assert argv[1:] == [
        *("edge", "worker", "--queues", "gpu,backfill"),
        *("--concurrency", "2", "--edge-hostname", "box"),
    ]
    assert re.fullmatch(r".+-\d+", worker_argv(WorkerOptions(("gpu",)))[-1])


@pytest.mark.parametrize(("queues", "concurrency"), [((), 1), (("cpu",), 1), (("gpu",), 0)])
def test_worker_for_nothing_is_refused(queues: tuple[str, ...], concurrency: int) -> None:
    with pytest.raises(SettingsError):
        WorkerOptions(queues, concurrency)


def test_tasks_go_to_workers_only_where_the_setting_names_their_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert in_queue("gpu") == {}
    monkeypatch.setenv("TICKWALK_AIRFLOW_WORKER_QUEUES", "gpu")
    assert in_queue("gpu") == {"queue": "gpu", "executor": "EdgeExecutor"}
    assert in_queue("backfill") == {}


def test_airflow_has_the_executor_and_the_api_of_workers_only_where_there_are_some(tmp_path: Path) -> None:
    secrets, _ = load_secrets(tmp_path / "secrets.json")
    alone = local_env(Settings(home=tmp_path), secrets, environ={})
    assert alone["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert not [name for name in alone if "__EDGE__" in name]
    shared = local_env(
        Settings(home=tmp_path, airflow=AirflowSettings(worker_queues=("gpu",))), secrets, environ={}
    )
    assert shared["AIRFLOW__CORE__EXECUTOR"] == f"LocalExecutor,{EDGE_EXECUTOR}"
    assert shared["AIRFLOW__EDGE__API_ENABLED"] == "True"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"worker_queues": ("gpu", "cpu")}, "airflow.worker_queues names cpu"),
        ({"server": "10.0.0.5:8080"}, "airflow.server is '10.0.0.5:8080'"),
    ],
)
def test_wrong_settings_of_workers_are_refused(values: dict[str, object], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        AirflowSettings(**values)


def test_the_lock_pins_the_executor_of_workers() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert re.search(
        r"^apache-airflow-providers-edge3==[\d.]+ \\\n    --hash=sha256:", lock, flags=re.MULTILINE
    )


@pytest.mark.parametrize(("queue", "pool"), [("gpu", "gpu"), ("backfill", "venue")])
def test_mapped_tasks_of_folds_and_days_can_leave_this_machine(queue: str, pool: str) -> None:
    calls = [
        {keyword.arg or "**": ast.unparse(keyword.value) for keyword in node.keywords}
        for path in (*DAGS_DIR.glob("*.py"), *(ROOT / "serving" / "airflow").glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    mapped = [call for call in calls if call.get("pool") == repr(pool) and "map_index_template" in call]
    assert mapped, "or this test would see none"
    assert [call.get("**") for call in mapped] == [f"in_queue({queue!r})"] * len(mapped)
