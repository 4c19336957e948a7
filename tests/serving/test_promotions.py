"""Decisions of people about champions: what a form asks for, what waits, and what another champion prevents."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serving.promotions import apply_decision, asked_decision, waiting_decision
from storage.errors import GateError, SettingsError
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.training.night.test_registry import FIRST
from training.night.registry import append_events, current_champion, retire_version

PAPER = replace(FIRST, version="mlp-demo-2", night="demo-2", ts_knowable_ns=20)
WHY = "it was judged without quotes"


@pytest.fixture
def home(settings: Settings) -> Settings:
    """A home with a champion, and a newer version on paper."""
    settings.ensure_home()
    with Lake.open(settings) as lake:
        append_events(lake, [FIRST, replace(FIRST, event="champion", reason="earned it")], batch_id="v1")
        append_events(lake, [PAPER, replace(PAPER, event="paper", reason=WHY)], batch_id="v2")
    return settings


def champion(settings: Settings) -> str | None:
    with Lake.open(settings, read_only=True) as lake:
        found = current_champion(lake, "demo")
    return found.version if found else None


def test_the_newest_version_waits_if_it_is_on_paper_and_serves_once_it_is_approved(home: Settings) -> None:
    decision = waiting_decision(home)
    assert decision is not None
    assert (decision.action, decision.version, decision.champion) == ("promote", "mlp-demo-2", "mlp-demo-1")
    assert not decision.is_asked
    assert "in place of `mlp-demo-1`?" in decision.text
    assert f"The gate keeps it on paper: {WHY}" in decision.text
    event = apply_decision(home, decision.to_plain(), who="ann@airflow", now_ns=99)
    assert (event.event, event.who, event.reason) == ("champion", "ann@airflow", "approved in Airflow")
    assert champion(home) == "mlp-demo-2"
    assert waiting_decision(home) is None


def test_nothing_waits_without_versions_or_behind_a_refused_one(settings: Settings, home: Settings) -> None:
    later = replace(FIRST, version="mlp-demo-3", night="demo-3", ts_knowable_ns=30)
    with Lake.open(home) as lake:
        append_events(lake, [later, replace(later, event="rejected", reason="too little")], batch_id="v3")
    assert waiting_decision(home) is None


def test_a_form_promotes_retires_and_rolls_back(home: Settings) -> None:
    for action, name, expected in (
        ("promote", "mlp-demo-2", "mlp-demo-2"),
        ("roll back", "demo", "mlp-demo-1"),
        ("retire", "mlp-demo-1", None),
    ):
        decision = asked_decision(home, {"action": action, "version": name, "reason": "we looked at it"})
        assert decision.is_asked
        apply_decision(home, decision.to_plain(), who="ann@airflow", now_ns=99)
        assert champion(home) == expected


def test_a_decision_that_met_another_champion_changes_nothing(home: Settings) -> None:
    decision = waiting_decision(home)
    assert decision is not None
    with Lake.open(home) as lake:
        retire_version(lake, "mlp-demo-1", reason="wrong data", now_ns=50)
    with pytest.raises(GateError, match="the change was made for mlp-demo-1"):
        apply_decision(home, decision.to_plain(), who="ann@airflow", now_ns=99)
    assert champion(home) is None


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({"action": "sell"}, SettingsError, "the action is 'sell'"),
        ({"action": "promote", "reason": "x"}, SettingsError, "promote has no version"),
        ({"action": "retire", "version": "mlp-demo-1", "reason": " "}, SettingsError, "retire has no reason"),
        ({"action": "promote", "version": "mlp-demo-9", "reason": "x"}, GateError, "no version is called"),
        ({"action": "roll back", "version": "candles", "reason": "x"}, GateError, "the recipes: demo"),
    ],
)
def test_what_a_form_cannot_ask_for(
    home: Settings, params: dict[str, str], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        asked_decision(home, params)
