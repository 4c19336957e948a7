"""Default retries and timeouts of DAG tasks."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

from serving.airflow.run_notes import note_failure

# The first matching rule decides. A locked catalog may be free in two minutes, but a wrong recipe, range, table or
# checkpoint stays wrong. Other errors (out of memory, a lost disk) are retried.
RETRY_POLICY: Final = ExceptionRetryPolicy(
    rules=[
        RetryRule(exception="storage.errors.LakeError", action=RetryAction.RETRY),
        RetryRule(
            exception="storage.errors.TickwalkError",
            action=RetryAction.FAIL,
            reason="an error that a retry cannot fix; see the message",
        ),
    ]
)

TASK_DEFAULTS: Final[dict[str, Any]] = {
    "owner": "tickwalk",
    "on_failure_callback": note_failure,
    "retries": 2,
    "retry_delay": timedelta(minutes=2),
    "retry_policy": RETRY_POLICY,
    "execution_timeout": timedelta(hours=6),
}

_DATA_RETRY_POLICY: Final = ExceptionRetryPolicy(
    rules=[
        RetryRule(exception=f"storage.errors.{name}", action=RetryAction.RETRY)
        for name in ("NotReadyError", "VenueError", "JournalError")
    ]
    + RETRY_POLICY.rules
)

DATA_TASK_DEFAULTS: Final[dict[str, Any]] = TASK_DEFAULTS | {
    "owner": "data",
    "retries": 12,
    "retry_delay": timedelta(minutes=10),
    "retry_policy": _DATA_RETRY_POLICY,
}
"""Defaults of tasks that wait for a venue or a recorder: two hours, after which no recorder revises a day any more."""
