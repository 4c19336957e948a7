"""Steps of the DAG `promote_champion`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.promotions import apply_decision, asked_decision, waiting_decision
from storage.clock import WallTime
from storage.settings import Settings


def find_decision(settings: Settings, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the decision of the form, or the one that waits for a person, as plain values.

    Raises:
        AirflowSkipException: nothing waits.
        SettingsError, GateError: the form asks for what cannot be done.
    """
    from airflow.sdk.exceptions import AirflowSkipException

    if params.get("action"):
        return asked_decision(settings, params).to_plain()
    decision = waiting_decision(settings) if settings.airflow.ask_for_paper else None
    if decision is None:
        raise AirflowSkipException("no version waits for a person")
    return decision.to_plain()


def decide(
    settings: Settings, decision: Mapping[str, Any], answer: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Apply a decision in the name of the person who approved it, and return version, recipe and event."""
    user = (answer or {}).get("responded_by_user") or {}
    who = f"{user.get('name') or user.get('id') or 'admin'}@airflow"
    event = apply_decision(settings, decision, who=who, now_ns=WallTime().now_ns())
    return {"recipe": event.recipe, "version": event.version, "event": event.event, "reason": event.reason}
