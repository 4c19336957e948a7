"""Seal the UTC day that ended: repair its gaps, certify its bars, write `coverage_days`, and validate it.

For the person on call: **if it fails, nothing is built from that day**: no features, and no training. The recorder goes
on, and no frame is lost. **Normal:** attempts that wait until the recorder has passed the day's end (at most two
hours); states `partial` and `missing` (the log names hours and causes; `repair_gaps` fills what it can within a day);
a venue that does not answer (the day is sealed as it is). **Not normal:** `ContractError`, a bar that breaks a rule:
the message names it and where it comes from. Correct the source, then clear the run; or trigger it with `accept`.
Day D (the partition key) runs at D+1 00:20 UTC (setting `airflow.nightly`). A run by hand needs `day` or a partition
key; else it is refused. Sealing a day again adds nothing. Without Airflow: `tickwalk seal DAY`.
"""

from typing import Any

from airflow.sdk import Asset, CronPartitionTimetable, Param, dag, task

from serving.airflow.task_defaults import DATA_TASK_DEFAULTS
from serving.schedule import daily_schedule
from storage.settings import load_settings

BARS = Asset("bars")


@dag(
    schedule=CronPartitionTimetable(
        daily_schedule(load_settings().airflow.nightly), timezone="UTC", run_offset=-1, key_format="%Y-%m-%d"
    ),
    catchup=False,
    max_active_runs=1,
    default_args=DATA_TASK_DEFAULTS,
    params={
        "day": Param(
            None, type=["null", "string"], format="date", description="UTC day; else the partition key."
        ),
        "accept": Param(False, type="boolean", description="Seal it although its validation fails."),
    },
    doc_md=__doc__,
    tags=["data"],
)
def seal_day() -> None:
    @task
    def find_day(params: dict[str, Any] | None = None, partition_key: str | None = None) -> str:
        from serving.day_jobs.days import day_of_run

        return day_of_run(partition_key, params or {})

    @task(pool="venue")
    def seal(day: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        from serving.day_jobs.seal import seal_day

        return seal_day(load_settings(), day, accept=bool((params or {}).get("accept")))

    @task(outlets=[BARS])
    def publish_bars(sealed: dict[str, Any], *, outlet_events: Any = None) -> None:
        # A run by hand has no partition key of its own, and consumers of partitions ignore events without one.
        outlet_events[BARS].add_partitions(sealed["day"])
        outlet_events[BARS].extra = {"day": sealed["day"], **sealed["coverage"]}

    publish_bars(seal(find_day()))


seal_day()
