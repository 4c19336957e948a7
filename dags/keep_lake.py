"""Keep the lake small and whole: merge files, expire snapshots, verify; and remove old task logs.

For the person on call: **if `keep` fails with `LakeError`, a file of the lake is missing or damaged**: run
`tickwalk lake verify`, and `tickwalk lake rebuild` if it says so; recording and nights go on meanwhile. **Normal:** an
attempt that waits for a writer. Pinned snapshots and those of model versions never expire. It runs daily at 04:30 UTC;
without Airflow: `tickwalk lake compact`, `lake expire --yes`, `lake verify`.
"""

from typing import Any

from airflow.sdk import CronTriggerTimetable, dag, task

from serving.airflow.task_defaults import TASK_DEFAULTS
from storage.clock import WallTime
from storage.settings import load_settings


@dag(
    schedule=CronTriggerTimetable("30 4 * * *", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args=TASK_DEFAULTS,
    doc_md=__doc__,
    tags=["upkeep"],
)
def keep_lake() -> None:
    @task
    def keep() -> dict[str, int]:
        from serving.airflow.upkeep import keep_lake

        return keep_lake(load_settings(), now_ns=WallTime().now_ns())

    @task
    def remove_logs() -> dict[str, Any]:
        from serving.airflow.upkeep import upkeep_of_run

        return upkeep_of_run(load_settings(), now_ns=WallTime().now_ns())

    keep()
    remove_logs()


keep_lake()
