"""How often and how long does every DAG's task try before a person is asked?"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

# The first rule that fits decides. A locked catalog may be free in two minutes; a wrong recipe, range, table or
# checkpoint is as wrong then as now. What is none of ours (out of memory, a lost disk) is tried again.
RETRY_POLICY: Final = ExceptionRetryPolicy(
    rules=[
        RetryRule(exception="storage.errors.LakeError", action=RetryAction.RETRY),
        RetryRule(
            exception="storage.errors.TickwalkError",
            action=RetryAction.FAIL,
            reason="tickwalk says what is wrong; trying again does not mend it",
        ),
    ]
)

TASK_DEFAULTS: Final[dict[str, Any]] = {
    "retries": 2,
    "retry_delay": timedelta(minutes=2),
    "retry_policy": RETRY_POLICY,
    "execution_timeout": timedelta(hours=6),
}
