"""Build the features of each day whose bars are sealed or backfilled, and start a training for the newest day.

For the person on call: **if it fails, no night trains**; the champion keeps serving. **Normal:** many runs after a
backfill, of which the first builds the days of all; `publish_features` skipped, because a later day is complete.
**Not normal:** `SettingsError`: no recipe is chosen, and not exactly one fits the lake (it lists what each lacks).
The asset `bars` starts it with the same day as partition key. A run by hand needs `day` or a partition key.
Only the newest day emits `features`: a backfill of a month trains once, if it ends yesterday, and else not at all.
Without Airflow: `tickwalk features build`.
"""

from typing import Any

from airflow.sdk import Asset, Param, PartitionedAssetTimetable, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from serving.airflow.task_defaults import DATA_TASK_DEFAULTS
from storage.settings import load_settings

FEATURES = Asset("features")


@dag(
    schedule=PartitionedAssetTimetable(assets=Asset("bars")),
    catchup=False,
    max_active_runs=1,
    default_args=DATA_TASK_DEFAULTS | {"retries": 2},
    params={
        "day": Param(
            None, type=["null", "string"], format="date", description="UTC day; else the partition key."
        )
    },
    doc_md=__doc__,
    tags=["data"],
)
def build_features() -> None:
    @task
    def build(
        params: dict[str, Any] | None = None,
        partition_key: str | None = None,
        triggering_asset_events: Any = None,
    ) -> dict[str, Any]:
        from serving.day_jobs.day_features import build_features_of_run

        events = [event for found in (triggering_asset_events or {}).values() for event in found]
        sources = [event.source_dag_id for event in events]
        return build_features_of_run(load_settings(), params or {}, partition_key, sources)

    @task(outlets=[FEATURES])
    def publish_features(built: dict[str, Any], *, outlet_events: Any = None) -> None:
        if built["why_no_night"]:
            raise AirflowSkipException(built["why_no_night"])
        outlet_events[FEATURES].add_partitions(built["day"])
        outlet_events[FEATURES].extra = {"day": built["day"], "feature_set": built["feature_set"]}

    publish_features(build())


build_features()
