"""Fill gaps that the venue's API can still fill, every hour, before the venue forgets them.

For the person on call: **if it fails, gaps stay open** and are tried again in an hour. Hyperliquid serves one-minute
candles for 3.5 days; what is older is in the paid archive, if anywhere, and GaiaEx has none. Nothing else stops.
**Normal:** no gap to fill; a retry while the venue refuses, or while another backfill of this home runs; hours that are
`left` (the log names them). **Not normal:** failures over a day: the venue or the network is away, and one-minute bars
will be lost. It updates `coverage_days` of days that are sealed, and starts nothing: bars as they were served stay.
Without Airflow: `tickwalk backfill gaps`. What can never be filled: docs/gaps.md.
"""

from typing import Any

from airflow.sdk import Param, dag, task

from serving.airflow.task_defaults import DATA_TASK_DEFAULTS
from storage.settings import load_settings


@dag(
    schedule="40 * * * *",
    catchup=False,
    max_active_runs=1,
    # The next hour tries again.
    default_args=DATA_TASK_DEFAULTS | {"retries": 3},
    params={"dry_run": Param(False, type="boolean", description="Only list the gaps and the requests.")},
    doc_md=__doc__,
    tags=["data"],
)
def repair_gaps() -> None:
    @task(pool="venue")
    def repair(params: dict[str, Any] | None = None) -> dict[str, Any]:
        from serving.day_jobs.repair import repair_gaps

        return repair_gaps(load_settings(), dry_run=bool((params or {}).get("dry_run"))).to_dict()

    repair()


repair_gaps()
