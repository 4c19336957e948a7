"""What the report says of the leak suite."""

from __future__ import annotations

import copy
import dataclasses

from serving import formatting
from serving.report.leak_suite import make_leak_suite
from serving.report.night_data import NightReport
from serving.report.page import render
from tests.serving.report.html_page import Page


def test_every_shift_is_shown_with_both_skills_and_their_legend(facts: NightReport, written: str) -> None:
    found = facts.leak_suite
    assert found is not None
    section = make_leak_suite(facts)
    assert len(section.rows) == len(found["shifts"]) + 1
    for row, item in zip(section.rows, [*found["shifts"], found["planted"]], strict=True):
        assert (row.prices, row.features) == tuple(formatting.signed(item[n]) for n in ("prices", "features"))
        assert bool(row.extra) == (item["over"] == 0)
    text = " ".join(Page(written).text.split())
    for row in section.rows:
        assert f"{row.when} {row.note}" in text
    assert "the row's own label still to come" in text
    assert "3 min later still to come" in text
    assert "earlier prices alone" in text
    assert "prices and features" in text
    assert section.shuffled in text


def test_a_finding_is_named_and_marked(facts: NightReport) -> None:
    found = copy.deepcopy(facts.leak_suite)
    assert found is not None
    found |= {"passed": False, "reason": "shifted labels: features explain 80% of <b>"}
    found["shifts"][3] |= {"is_finding": True}
    page = Page(render(dataclasses.replace(facts, leak_suite=found)))
    assert "Shifted labels: features explain 80% of <b>." in page.text
    assert [row.is_finding for row in make_leak_suite(dataclasses.replace(facts, leak_suite=found)).rows][3]


def test_nights_that_could_not_be_checked_and_those_of_older_releases_are_readable(
    facts: NightReport,
) -> None:
    found = facts.leak_suite
    assert found is not None
    bare = found | {"shifts": [], "planted": None, "shuffled": None, "passed": False, "reason": "no rows"}
    assert "No rows." in Page(render(dataclasses.replace(facts, leak_suite=bare))).text
    older = Page(render(dataclasses.replace(facts, leak_suite=None)))
    assert "An older release made this night, without a leak suite." in older.text
