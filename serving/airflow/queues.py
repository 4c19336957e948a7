"""Queues of tasks that may run on workers: `gpu` and `backfill`."""

from __future__ import annotations

from typing import Any, Literal

from storage.settings import load_settings

Queue = Literal["gpu", "backfill"]


def in_queue(queue: Queue) -> dict[str, Any]:
    """Return arguments of a task that runs on workers of this queue, if the setting `airflow.worker_queues` names it.

    Otherwise the task runs where the scheduler does, and there are no arguments: Airflow refuses a DAG that names an
    executor which is not configured. Use it as `@task(**in_queue("gpu"))`.
    """
    if queue not in load_settings().airflow.worker_queues:
        return {}
    return {"queue": queue, "executor": "EdgeExecutor"}
