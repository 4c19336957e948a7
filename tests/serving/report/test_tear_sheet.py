"""The section of the tear sheet: its figures are those of the night's files, and older nights have none."""

from __future__ import annotations

import dataclasses
import math

import pytest

from serving import formatting
from serving.report.night_data import NightReport
from serving.report.page import render
from serving.report.tear_sheet import make_tear_sheet


def test_models_and_parts_of_the_night_are_shown(facts: NightReport) -> None:
    section = make_tear_sheet(facts)
    assert section is not None
    assert facts.tear_sheet is not None
    assert [row.model for row in section.models] == [*facts.models, "buy and hold"]
    by_name = {row.model: dict(row.values) for row in section.models}
    for name, model in facts.summary["models"].items():
        assert by_name[name]["net"] == formatting.signed_percent(model["traded"]["net"])
        pooled, whole = facts.tear_sheet["models"][name]["pooled"], model["test"]["ic"]["value"]
        assert pooled["value"] == pytest.approx(whole or 0.0, abs=1e-9)
    titles = [card.title for card in section.cards]
    assert titles == [
        "By instrument", "By hour", "By volatility", "By illiquidity", "Decay",
        "Label by quantile of the prediction", "Calibration", "Capacity", "Importance of features",
    ]  # fmt: skip


def test_parts_add_up_and_are_in_order(facts: NightReport) -> None:
    assert facts.tear_sheet is not None
    figures = facts.tear_sheet["models"][facts.challenger]
    rows = figures["pooled"], facts.summary["models"][facts.challenger]["test"]["rows"]
    assert sum(part["count"] for part in figures["by_instrument"].values()) == rows[1]
    assert sum(part["count"] for part in figures["quantiles"]) in (0, rows[1])
    assert figures["decay"][0][0] == 0
    assert [capital for capital, _ in facts.tear_sheet["capacity"]] == [1e4, 1e5, 1e6, 1e7]
    losses = [loss for _, loss in facts.tear_sheet["importance"]]
    assert losses == sorted(losses, reverse=True)
    assert len(losses) == len(facts.night["feature_names"])


def test_the_newest_of_the_listed_nights_is_this_one(facts: NightReport) -> None:
    section = make_tear_sheet(facts)
    assert section is not None
    assert [row.is_this for row in section.earlier] == [False] * (len(section.earlier) - 1) + [True]
    assert section.earlier[-1].night == facts.night["night"]


def test_a_night_without_the_file_has_no_section(facts: NightReport) -> None:
    older = dataclasses.replace(facts, tear_sheet=None)
    assert make_tear_sheet(older) is None
    assert 'id="sheet"' not in render(older)
    assert 'href="#sheet"' not in render(older)


def test_undefined_figures_are_dashes(facts: NightReport) -> None:
    assert facts.tear_sheet is not None
    sharpe = dict(facts.tear_sheet["sharpe"], formula=None, least_periods=None)
    section = make_tear_sheet(dataclasses.replace(facts, tear_sheet=facts.tear_sheet | {"sharpe": sharpe}))
    assert section is not None
    assert "too few" in section.sharpe
    assert formatting.decimal(math.nan) == formatting.NOTHING
