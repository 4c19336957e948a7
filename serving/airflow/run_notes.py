"""Notes on Airflow's runs: the verdict of a night, or why a run failed and what to run next.

A task may not write its run's note through the API for tasks, so it uses the REST API with a token of the user `admin`,
signed with the secret that all services share (`AIRFLOW__API_AUTH__JWT_SECRET`). With another auth manager than
Airflow's simple one there is no such user: the note is left out, and the log says so. A note that cannot be written
never fails a task.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx

from storage.errors import TickwalkError
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)

_MOST_CHARACTERS: Final = 1_000
"""Airflow's own limit of a note."""
_TIMEOUT_S: Final = 30.0
_OUTCOMES: Final = {"champion": "Promoted", "paper": "On paper only"}


def report_night(settings: Settings, night: str) -> str:
    """Write the report of a night and the note of the current run; return the path of the page."""
    from airflow.sdk import get_current_context

    from serving.report import write_report
    from training.night.artifacts import NightArtifacts

    page = write_report(settings, night)
    verdict = NightArtifacts.find(settings, night).read("verdict.json")
    write_note(get_current_context(), describe_verdict(verdict, night=night, page=page))
    return page


def describe_verdict(verdict: Mapping[str, Any], *, night: str, page: str) -> str:
    """Return the verdict of a night in Markdown: the outcome, the failed checks, and where the report is.

    Args:
        verdict: value of `verdict.json`.
        night: its id.
        page: path of the report.
    """
    outcome = _OUTCOMES.get(str(verdict["state"]), "Refused")
    failed = [f"- {rule['name']}: {rule['reason']}" for rule in verdict["rules"] if not rule["passed"]]
    lines = [
        f"**{outcome}: {verdict['reason']}**",
        f"Challenger `{verdict['challenger']}`, version `{verdict['version']}`, night `{night}`.",
        *(["Failed checks:", *failed] if failed else []),
        f"Report: `{Path(page).resolve()}`",
    ]
    return "\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:])


def describe_failure(error: BaseException, *, task: str) -> str:
    """Return what failed in Markdown, and the next step where the error names one."""
    if isinstance(error, TickwalkError):
        message, hint, kind = error.message, error.hint, f" ({type(error).__name__})"
    else:
        message, kind = f"{type(error).__name__}: {error}".splitlines()[0], ""
        hint = "read the task's log, and clear the task once the cause is gone"
    return f"**Failed in `{task}`{kind}:** {message}" + (f"\n\nNext: {hint}" if hint else "")


def note_failure(context: Mapping[str, Any]) -> None:
    """Write the note of a run of which a task failed for good; a callback of the tasks."""
    task = context["ti"]
    place = f"{task.task_id}[{task.map_index}]" if (task.map_index or -1) >= 0 else str(task.task_id)
    error = context.get("exception") or RuntimeError("no reason is known")
    write_note(context, describe_failure(error, task=place))


def write_note(context: Mapping[str, Any], text: str) -> bool:
    """Replace the note of a task's run; return whether it was written."""
    run = context["dag_run"]
    if len(text) > _MOST_CHARACTERS:
        text = text[: _MOST_CHARACTERS - 2] + " …"
    try:
        answer = httpx.patch(
            f"{_api_url()}/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}",
            json={"note": text},
            params={"update_mask": "note"},
            headers={"Authorization": f"Bearer {_admin_token()}"},
            timeout=_TIMEOUT_S,
            trust_env=False,
        )
        answer.raise_for_status()
    except Exception as error:
        logger.warning("note of the run not written", run=run.run_id, reason=str(error))
        return False
    return True


def _api_url() -> str:
    """Return the address of the API server, as this task reaches it."""
    from airflow.configuration import conf

    return str(conf.get("core", "execution_api_server_url")).removesuffix("/").removesuffix("/execution")


def _admin_token() -> str:
    """Return a token of the user `admin`.

    Raises:
        TickwalkError: the auth manager has no such user.
    """
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.configuration import conf

    manager = str(conf.get("core", "auth_manager", fallback=""))
    if not manager.endswith("SimpleAuthManager"):
        raise TickwalkError(f"{manager} has no user admin to write notes as")
    user = SimpleAuthManagerUser(username="admin", role="admin")
    return SimpleAuthManager().generate_jwt(  # type: ignore[no-untyped-call]
        user, expiration_time_in_seconds=int(_TIMEOUT_S) * 2
    )
