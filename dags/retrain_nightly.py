"""Retrain all models on the data known at the end of a day, and compare the best with the champion.

For the person on call: **if it fails, nothing stops.** The champion keeps serving, one day older; DAGs that wait for
the asset `model_versions` keep waiting. The run's note has the verdict, or what failed and what to run. **Normal:** the
verdict "keep the champion"; folds one after another (pool `gpu`), each in a process that outlives its task; a second
attempt of `train_fold`, which finds that process or resumes from its checkpoint. **Not normal:** an error that names
the data, the recipe, a setting, or a night too long for its schedule (never retried); after a `LeakError` do not
promote by hand. Day D (the partition key) runs when its `features` are built, from D+1 00:20 UTC on, and may be
repeated: finished work is kept. "Trigger" accepts `until` or a partition key; without either it uses the whole lake.
Without Airflow: `tickwalk nightly`.
"""

from typing import Any

from airflow.sdk import Asset, Param, PartitionedAssetTimetable, dag, task

from serving.airflow.fold_operator import train_folds
from serving.airflow.recipe_param import recipe_paragraph, recipe_param
from serving.airflow.task_defaults import TASK_DEFAULTS
from storage.settings import load_settings


@dag(
    schedule=PartitionedAssetTimetable(assets=Asset("features")),
    catchup=False,
    max_active_runs=1,
    default_args=TASK_DEFAULTS,
    params={
        "recipe": recipe_param(load_settings()),
        "since": Param(None, type=["null", "string"], description="Start, UTC."),
        "until": Param(None, type=["null", "string"], description="End, UTC, exclusive; else the day's end."),
    },
    doc_md=recipe_paragraph(load_settings()) + __doc__,
    tags=["training"],
)
def retrain_nightly() -> None:
    @task
    def open_night(params: dict[str, Any] | None = None, partition_key: str | None = None) -> str:
        from serving.nightly import open_scheduled_night

        return open_scheduled_night(load_settings(), params or {}, day=partition_key)

    @task
    def build_panel(night: str) -> dict[str, Any]:
        from training.night.steps import build_panel

        return build_panel(load_settings(), night)

    @task
    def plan_folds(night: str) -> list[int]:
        from training.night.steps import plan_folds

        return plan_folds(load_settings(), night)

    @task(pool="registry", outlets=[Asset("model_versions")])
    def judge_night(night: str) -> dict[str, Any]:
        from training.night.steps import judge_night

        return judge_night(load_settings(), night)

    @task
    def write_report(night: str) -> str:
        from serving.airflow.run_notes import report_night

        return report_night(load_settings(), night)

    night = open_night()
    folds = plan_folds(night)
    build_panel(night) >> folds
    train_folds(night, folds) >> judge_night(night) >> write_report(night)


retrain_nightly()
