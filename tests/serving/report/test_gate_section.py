"""What the report says of the decision: conditions, evidence, other limits and the monitored champion."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from serving.report.night_data import NightReport
from serving.report.page import render
from tests.serving.nights import START_NS, WIDTH_NS
from tests.serving.report.html_page import Page
from training.night.holdouts import HoldoutEvent


def test_every_rule_is_shown_with_value_limit_and_reason(facts: NightReport, written: str) -> None:
    page = Page(written)
    rules = facts.verdict["rules"]
    assert [rule["name"] for rule in rules] == [
        "leaks",
        "feature proof",
        "leak suite",
        "earns more than zero",
    ]
    assert all(rule["reason"] in page.text for rule in rules)
    assert page.text.count("\N{CHECK MARK} passed") == sum(rule["passed"] for rule in rules)
    assert page.text.count("\N{BALLOT X} failed") == sum(not rule["passed"] for rule in rules)


@pytest.mark.parametrize(
    ("state", "word", "fate"),
    [
        ("champion", "Promoted", "replacing"),
        ("paper", "Paper only", "keeps serving"),
        ("rejected", "Refused", "keeps serving"),
    ],
)
def test_verdict_comes_first(facts: NightReport, state: str, word: str, fate: str) -> None:
    told = facts.verdict | {"promoted": state == "champion", "state": state, "champion": "lstm-before"}
    page = render(dataclasses.replace(facts, verdict=told))
    head = Page(page[: page.index("</header>")]).text
    assert f"{word}: {facts.challenger}" in " ".join(head.split())
    assert fate in head
    assert "lstm-before" in head


def test_evidence_and_what_the_data_could_have_shown_are_said(facts: NightReport) -> None:
    item = facts.verdict["evidence"][0]
    history = item["history"] | {"detectable_sharpe": 2.94, "periods": 365}
    told = item | {
        "p_value": 0.031,
        "start": 1.42,
        "value": 3.5,
        "quoted_value": 2.5,
        "days": 12,
        "history": history,
    }
    page = Page(render(dataclasses.replace(facts, verdict=facts.verdict | {"evidence": [told]}))).text
    words = " ".join(page.split())
    assert "its history has a p-value of 0.0310, which starts the evidence at 1.42" in words
    assert (
        "After 12 later hours it is 3.50, and 2.50 by those with quotes alone; a promotion needs 40" in words
    )
    assert "of these 365 hours finds with a probability of 80% is 2.9" in words


def test_members_that_were_tried_on_these_tests_are_counted(facts: NightReport) -> None:
    told = dataclasses.replace(facts, trials={"night": 7, "judge": 1200})
    words = " ".join(Page(render(told)).text.split())
    assert (
        "has evaluated 1,207 members on these test days: 7 in nights, 1,200 from files of predictions"
        in words
    )
    assert "members on these test days" not in Page(render(dataclasses.replace(facts, trials={}))).text


def test_the_report_says_of_each_holdout_whether_it_was_open_before(facts: NightReport) -> None:
    def event(kind: Any, at_ns: int) -> HoldoutEvent:
        return HoldoutEvent(START_NS, START_NS + WIDTH_NS, kind, f"reason {at_ns}", "ann@desk", at_ns)

    def words(*events: HoldoutEvent) -> str:
        return " ".join(Page(render(dataclasses.replace(facts, holdouts=list(events)))).text.split())

    assert "holdout" not in words()
    assert "is sealed: no recipe reads it" in words(event("sealed", 1))
    assert "was opened: recipes read it" in words(event("sealed", 1), event("opened", 2))
    again = words(event("sealed", 1), event("opened", 2), event("sealed", 3))
    assert "(ann@desk: reason 2)" in again
    assert "It had been open before, since" in again


def test_other_limits_are_shown_beside_the_homes_own(facts: NightReport, written: str) -> None:
    words = " ".join(Page(written).text.split())
    assert "gate.false_promotions is 5.0% here" in words
    assert words.count("not yet") == len(facts.verdict["other_limits"]) == 4


def test_monitored_champion_is_named(facts: NightReport, written: str) -> None:
    found = {
        "version": "ridge-old",
        "statistic": 6.1,
        "threshold": 5.7,
        "days": 31,
        "daily_sharpe": 0.4,
        "is_demoted": True,
    }
    told = facts.verdict | {"champion": "ridge-old", "demotion": found}
    words = " ".join(Page(render(dataclasses.replace(facts, verdict=told))).text.split())
    assert "ridge-old was demoted and stays on paper" in words
    assert "In 31 days since its promotion its CUSUM has reached 6.10, and above 5.70 it is demoted" in words
    assert "CUSUM" not in written
