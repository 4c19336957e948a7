"""Program that loads or runs our DAGs in Airflow, whose environment must be set before it is imported.

`python -m tests.dags.airflow_process load DAG_ID JSON` lists the DAGs of the folder, calls the first function of a
DAG's tasks where the device is `cuda`, and then all of them with this configuration; `... run DAG_ID JSON` runs the DAG
with it. Both print one line of JSON at the end.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def load() -> dict[str, Any]:
    """Return the DAG folder as Airflow reads it."""
    from airflow.configuration import conf
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(conf.get("core", "dags_folder"))
    return {
        "errors": bag.import_errors,
        "heavy": [name for name in ("torch", "duckdb", "numba", "lightgbm", "polars") if name in sys.modules],
        "dags": {dag_id: _facts(dag) for dag_id, dag in bag.dags.items()},
        "decisions": {dag_id: _decisions(dag) for dag_id, dag in bag.dags.items()},
    }


def _decisions(dag: Any) -> dict[str, str]:
    """Return what the tasks of a DAG do after each of our errors: `retry`, `fail`, or `default`."""
    from storage import errors

    found = {}
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.TickwalkError):
            actions = {
                str(task.retry_policy.evaluate(kind("made"), 1, 2).action.value).lower() for task in dag.tasks
            }
            found[name] = "/".join(sorted(actions))
    return found


def call(dag_id: str, configuration: dict[str, Any]) -> dict[str, Any]:
    """Return what the functions of a night's tasks returned, called in the order of the DAG without a database."""
    from airflow.configuration import conf
    from airflow.dag_processing.dagbag import DagBag

    from serving.airflow.fold_operator import TrainFoldOperator
    from serving.report import write_report
    from storage.settings import load_settings

    dag = DagBag(conf.get("core", "dags_folder")).dags[dag_id]
    functions = {task.task_id: task.python_callable for task in dag.tasks if task.task_id != "train_fold"}
    night = functions["open_night"](dag.params.dump() | configuration)
    panel = functions["build_panel"](night)
    folds = functions["plan_folds"](night)
    return {
        "night": night,
        "panel": panel,
        "folds": folds,
        "trained": [
            TrainFoldOperator(task_id=f"train_{fold}", night=night, fold=fold).execute({}) for fold in folds
        ],
        "verdict": functions["judge_night"](night),
        "report": write_report(load_settings(), night),
    }


def refusal(dag_id: str, configuration: dict[str, Any]) -> dict[str, Any]:
    """Return how the first task fails where the device is `cuda`, and after how many seconds; nothing with a GPU."""
    import torch
    from airflow.configuration import conf
    from airflow.dag_processing.dagbag import DagBag

    from storage.errors import TickwalkError

    if torch.cuda.is_available():
        return {}
    dag = DagBag(conf.get("core", "dags_folder")).dags[dag_id]
    functions = {task.task_id: task.python_callable for task in dag.tasks if task.task_id == "open_night"}
    kept, began_s = dict(os.environ), time.monotonic()
    os.environ["TICKWALK_TRAINING_DEVICE"] = "cuda"
    try:
        functions["open_night"](dag.params.dump() | configuration)
    except TickwalkError as error:
        found = f"{type(error).__name__}: {error.message}"
        return {"error": found, "seconds": time.monotonic() - began_s}
    finally:
        os.environ.clear()
        os.environ.update(kept)
    raise AssertionError("the night was opened on a device that is not there")


def run(dag_id: str, configuration: dict[str, Any]) -> dict[str, Any]:
    """Return how a run of the DAG went, in a fresh database."""
    from airflow.configuration import conf
    from airflow.dag_processing.dagbag import DagBag

    from serving.airflow import db_migrate as prepare

    assert prepare.main() == 0
    dag = DagBag(conf.get("core", "dags_folder")).dags[dag_id]
    done = dag.test(logical_date=None, run_conf=configuration)
    tasks = [(task.task_id, task.map_index, str(task.state)) for task in done.get_task_instances()]
    labels = [task.rendered_map_index for task in done.get_task_instances() if task.map_index >= 0]
    return {"state": str(done.state), "tasks": sorted(tasks), "labels": sorted(labels)}


def _facts(dag: Any) -> dict[str, Any]:
    tasks = {
        task.task_id: {
            "upstream": sorted(task.upstream_task_ids),
            "pool": task.pool,
            "owner": task.owner,
            "retries": task.retries,
            "outlets": [outlet.name for outlet in task.outlets],
            "is_mapped": task.is_mapped,
        }
        for task in dag.tasks
    }
    return {
        "doc": dag.doc_md or "",
        "tags": sorted(dag.tags),
        "params": dag.params.dump(),
        "schedule": dag.timetable.summary
        if hasattr(dag.timetable, "summary")
        else type(dag.timetable).__name__,
        "end": str(dag.end_date or ""),
        "max_active_runs": dag.max_active_runs,
        "tasks": tasks,
    }


if __name__ == "__main__":
    what, dag_id, configuration = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    is_load = what == "load"
    if is_load:
        answer = {"folder": load(), "refusal": refusal(dag_id, configuration)}
        answer["night"] = call(dag_id, configuration)
    else:
        answer = run(dag_id, configuration)
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
