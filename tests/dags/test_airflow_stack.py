"""The Airflow started by `make up`: it serves the DAG, on this machine only, and stops completely."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from serving.airflow import launcher
from serving.airflow.client import AirflowClient
from serving.airflow.fold_job import PID_FILE, read_status
from serving.airflow.status import StackStatus
from serving.pages.app import make_app
from storage.clock import parse_time_ns
from storage.errors import SettingsError
from storage.lake.lake import Lake
from storage.settings import Settings
from storage.settings.services import AirflowSettings
from tests.dags.small_night import TRAINING, furnish
from tests.training.night.test_registry import FIRST
from training.night.registry import append_events, current_champion

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1_500)]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


TASKS = ("open_night", "build_panel", "plan_folds", "train_fold", "judge_night", "write_report")


@dataclass(frozen=True)
class Live:
    settings: Settings
    stack: StackStatus

    @property
    def password(self) -> str:
        assert self.stack.new_password
        return self.stack.new_password

    def processes(self) -> list[psutil.Process]:
        """Return the supervisor, its guard, the daemons, and all that descends from them."""
        pids = [self.stack.supervisor.pid, *(daemon.pid for daemon in self.stack.daemons)]
        leaders = [psutil.Process(pid) for pid in pids if pid]
        leaders.append(psutil.Process(leaders[0].ppid()))
        descendants = [child for leader in leaders for child in leader.children(recursive=True)]
        return list({*leaders, *descendants})


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("live")
    settings = Settings(
        home=home, training=TRAINING, airflow=AirflowSettings(port=port, parallelism=2, ask_for_paper=True)
    )
    running = Live(settings, launcher.up(settings, timeout_s=900))
    processes = running.processes()
    try:
        yield running
    finally:
        stopped = launcher.down(settings, grace_s=10)
    assert set(stopped) == {"api-server", "dag-processor", "triggerer", "scheduler"}
    assert [process for process in processes if lives(process)] == []
    holding = [file.path for process in psutil.process_iter() for file in open_files(process)]
    assert [path for path in holding if path.startswith(str(home))] == []


def lives(process: psutil.Process) -> bool:
    """Does it run? An ended process that nobody has collected yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def logged_in(play: Any, live: Live, path: str) -> Any:
    """Return a page of Airflow in a browser that has logged in; the browser ends with `play`."""
    browser = play.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(f"{live.stack.url}/{path}")
    page.fill("input[name=username]", "admin")
    page.fill("input[name=password]", live.password)
    page.click("button[type=submit]")
    return page


def open_files(process: psutil.Process) -> list[Any]:
    try:
        return list(process.open_files())
    except psutil.Error:
        return []


def test_every_daemon_is_healthy(live: Live) -> None:
    assert live.stack.is_up
    assert launcher.status(live.settings).is_up
    assert live.stack.dags == (
        "backfill_history", "build_features", "keep_lake", "promote_champion", "repair_gaps", "retrain_nightly",
        "seal_day", "watch_health",
    )  # fmt: skip


def test_the_dag_is_visible_and_paused(live: Live) -> None:
    with AirflowClient(live.stack.url, password=live.password) as client:
        dag = client.get("dags/retrain_nightly")
        assert client.import_errors() == []
        slots = {name: client.get(f"pools/{name}")["slots"] for name in ("gpu", "registry", "venue")}
        tasks = client.get("dags/retrain_nightly/tasks")["tasks"]
    assert dag["is_paused"]
    assert dag["timetable_summary"] == "Partitioned Asset"
    assert slots == {"gpu": 1, "registry": 1, "venue": 1}
    assert {task["task_id"] for task in tasks} == set(TASKS)


def test_nothing_listens_beyond_loopback(live: Live) -> None:
    listening = [
        connection.laddr.ip
        for process in live.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening == ["127.0.0.1"]


def test_second_up_starts_nothing_and_shows_no_password(live: Live) -> None:
    again = launcher.up(live.settings)
    assert [daemon.pid for daemon in again.daemons] == [daemon.pid for daemon in live.stack.daemons]
    assert again.new_password is None


def test_a_second_home_is_refused_the_same_port(live: Live, tmp_path: Path) -> None:
    other = Settings(home=tmp_path, airflow=live.settings.airflow)
    with pytest.raises(SettingsError, match="is taken by airflow"):
        launcher.up(other)


def test_its_files_are_private(live: Live) -> None:
    home = live.stack.home
    assert home.stat().st_mode & 0o077 == 0
    for name in ("secrets.json", "passwords.json", "airflow.cfg"):
        assert (home / name).stat().st_mode & 0o077 == 0
    assert json.loads((home / "passwords.json").read_text()) == {"admin": live.password}


@pytest.mark.drill
def test_a_night_of_one_day_runs_under_the_daemons(live: Live) -> None:
    """The day is the run's partition, as the schedule and a backfill would give it."""
    recipe = furnish(live.settings)
    run = {"logical_date": None, "partition_key": "2025-10-22", "conf": {"recipe": str(recipe)}}
    with AirflowClient(live.stack.url, password=live.password) as client:
        client.unpause("retrain_nightly")
        started = client.post("dags/retrain_nightly/dagRuns", run)
        path = f"dags/retrain_nightly/dagRuns/{started['dag_run_id']}"
        while client.get(path)["state"] not in ("success", "failed"):
            time.sleep(1)
        note = client.get(path)["note"]
        tasks = client.get(f"{path}/taskInstances")["task_instances"]
        events = client.get("assets/events")["asset_events"]
    assert {task["task_id"]: task["state"] for task in tasks} == dict.fromkeys(TASKS, "success")
    assert sorted(task["rendered_map_index"] for task in tasks if task["map_index"] >= 0) == [
        "fold 0",
        "fold 1",
    ]
    assert [(event["name"], event["partition_key"]) for event in events] == [("model_versions", "2025-10-22")]
    (night,) = (live.settings.models_dir / "nights").iterdir()
    assert note.startswith("**Refused: ")
    assert f"night `{night.name}`" in note
    assert "Failed checks:\n- " in note
    end = parse_time_ns("2025-10-23")
    assert json.loads((night / "night.json").read_text(encoding="utf-8"))["until_ns"] == end


@pytest.mark.drill
def test_a_fold_outlives_its_task_and_continues_after_its_own_death(live: Live) -> None:
    """The task of fold 0 is killed, and the process that trains fold 1: the night ends as if nothing had happened."""
    recipe = furnish(live.settings, epochs=4_000, name="long")
    run = {"logical_date": None, "partition_key": "2025-10-22", "conf": {"recipe": str(recipe)}}
    jobs = live.settings.home.resolve() / "airflow" / "jobs"
    with AirflowClient(live.stack.url, password=live.password) as client:
        client.unpause("retrain_nightly")
        started = client.post("dags/retrain_nightly/dagRuns", run)
        path = f"dags/retrain_nightly/dagRuns/{started['dag_run_id']}"
        os.kill(training_of(jobs, fold=0).ppid(), signal.SIGKILL)
        training_of(jobs, fold=1).kill()
        while client.get(path)["state"] not in ("success", "failed"):
            time.sleep(1)
        tasks = client.get(f"{path}/taskInstances")["task_instances"]
    assert {task["state"] for task in tasks} == {"success"}
    tries = {task["map_index"]: task["try_number"] for task in tasks if task["task_id"] == "train_fold"}
    assert tries == {0: 2, 1: 2}
    attempts = {fold: len(list(jobs.glob(f"long-*/fold-{fold:02d}/*/{PID_FILE}"))) for fold in (0, 1)}
    assert attempts == {0: 1, 1: 2}, "the process of fold 0 was found again, that of fold 1 started anew"


def training_of(jobs: Path, *, fold: int) -> psutil.Process:
    """Return the process that trains a fold, once it has reported a validation point."""
    while True:
        for file in jobs.glob(f"long-*/fold-{fold:02d}/*/{PID_FILE}"):
            if read_status(file.parent).text:
                return psutil.Process(json.loads(file.read_text(encoding="utf-8"))["pid"])
        time.sleep(0.2)


@pytest.mark.drill
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")
def test_a_person_approves_a_version_on_paper_in_a_real_browser(live: Live, tmp_path: Path) -> None:
    """The picture goes to `APPROVAL_SCREENSHOT` where that is set."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright comes with the extra dev")
    picture = Path(os.environ.get("APPROVAL_SCREENSHOT", tmp_path / "approval.png"))
    paper = replace(
        FIRST, version="mlp-paper-1", recipe="paper", night="paper-1", ts_knowable_ns=time.time_ns()
    )
    with Lake.open(live.settings) as lake:
        append_events(
            lake, [paper, replace(paper, event="paper", reason="judged without quotes")], batch_id="paper"
        )
    with AirflowClient(live.stack.url, password=live.password) as client:
        client.unpause("promote_champion")
        started = client.post(
            "dags/promote_champion/dagRuns", {"logical_date": None, "partition_key": "2025-10-22"}
        )
        path = f"dags/promote_champion/dagRuns/{started['dag_run_id']}"
        while client.get(f"{path}/taskInstances/approve")["state"] != "awaiting_input":
            assert client.get(path)["state"] not in ("success", "failed")
            time.sleep(1)
        with api.sync_playwright() as play:
            page = logged_in(play, live, "required_actions")
            page.get_by_text("Promote mlp-paper-1?").first.click(timeout=60_000)
            page.get_by_text("The gate keeps it on paper: judged without quotes").wait_for(timeout=60_000)
            page.screenshot(path=str(picture))
            page.get_by_role("button", name="Approve").first.click()
            while client.get(path)["state"] not in ("success", "failed"):
                time.sleep(1)
        events = [event["name"] for event in client.get("assets/events")["asset_events"]]
    with Lake.open(live.settings, read_only=True) as lake:
        champion = current_champion(lake, "paper")
    assert champion is not None
    assert (champion.version, champion.who) == ("mlp-paper-1", "admin@airflow")
    assert "champion" in events


@pytest.mark.drill
def test_the_pages_ask_for_airflows_login(live: Live) -> None:
    """Each route of the plugin, without a login and with one."""
    paths = [
        "/",
        "/coverage",
        "/coverage/cell?instrument=x&day=2025-10-22",
        "/models",
        "/report/x",
        "/quality",
    ]
    paths += ["/run/retrain_nightly/none", "/pages.css", "/pages.js"]
    app = make_app(live.settings, may_read=lambda: None, may_change=lambda: None, who=lambda _: "")
    assert len({path.split("?")[0] for path in paths}) + 1 == len(app.routes), "a route is not asked here"
    base = f"{live.stack.url}/tickwalk"
    with httpx.Client(trust_env=False, timeout=60) as strange:
        assert {path: strange.get(base + path).status_code for path in paths} == dict.fromkeys(paths, 401)
        assert strange.post(f"{base}/models/decide", data={}).status_code == 401
        login = {"username": "admin", "password": live.password}
        token = strange.post(f"{live.stack.url}/auth/token", json=login).json()["access_token"]
        strange.headers["authorization"] = f"Bearer {token}"
        Lake.open(live.settings).close()
        found = {path: strange.get(base + path).status_code for path in paths}
        assert found == dict.fromkeys(paths, 200) | {paths[2]: 404, "/report/x": 409}
        assert 'href="/tickwalk/coverage"' in strange.get(f"{base}/").text
        tabs = strange.get(f"{live.stack.url}/api/v2/plugins").json()["plugins"]
        runs = strange.get(f"{live.stack.url}/api/v2/dags/retrain_nightly/dagRuns").json()["dag_runs"]
        for run in runs:  # of the tests before, where they ran
            assert run["state"] == "success"
            report = strange.get(f"{base}/run/retrain_nightly/{run['dag_run_id']}")
            assert run["note"].partition("night `")[2].partition("`")[0] in report.text
    views = [view for plugin in tabs if plugin["name"] == "tickwalk" for view in plugin["external_views"]]
    assert {(view["name"], view["destination"]) for view in views} == {
        ("Morning", "nav"), ("Coverage", "nav"), ("Models", "nav"), ("Report", "dag_run")
    }  # fmt: skip


@pytest.mark.drill
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")
def test_the_grid_shows_the_tasks_in_a_real_browser(live: Live, tmp_path: Path) -> None:
    """The picture goes to `GRID_SCREENSHOT` where that is set, for a person to look at."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed; it comes with the extra dev"
    )
    picture = Path(os.environ.get("GRID_SCREENSHOT", tmp_path / "grid.png"))
    with api.sync_playwright() as play:
        page = logged_in(play, live, "dags/retrain_nightly")
        for task in TASKS:
            page.get_by_text(task, exact=False).first.wait_for(timeout=60_000)
        page.screenshot(path=str(picture))
    assert picture.stat().st_size > 20_000
