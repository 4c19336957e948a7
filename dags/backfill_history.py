"""Backfill history: candles, funding, contexts, books and trades of some days, from the venue's API and its archive.

For the person on call: **if it fails, what was fetched stays**, and the same run continues there when it is cleared.
Nothing else stops. **Normal:** retries while the venue limits the rate; chunks with `absent` objects, which the archive
has not published yet. **Not normal:** a price above `archive.limit_usd` (the plan fails before anything is paid).
It never runs by itself. "Trigger" takes a range and begins as a dry run: the log of `plan` has requests and price.
"Backfill", or `airflow backfill create`, takes days: one run each, with the same form and dry run on by default.
At most 100 chunks a run. Changed days emit `bars`, so features follow; a training follows for the newest day only.
Without Airflow: `tickwalk backfill`.
"""

from datetime import UTC, datetime
from typing import Any

from airflow.sdk import Asset, CronPartitionTimetable, Param, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from serving.airflow.queues import in_queue
from serving.airflow.task_defaults import DATA_TASK_DEFAULTS
from storage.settings import load_settings

BARS = Asset("bars")
KINDS = ["candles", "funding", "contexts", "books", "trades"]
DAY = {"type": ["null", "string"], "format": "date"}


@dag(
    # A backfill needs a schedule. This one ended long ago, so nothing runs by itself.
    schedule=CronPartitionTimetable("0 0 * * *", timezone="UTC", key_format="%Y-%m-%d"),
    start_date=datetime(2000, 1, 1, tzinfo=UTC),
    end_date=datetime(2000, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args=DATA_TASK_DEFAULTS | {"start_date": None, "end_date": None},
    params={
        "dry_run": Param(True, type="boolean", description="Only print requests, minutes and price."),
        "kinds": Param(["candles"], type="array", items={"enum": KINDS}, examples=KINDS),
        "since": Param(None, **DAY, description="First day, UTC; empty in a backfill, which has its dates."),
        "until": Param(None, **DAY, description="Day after the last."),
        "coins": Param([], type="array", items={"type": "string"}, description="Empty: the recorded ones."),
        "width": Param("1m", enum=["1m", "5m", "15m", "1h", "1d"], description="Width of candles."),
        "accept_price": Param(False, type="boolean", description="Pay more than archive.limit_usd."),
    },
    doc_md=__doc__,
    tags=["data"],
)
def backfill_history() -> None:
    @task(pool="venue")
    def plan(params: dict[str, Any] | None = None, partition_key: str | None = None) -> list[dict[str, Any]]:
        from serving.day_jobs.history import plan_run

        return plan_run(load_settings(), params or {}, partition_key)

    @task(pool="venue", **in_queue("backfill"), map_index_template="{{ task.op_kwargs['chunk']['label'] }}")
    def fetch(chunk: dict[str, Any]) -> dict[str, Any]:
        from serving.day_jobs.history import fetch_chunk

        return fetch_chunk(load_settings(), chunk)

    @task(outlets=[BARS])
    def publish_bars(
        chunks: list[dict[str, Any]], fetched: list[dict[str, Any]], *, outlet_events: Any = None
    ) -> None:
        from serving.day_jobs.history import finish_history

        days = finish_history(load_settings(), chunks)
        if not days:
            raise AirflowSkipException(f"no day changed: {len(list(fetched))} chunks brought nothing new")
        outlet_events[BARS].add_partitions(days)

    chunks = plan()
    publish_bars(chunks, fetch.expand(chunk=chunks))


backfill_history()
