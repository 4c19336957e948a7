"""Check the recorders, the disk, the nights and the GPU every ten minutes, and send alerts.

For the person on call: **if it fails, nothing was checked.** Otherwise an alert goes to `alert.command` and
`alert.webhook` when a problem begins, each hour while it lasts, and once when it is over; the log of `check` lists what
is wrong. **Normal:** a run that succeeds although something is wrong: it is the messenger. It cannot tell that Airflow
itself is down; for that, run `tickwalk alert watch` beside it. Without Airflow: `tickwalk alert check --tell`.
"""

from airflow.sdk import CronTriggerTimetable, dag, task

from serving.airflow.task_defaults import TASK_DEFAULTS
from storage.clock import WallTime
from storage.settings import load_settings


@dag(
    schedule=CronTriggerTimetable("*/10 * * * *", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args=TASK_DEFAULTS,
    doc_md=__doc__,
    tags=["upkeep"],
)
def watch_health() -> None:
    @task
    def check() -> list[str]:
        from serving.monitoring.alerting import check_once
        from serving.monitoring.night_checks import check_nights

        settings, now_ns = load_settings(), WallTime().now_ns()
        issues = check_once(settings, now_ns=now_ns, further=check_nights(settings, now_ns))
        return [f"{issue.kind}: {issue.detail}" for issue in issues]

    check()


watch_health()
