"""Contents of the report page, escaping, and equal bytes in every home."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.monitoring.health import FeatureHealth, check_health
from serving import formatting
from serving.report import write_report
from serving.report.coverage import make_coverage
from serving.report.features import make_features
from serving.report.folds import make_folds
from serving.report.lake_queries import BarCount, CoverageRow, choose_bin_ns
from serving.report.night_data import NightReport, read_night
from serving.report.page import LATEST, POLICY, render, render_features
from storage.contracts.tables import BARS, COVERAGE, STATUSES
from storage.errors import GateError
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.features.monitoring.test_health import BLOCK, PANEL, SPLIT_NS, learned
from tests.serving.nights import COINS, HOSTILE, START_NS, STEPS, WIDTH_NS, make_night
from tests.serving.report.html_page import Page
from training.night.steps import open_night

# One file, no network, no script.


def test_page_fetches_nothing_and_runs_nothing(written: str) -> None:
    page = Page(written)
    assert len(page.elements) > 500
    assert not {tag for tag, _ in page.elements} & {
        "script",
        "img",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
    }
    addresses = [
        held[key] for _, held in page.elements for key in ("src", "href", "data", "action") if key in held
    ]
    assert addresses
    assert all((at or "").startswith(("#", "data:,")) for at in addresses)
    assert all(found.startswith("url(#") for found in re.findall(r"url\([^)]*", written))
    assert "@import" not in written
    assert not [key for _, held in page.elements for key in held if key.startswith("on")]
    policies = [h["content"] for _, h in page.elements if h.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [POLICY]


def test_names_from_data_never_become_markup(written: str) -> None:
    assert HOSTILE not in written
    assert HOSTILE in Page(written).text
    assert f"no channel is called {HOSTILE}" in Page(written).text


def test_every_link_leads_to_a_section(written: str) -> None:
    page = Page(written)
    links = {held["href"] for tag, held in page.elements if tag == "a"}
    sections = {f"#{held['id']}" for tag, held in page.elements if tag == "section"}
    assert links == sections
    assert len(sections) == 11


def test_every_picture_has_a_name(written: str) -> None:
    pictures = [held for tag, held in Page(written).elements if tag == "svg" and "viewbox" not in held]
    assert len(pictures) > 40
    assert all(held.get("aria-hidden") or (held["role"] == "img" and held["aria-label"]) for held in pictures)


def test_tables_have_captions_and_headers(written: str) -> None:
    tags = [tag for tag, _ in Page(written).elements]
    assert tags.count("table") == tags.count("caption") > 8
    assert all(held.get("scope") for tag, held in Page(written).elements if tag == "th")


# The same page from the same night.


@pytest.mark.drill
def test_equal_nights_give_equal_bytes_in_any_home(
    judged: tuple[Settings, str], written: str, tmp_path: Path
) -> None:
    settings, night = make_night(tmp_path / "another" / "home")
    assert night == judged[1]
    again = Path(write_report(settings, night)).read_text(encoding="utf-8")
    assert again == written
    assert str(judged[0].home) not in written


def test_latest_is_the_page_just_written(judged: tuple[Settings, str], written: str) -> None:
    reports = judged[0].reports_dir
    assert (reports / LATEST).read_text(encoding="utf-8") == written
    assert sorted(path.name for path in reports.iterdir()) == [LATEST, f"{judged[1]}.html"]


def test_rows_after_the_snapshot_change_nothing(judged: tuple[Settings, str], written: str) -> None:
    settings, night = judged
    late = {"journal": "simulated-late", "connection": 0, "channel": "trades", "evidence": "socket"}
    late |= {"instrument": "hyperliquid|perp|BTC", "kind": "gap", "cause": "late", "bridged": False}
    late |= {"ts_from": START_NS // 1000, "ts_to": START_NS // 1000 + 9, "revision": 0, "ts_knowable_ns": 1}
    with Lake.open(settings) as lake:
        lake.commit({"coverage": COVERAGE.rows([late])}, batch_id="late")
    assert Path(write_report(settings, night)).read_text(encoding="utf-8") == written


# What the data are.


def test_simulated_data_warning_comes_before_any_figure(facts: NightReport, written: str) -> None:
    banner = (
        "Simulated data with a planted signal: it tests the pipeline and says nothing about model quality."
    )
    spans = tuple(
        dataclasses.replace(span, journal=f"simulated-{span.journal}") for span in facts.recorded.spans
    )
    page = render(dataclasses.replace(facts, recorded=dataclasses.replace(facts.recorded, spans=spans)))
    assert banner not in written
    assert 0 < page.index(banner) < page.index("<h1>")
    assert "recording of a simulated venue" in page


def test_candle_history_has_a_caveat(facts: NightReport, written: str) -> None:
    said = "Not recorded: these bars were derived from the venue"
    bars = tuple(dataclasses.replace(item, origin="candle") for item in facts.recorded.bars)
    page = render(
        dataclasses.replace(facts, recorded=dataclasses.replace(facts.recorded, bars=bars, spans=()))
    )
    assert said in page
    assert said not in written


def test_champion_that_counts_as_none_is_named_with_the_reason(facts: NightReport) -> None:
    obstacle = "it was trained with other features"
    verdict = facts.verdict | {"champion": "lstm-old", "champion_obstacle": obstacle}
    page = render(dataclasses.replace(facts, verdict=verdict))
    assert f"lstm-old counts as no champion, since it cannot be evaluated: {obstacle}." in page


# What was recorded.


def test_bars_are_counted_as_in_the_panel(facts: NightReport) -> None:
    counted = dict.fromkeys(STATUSES, 0)
    for item in facts.recorded.bars:
        counted[item.status] += item.bars
    counted["unknown"] += STEPS * len(COINS) - sum(counted.values())
    assert counted == facts.panel["status"]
    assert counted["blind"] == 3 * 7 + 30
    assert counted["unknown"] == 4


def test_bar_revised_after_its_close_is_counted_as_it_was_served(
    judged: tuple[Settings, str], facts: NightReport
) -> None:
    settings, _ = judged
    with Lake.open(settings) as lake:
        query = "FROM bars WHERE status = 'blind' ORDER BY instrument, ts_open LIMIT 1"
        row = lake.query(query).select(BARS.schema.names).to_pylist()[0]
        row |= {"status": "quiet", "repaired": True, "revision": 1, "ts_knowable_ns": START_NS * 2}
        assert lake.commit({"bars": BARS.rows([row])}, batch_id="repair").rows == {"bars": 1}
        at = lake.snapshot()
    night = open_night(settings, recipe=str(settings.home / "small.toml"), at=at)
    assert night == facts.night["night"]
    assert read_night(settings, night).panel["status"]["blind"] == facts.panel["status"]["blind"]


def test_cells_are_filled_and_problems_are_always_visible(facts: NightReport) -> None:
    almost_sound = [
        BarCount(item.instrument, item.bin, "printed", "", "live", 4_999, 0, 0)
        for item in facts.recorded.bars[:1]
    ]
    trouble = [dataclasses.replace(almost_sound[0], status="blind", cause="connection lost", bars=1)]
    recorded = dataclasses.replace(facts.recorded, bars=(*almost_sound, *trouble))
    wide = dataclasses.replace(facts, recorded=recorded, panel=facts.panel | {"steps": 5_000})
    for shown in (facts, wide):
        for row in make_coverage(shown).rows:
            for group in row.picture.split("<g>")[1:]:
                heights = [float(found) for found in re.findall(r' height="([0-9.]+)"', group)]
                assert sum(heights) == pytest.approx(20.0, abs=0.02)
                if 'class="s-blind"' in group:
                    assert min(heights) >= 0.0
                    assert heights[-1] >= 3.0


def test_tooltip_of_a_cell_names_shares_and_causes(written: str) -> None:
    assert "BTC, 2026-02-04 03:00 to 03:05: blind 100% (connection lost)" in written


def test_bridged_and_open_gaps_are_distinguished(facts: NightReport) -> None:
    gaps = {row.instruments: row for row in make_coverage(facts).gaps}
    assert gaps["ETH"].is_bridged
    assert gaps["ETH"].length == "6 min 47 s"
    assert not gaps[f"{HOSTILE}, BTC"].is_bridged
    assert {row.cause for row in gaps.values()} == {"connection lost"}


def test_only_the_longest_gaps_are_listed_and_the_rest_counted(facts: NightReport) -> None:
    template = next(span for span in facts.recorded.spans if span.kind == "gap")
    many = [
        dataclasses.replace(template, from_ns=START_NS + n * 10**10, to_ns=START_NS + n * 10**10 + n * 10**8)
        for n in range(1, 61)
    ]
    recorded = dataclasses.replace(facts.recorded, spans=tuple(many))
    found = make_coverage(dataclasses.replace(facts, recorded=recorded))
    assert len(found.gaps) + found.gaps_left_out == 60
    assert found.gaps[0].start < found.gaps[-1].start
    assert found.gaps[-1].length == "6 s"
    assert found.gaps[0].length == "3.7 s"


def test_discrepancies_with_candles_are_listed_by_figure(facts: NightReport, written: str) -> None:
    found = make_coverage(facts)
    assert [(row.instrument, row.differs, row.checked) for row in found.discrepancies] == [
        ("ETH", "trades 3 against 4; volume 2.5 against 3.5", "T+1h")
    ]
    assert found.certified.startswith("0 of ")
    assert "Complete bars that differ from the venue's candles" in written
    assert "volume 2.5 against 3.5" in written


def test_holes_that_no_gap_explains_are_listed(facts: NightReport) -> None:
    holes = make_coverage(facts).holes
    assert [(hole.instrument, hole.bars, hole.status) for hole in holes] == [("ETH", "4", "unknown")]


# Features.


def test_every_finding_has_its_reason_and_every_feature_its_figures(facts: NightReport, written: str) -> None:
    text = " ".join(Page(written).text.split())
    assert facts.health.findings
    for item in facts.health.findings:
        assert f"{item.what} {item.reason}" in text
    for name in facts.health.names:
        assert f"{name}: known on" in written
    assert "later rows hidden in the lake, at 3 bars" in text


def test_cell_opacity_is_the_known_share(facts: NightReport) -> None:
    """One feature that is never known on one instrument, and wholly on another."""
    coverage = facts.health.coverage.copy()
    coverage[0] = [0.0, 0.4, 1.0]
    [row, *_] = make_features(dataclasses.replace(facts.health, coverage=coverage)).rows
    cells = row.heat.split("<g>")[1:]
    assert ["s-unknown" in cell for cell in cells] == [True, False, False]
    assert [re.findall(r'fill-opacity="([0-9.]+)"', cell) for cell in cells] == [[], ["0.4"], ["1"]]


# Folds, skill, money.


def test_folds_name_the_chosen_model_and_the_reused_fits(facts: NightReport) -> None:
    found = make_folds(facts)
    assert [row.choice for row in found.rows] == facts.summary["path"]["by_fold"]
    assert [row.reused for row in found.rows] == ["0 of 7"] * len(facts.folds)
    fits = {0: {name: {"is_reused": name == "mlp"} for name in ("ridge", "mlp")}}
    assert [row.reused for row in make_folds(dataclasses.replace(facts, fits=fits)).rows] == ["1 of 2", ""]
    assert found.calendar == "tests of 2 hours and validation of 2 hours on the UTC calendar"


def test_folds_are_drawn_to_scale(facts: NightReport, written: str) -> None:
    start, stop = facts.folds[0]["train"][0], facts.folds[-1]["test"][1]
    drawn = {
        (held["x"], held["width"]) for held in Page(written).of("f-test") if "%" in (held["width"] or "")
    }
    for fold in facts.folds:
        left = 100 * (fold["test"][0] - start) / (stop - start)
        width = 100 * (fold["test"][1] - fold["test"][0]) / (stop - start)
        assert any(
            abs(float(x[:-1]) - left) < 0.01 and abs(float(w[:-1]) - width) < 0.01
            for x, w in drawn
            if x and w
        )


def test_every_model_and_control_is_on_the_equity_axis(facts: NightReport, written: str) -> None:
    labels = [held["aria-label"] or "" for held in Page(written).of("equity")]
    assert len(labels) == 1
    assert all(f"{name} " in labels[0] for name in facts.models)


def test_costs_are_shown_with_their_sign_and_add_up(facts: NightReport, written: str) -> None:
    traded = facts.summary["models"][facts.challenger]["traded"]
    costs = sum(traded[name] for name in ("fee", "spread", "impact", "funding"))
    assert traded["net"] == pytest.approx(traded["gross"] - costs)
    assert f"{facts.challenger}: gross " in written


# Errors.


def test_night_without_a_verdict_is_refused_with_the_step(
    judged: tuple[Settings, str], tmp_path: Path
) -> None:
    # In a copy, since other files' tests count the nights of that home.
    home = shutil.copytree(judged[0].home, tmp_path / "home")
    settings = dataclasses.replace(judged[0], home=home)
    night = open_night(settings, recipe=str(home / "small.toml"), until="2026-02-04T07:00:00Z")
    with pytest.raises(GateError, match=r"has no verdict\.json yet \(run its step judge_night first\)"):
        write_report(settings, night)


def test_unknown_night_is_refused(judged: tuple[Settings, str]) -> None:
    with pytest.raises(GateError, match="no night is called 'yesterday'"):
        write_report(judged[0], "yesterday")


# Size.


def test_page_of_a_long_night_stays_small(facts: NightReport) -> None:
    page = render(_long(facts))
    assert len(page.encode()) < 1_500_000
    assert len(Page(page).of("heat")) == 12 + len(facts.health.names)


def _long(facts: NightReport) -> NightReport:
    """Return the night stretched to 67 days, 12 instruments and 5 folds, every cell of the heat map different."""
    names = [f"hyperliquid|perp|C{n}" for n in range(12)]
    stop_ns = START_NS + 67 * 24 * 60 * WIDTH_NS
    bin_ns = choose_bin_ns(START_NS, stop_ns, bar_ns=WIDTH_NS)
    cells = range(START_NS // bin_ns, stop_ns // bin_ns)
    mixture = (
        ("printed", 300, ""),
        ("quiet", 200, ""),
        ("blind", 100, "connection lost"),
        ("halted", 20, ""),
    )
    bars = tuple(
        BarCount(name, cell, status, cause, "live", n + cell % 7, 0, 5)
        for name in names
        for cell in cells
        for status, n, cause in mixture
    )
    spans = tuple(
        CoverageRow(
            "a",
            name,
            "gap",
            "connection lost",
            "socket",
            False,
            START_NS + n * bin_ns,
            START_NS + n * bin_ns + n,
        )
        for name in names
        for n in range(500)
    )
    length_ns = (stop_ns - START_NS) // 10
    folds = [
        facts.folds[0]
        | {"index": n, "train": [START_NS, START_NS + (4 + n) * length_ns]}
        | {"valid": [START_NS + (4 + n) * length_ns, START_NS + (5 + n) * length_ns]}
        | {"test": [START_NS + (5 + n) * length_ns, START_NS + (6 + n) * length_ns]}
        for n in range(5)
    ]
    metrics = {(n, name): held for (at, name), held in facts.metrics.items() if at == 0 for n in range(5)}
    models: dict[str, Any] = {
        name: held | {"folds": [held["test"]] * 5} for name, held in facts.summary["models"].items()
    }
    times = [START_NS + 5 * length_ns + n * (stop_ns - START_NS) // 1200 for n in range(600)]
    net = {name: [n * 1e-4 + (n % 13) * 1e-3 for n in range(600)] for name in models}
    return dataclasses.replace(
        facts,
        night=facts.night | {"instruments": names, "since_ns": START_NS, "until_ns": stop_ns},
        panel=facts.panel | {"steps": 67 * 24 * 60, "instruments": 12},
        folds=folds,
        metrics=metrics,
        summary=facts.summary | {"models": models, "equity": {"ts_ns": times, "net": net}},
        holes=tuple(dataclasses.replace(facts.holes[0], instrument=name) for name in names),
        health=_spread(facts.health, names),
        recorded=dataclasses.replace(facts.recorded, bin_ns=bin_ns, bars=bars, spans=spans),
    )


def _spread(health: FeatureHealth, names: list[str]) -> FeatureHealth:
    """Return the health of more instruments, every cell different."""
    shape = (len(health.names), len(names))
    figures = {
        name: np.linspace(0.0, 0.99, shape[0] * shape[1]).reshape(shape)
        for name in ("coverage", "nulls", "constant", "psi", "ks", "usual")
    }
    findings = tuple(dataclasses.replace(item, instruments=tuple(names)) for item in health.findings)
    return dataclasses.replace(health, instruments=tuple(names), findings=findings, **figures)


def test_full_recipe_is_the_recipe(facts: NightReport, written: str) -> None:
    text = Page(written).text
    told = text[text.index("Full recipe") + len("Full recipe") :]
    assert json.JSONDecoder().raw_decode(told.strip())[0] == facts.night["recipe"]


def test_feature_section_names_the_training_window() -> None:
    health = check_health(BLOCK, PANEL, split_ns=SPLIT_NS, learned=learned(100, 1_000))
    section = make_features(health)
    assert section.training_source == "the training window of champion mlp-night"
    assert section.trained == formatting.span(int(PANEL.ts_open_ns[100]), int(PANEL.ts_open_ns[1_000]))
    assert "training window of champion mlp-night" in render_features(health)
    plain = make_features(check_health(BLOCK, PANEL, split_ns=SPLIT_NS))
    assert plain.training_source == "the range before the newest bars"
    assert plain.trained == formatting.span(int(PANEL.ts_open_ns[0]), SPLIT_NS)
