"""Retrain all models on the data known at the end of a day, and compare the best with the champion.

For the person on call: **if it fails, nothing stops.** The champion keeps serving, one day older; DAGs that wait for
the asset `model_versions` keep waiting. **Normal:** the verdict "keep the champion"; folds one after another (pool
`gpu`); a second attempt of `train_fold` that resumes from its checkpoint. **Not normal:** an error that names the
data, the recipe, a setting, or a night too long for its schedule (never retried); after a `LeakError` do not promote by
hand. Day D (the partition key) runs when its `features` are built, from D+1 00:20 UTC on; it may be repeated:
finished work is kept. "Trigger" accepts `until` or a partition key; without either it uses the whole lake. Without
Airflow: `tickwalk nightly`.
"""

from typing import Any

from airflow.sdk import Asset, Param, PartitionedAssetTimetable, dag, task

from serving.airflow.queues import in_queue
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

    @task(pool="gpu", **in_queue("gpu"), map_index_template="fold {{ task.op_kwargs['fold'] }}")
    def train_fold(night: str, fold: int) -> dict[str, Any]:
        from training.night.steps import train_fold

        return train_fold(load_settings(), night, fold)

    @task(pool="registry", outlets=[Asset("model_versions")])
    def judge_night(night: str) -> dict[str, Any]:
        from training.night.steps import judge_night

        return judge_night(load_settings(), night)

    @task
    def write_report(night: str) -> str:
        from serving.report import write_report

        return write_report(load_settings(), night)

    night = open_night()
    folds = plan_folds(night)
    build_panel(night) >> folds
    train_fold.partial(night=night).expand(fold=folds) >> judge_night(night) >> write_report(night)


retrain_nightly()
