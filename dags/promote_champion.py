"""Promote, retire or roll back a champion by hand, and ask a person about versions that the gate keeps on paper.

For the person on call: **if it fails, the champion stays as it is.** "Trigger" has a form: an action, the version (of
`roll back`, the recipe) and a reason, which the registry keeps. With `airflow.ask_for_paper` each night whose version
stays on paper leaves a question under "Required actions"; "Reject", or no answer within 20 hours, changes nothing.
**Normal:** skipped tasks, where no version waits. **Not normal:** `GateError`, if another version serves by the time of
the decision: look at `tickwalk models list`, and decide again. Without Airflow: `tickwalk models promote VERSION`.
"""

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Asset, Param, PartitionedAssetTimetable, dag, task

from serving.airflow.task_defaults import TASK_DEFAULTS
from storage.settings import load_settings

CHAMPION = Asset("champion")


@dag(
    schedule=PartitionedAssetTimetable(assets=Asset("model_versions")),
    catchup=False,
    max_active_runs=1,
    default_args=TASK_DEFAULTS,
    params={
        "action": Param(
            None,
            type=["null", "string"],
            enum=[None, "promote", "retire", "roll back"],
            description="What to do; empty: ask about the newest version.",
        ),
        "version": Param(None, type=["null", "string"], description="Id; of `roll back`, the recipe."),
        "reason": Param(None, type=["null", "string"], description="Why; the registry keeps it."),
    },
    doc_md=__doc__,
    tags=["training"],
)
def promote_champion() -> None:
    @task
    def find_decision(params: dict[str, Any] | None = None) -> dict[str, Any]:
        from serving.airflow.approvals import find_decision

        return find_decision(load_settings(), params or {})

    @task.branch
    def who_decides(decision: dict[str, Any]) -> str:
        return "decide" if decision["is_asked"] else "approve"

    approve = ApprovalOperator(
        task_id="approve",
        subject="Promote {{ ti.xcom_pull(task_ids='find_decision')['version'] }}?",
        body="{{ ti.xcom_pull(task_ids='find_decision')['text'] }}",
        defaults="Reject",
        response_timeout=timedelta(hours=20),
        execution_timeout=None,
    )

    @task(pool="registry", trigger_rule="none_failed_min_one_success", outlets=[CHAMPION])
    def decide(decision: dict[str, Any], ti: Any = None, *, outlet_events: Any = None) -> dict[str, Any]:
        from serving.airflow.approvals import decide

        done = decide(load_settings(), decision, ti.xcom_pull(task_ids="approve"))
        outlet_events[CHAMPION].extra = done
        return done

    decision = find_decision()
    route = who_decides(decision)
    route >> approve >> (decided := decide(decision))
    route >> decided


promote_champion()
