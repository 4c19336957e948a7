"""Pages within Airflow: guarded by its login and its permissions for DAGs.

Who may read the DAG `retrain_nightly` may see the pages; who may trigger `promote_champion` may change the champion.
"""

from __future__ import annotations

from typing import cast

from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from fastapi import FastAPI, Request
from sqlalchemy import select

from serving.pages.app import make_app
from storage.settings import load_settings

_reads_night = requires_access_dag("GET", param_dag_id="retrain_nightly")
_decides = requires_access_dag("POST", param_dag_id="promote_champion")


def make_plugin_app() -> FastAPI:
    """Return the application of the plugin."""
    return make_app(
        load_settings(), may_read=may_read, may_change=may_change, who=who, night_of_run=night_of_run
    )


def may_read(request: Request, user: GetUserDep) -> None:
    """Refuse a request without login, and users who may not see the nights."""
    request.state.user = user
    _reads_night(request, user)


def may_change(request: Request, user: GetUserDep) -> None:
    """Refuse users who may not promote."""
    _decides(request, user)


def who(request: Request) -> str:
    """Return the name of the user for the registry."""
    return f"{request.state.user.get_name()}@airflow"


def night_of_run(dag_id: str, run_id: str) -> str | None:
    """Return the night that a run opened; `None` if it has not yet, or is not a run of nights."""
    query = select(XComModel.value).where(
        XComModel.dag_id == dag_id,
        XComModel.run_id == run_id,
        XComModel.task_id == "open_night",
        XComModel.key == "return_value",
    )
    with create_session() as session:
        value = session.scalar(query)
    # Airflow stores the text as JSON.
    return None if value is None else cast("str", value).strip('"')
