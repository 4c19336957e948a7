"""DAG files: import cost, conventions, and a run through Airflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from serving.airflow.db_migrate import PASSWORD_VARIABLE, POOLS
from serving.airflow.secrets import load_secrets
from serving.airflow.services import DAGS_DIR, local_env
from storage.settings import Settings
from tests.dags.small_night import FOLDS, TRAINING, furnish
from tests.patience import HANG_S

FILES = sorted(DAGS_DIR.glob("*.py"))


def inside(settings: Settings, *words: str) -> dict[str, Any]:
    """Run `tests.dags.airflow_process` with an Airflow of its own and return its answer."""
    home = settings.home / "airflow"
    home.mkdir(parents=True, exist_ok=True)
    secrets, _ = load_secrets(home / "secrets.json")
    env = local_env(settings, secrets) | {PASSWORD_VARIABLE: secrets.admin_password}
    done = subprocess.run(
        [sys.executable, "-m", "tests.dags.airflow_process", *words],
        cwd=DAGS_DIR.parent,
        env=env
        | {"PYTHONPATH": os.pathsep.join(filter(None, [str(DAGS_DIR.parent), os.environ.get("PYTHONPATH")]))},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@dataclass(frozen=True)
class Loaded:
    """What Airflow makes of the DAG folder, and what the night's functions returned and left in a home."""

    settings: Settings
    folder: dict[str, Any]
    refusal: dict[str, Any]
    night: dict[str, Any]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """The DAG folder as Airflow reads it, and a night by the functions of its tasks."""
    settings = Settings(home=tmp_path_factory.mktemp("load"), training=TRAINING)
    recipe = furnish(settings)
    answer = inside(settings, "load", "retrain_nightly", json.dumps({"recipe": str(recipe)}))
    return Loaded(settings, answer["folder"], answer["refusal"], answer["night"])


@pytest.fixture
def folder(loaded: Loaded) -> dict[str, Any]:
    """The DAG folder as Airflow reads it."""
    return loaded.folder


def test_every_file_loads_and_holds_the_dag_of_its_name(folder: dict[str, Any]) -> None:
    assert folder["errors"] == {}
    assert sorted(folder["dags"]) == [path.stem for path in FILES]
    assert "retrain_nightly" in folder["dags"]


def test_parsing_the_dags_imports_nothing_heavy(folder: dict[str, Any]) -> None:
    assert folder["heavy"] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_dag_file_is_short_and_not_named_like_a_package(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 80
    assert not (DAGS_DIR.parent / path.stem).exists(), "it would shadow that room when run by hand"
    assert "data_interval" not in path.read_text(encoding="utf-8"), "undefined in partitioned and manual runs"


def test_every_dag_docstring_addresses_the_person_on_call(folder: dict[str, Any]) -> None:
    for name, dag in folder["dags"].items():
        for word in ("on call", "Normal", "fails"):
            assert word in dag["doc"], f"{name}: its docstring does not say {word!r}"
        assert dag["tags"], name
        assert all(task["retries"] >= 1 for task in dag["tasks"].values()), name


def test_the_night_runs_its_steps_in_order_with_one_training_at_a_time(folder: dict[str, Any]) -> None:
    tasks = folder["dags"]["retrain_nightly"]["tasks"]
    assert {name: task["upstream"] for name, task in tasks.items()} == {
        "open_night": [],
        "build_panel": ["open_night"],
        "plan_folds": ["build_panel", "open_night"],
        "train_fold": ["open_night", "plan_folds"],
        "judge_night": ["open_night", "train_fold"],
        "write_report": ["judge_night", "open_night"],
    }
    assert [name for name, task in tasks.items() if task["is_mapped"]] == ["train_fold"]
    pools = {name: task["pool"] for name, task in tasks.items() if task["pool"] in POOLS}
    assert pools == {"train_fold": "gpu", "judge_night": "registry"}


def test_every_pool_that_is_made_is_used_and_what_asks_the_venue_has_one_slot(folder: dict[str, Any]) -> None:
    pools = {
        (name, task): facts["pool"]
        for name, dag in folder["dags"].items()
        for task, facts in dag["tasks"].items()
        if facts["pool"] != "default_pool"
    }
    assert set(pools.values()) == set(POOLS)
    assert {where for where, pool in pools.items() if pool == "venue"} == {
        ("seal_day", "seal"),
        ("repair_gaps", "repair"),
        ("backfill_history", "plan"),
        ("backfill_history", "fetch"),
    }


def test_assets_come_from_tasks_that_are_not_mapped(folder: dict[str, Any]) -> None:
    found = {
        (name, task): facts["outlets"]
        for name, dag in folder["dags"].items()
        for task, facts in dag["tasks"].items()
        if facts["outlets"]
    }
    assert found == {
        ("seal_day", "publish_bars"): ["bars"],
        ("backfill_history", "publish_bars"): ["bars"],
        ("build_features", "publish_features"): ["features"],
        ("retrain_nightly", "judge_night"): ["model_versions"],
        ("promote_champion", "decide"): ["champion"],
    }
    mapped = [
        (name, task)
        for name, dag in folder["dags"].items()
        for task, facts in dag["tasks"].items()
        if facts["is_mapped"]
    ]
    assert sorted(mapped) == [("backfill_history", "fetch"), ("retrain_nightly", "train_fold")]


@pytest.mark.parametrize(
    ("dag", "tasks"),
    [
        ("seal_day", {"find_day": [], "seal": ["find_day"], "publish_bars": ["seal"]}),
        ("repair_gaps", {"repair": []}),
        ("backfill_history", {"plan": [], "fetch": ["plan"], "publish_bars": ["fetch", "plan"]}),
        ("build_features", {"build": [], "publish_features": ["build"]}),
    ],
)
def test_the_tasks_of_a_day_follow_each_other(
    folder: dict[str, Any], dag: str, tasks: dict[str, list[str]]
) -> None:
    facts = folder["dags"][dag]
    assert {name: task["upstream"] for name, task in facts["tasks"].items()} == tasks
    assert {task["owner"] for task in facts["tasks"].values()} == {"data"}
    assert facts["max_active_runs"] == 1


def test_a_backfill_is_a_dry_run_by_default_and_has_no_schedule_that_ever_comes(
    folder: dict[str, Any],
) -> None:
    backfill = folder["dags"]["backfill_history"]
    assert backfill["params"]["dry_run"] is True
    assert backfill["end"].startswith("2000-01-01")
    assert [folder["dags"][name]["end"] for name in ("seal_day", "repair_gaps")] == ["", ""]
    assert folder["dags"]["seal_day"]["params"] == {"day": None, "accept": False}


@pytest.mark.parametrize("dag", ["seal_day", "repair_gaps", "backfill_history", "build_features"])
def test_what_may_come_later_is_waited_for_and_what_a_person_must_fix_fails_at_once(
    folder: dict[str, Any], dag: str
) -> None:
    decisions = folder["decisions"][dag]
    waits = {name for name, action in decisions.items() if action == "retry"}
    assert waits == {"NotReadyError", "VenueError", "JournalError", "LakeError"}
    assert {action for name, action in decisions.items() if name not in waits} == {"fail"}
    assert {"ContractError", "SettingsError", "RangeError"} <= decisions.keys() - waits


def test_a_run_uses_the_recipe_that_fits_the_lake_by_default(folder: dict[str, Any]) -> None:
    assert folder["dags"]["retrain_nightly"]["params"]["recipe"] is None


def test_the_functions_of_the_tasks_make_a_night(loaded: Loaded) -> None:
    """The short form of the next test, without Airflow's database and scheduler."""
    assert loaded.night["folds"] == list(range(FOLDS))
    assert len(loaded.night["trained"]) == FOLDS
    (night,) = (loaded.settings.models_dir / "nights").iterdir()
    assert night.name == loaded.night["night"]
    assert json.loads((night / "verdict.json").read_text(encoding="utf-8"))["version"]
    assert (loaded.settings.reports_dir / f"{night.name}.html").stat().st_size > 10_000


def test_the_first_task_names_the_driver_where_the_gpu_is_missing(loaded: Loaded) -> None:
    if not loaded.refusal:
        pytest.skip("there is a GPU here")
    assert loaded.refusal["seconds"] < 60
    assert (
        "SettingsError: training.device is 'cuda', and this machine or this torch build has none: torch"
        in (loaded.refusal["error"])
    )
    assert "driver" in loaded.refusal["error"]


@pytest.mark.drill
def test_a_night_runs_through_airflow_on_a_real_lake(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", training=TRAINING)
    recipe = furnish(settings)
    answer = inside(settings, "run", "retrain_nightly", json.dumps({"recipe": str(recipe)}))
    assert answer["state"] == "success"
    assert answer["labels"] == [f"fold {fold}" for fold in range(FOLDS)]
    assert [tuple(task) for task in answer["tasks"]] == [
        ("build_panel", -1, "success"),
        ("judge_night", -1, "success"),
        ("open_night", -1, "success"),
        ("plan_folds", -1, "success"),
        *(("train_fold", fold, "success") for fold in range(FOLDS)),
        ("write_report", -1, "success"),
    ]
    (night,) = (settings.models_dir / "nights").iterdir()
    assert json.loads((night / "verdict.json").read_text(encoding="utf-8"))["version"]
    assert (settings.reports_dir / f"{night.name}.html").stat().st_size > 10_000
