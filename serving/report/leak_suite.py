"""Report section on the leak suite: skill by shift of the label, shuffled labels, and the planted leak."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from serving import formatting
from serving.report import charts as svg
from serving.report.night_data import NightReport

_ROW_PX: Final = 26.0
_UNUSED: Final = "An older release made this night, without a leak suite."


@dataclass(frozen=True, slots=True)
class ShiftRow:
    """Skill for labels a number of bars before or after the row's own, formatted."""

    when: str
    note: str
    picture: Markup
    prices: str
    features: str
    extra: str
    is_finding: bool


@dataclass(frozen=True, slots=True)
class LeakSuiteSection:
    """Values of the section's template.

    Args:
        passed: whether nothing was found.
        outcome: what was found, in a sentence.
        rows: by shift, and last the planted leak; empty where the suite could not run.
        axis: below the pictures.
        shuffled: sentence on the shuffled labels; may be empty.
        limit: share of what price history leaves that features may explain.
    """

    passed: bool
    outcome: str
    rows: tuple[ShiftRow, ...]
    axis: Markup
    shuffled: str
    limit: str


def make_leak_suite(facts: NightReport) -> LeakSuiteSection:
    """Return the section."""
    found = facts.leak_suite
    if found is None:
        return LeakSuiteSection(True, _UNUSED, (), Markup(), "", "")
    shifts = [*found["shifts"], *([found["planted"]] if found["planted"] else [])]
    known = [item[name] for item in shifts for name in ("prices", "features")]
    scale = svg.Linear.around(known, include=(0.0, 1.0), pad=0.03)
    ticks = scale.ticks(6)
    rows = [_row(facts, item, scale) for item in found["shifts"]]
    if found["planted"]:
        rows.append(_planted(found["planted"], scale))
    reason = str(found["reason"])
    return LeakSuiteSection(
        passed=bool(found["passed"]),
        outcome=f"{reason[:1].upper()}{reason[1:]}." if reason else "No leak was found.",
        rows=tuple(rows),
        axis=svg.value_ticks(
            scale, [(at, formatting.signed(at, formatting.needed_digits(ticks))) for at in ticks]
        ),
        shuffled=_shuffled(found["shuffled"]) if found["shuffled"] else "",
        limit=formatting.percent(found["most_extra"], 0),
    )


def _row(facts: NightReport, item: dict[str, Any], scale: svg.Linear) -> ShiftRow:
    bars = int(item["bars"])
    length = formatting.length(abs(bars) * facts.bar_ns)
    when = "the row's own label" if bars == 0 else f"{length} {'later' if bars > 0 else 'earlier'}"
    note = f"{formatting.percent(item['over'], 0)} over" if item["over"] else "still to come"
    return _draw(item, scale, when=when, note=note)


def _planted(item: dict[str, Any], scale: svg.Linear) -> ShiftRow:
    note = "found" if item["is_finding"] else "tests too short"
    return _draw(item, scale, when="with a planted leak", note=note)


def _draw(item: dict[str, Any], scale: svg.Linear, *, when: str, note: str) -> ShiftRow:
    prices, features = (formatting.signed(item[name]) for name in ("prices", "features"))
    zero, start, stop = (svg.percent(scale.share(value)) for value in (0.0, item["prices"], item["features"]))
    middle = _ROW_PX / 2
    drawn = (
        svg.el("line", x1=zero, x2=zero, y1=0.0, y2=_ROW_PX, class_="zero"),
        svg.el("line", x1=start, x2=stop, y1=middle, y2=middle, class_="whisker ic"),
        svg.el("circle", cx=stop, cy=middle, r=4.5, class_="ic"),
        svg.el("circle", cx=start, cy=middle, r=3.2, class_="rank"),
    )
    label = f"{when}, {note}: IC from prices {prices}, with features {features}"
    return ShiftRow(
        when=when,
        note=note,
        picture=svg.picture(*drawn, height=_ROW_PX, label=label, class_="forest is-challenger"),
        prices=prices,
        features=features,
        extra="" if item["over"] else formatting.percent(item["extra"]),
        is_finding=bool(item["is_finding"]),
    )


def _shuffled(found: dict[str, Any]) -> str:
    low, high = (formatting.signed(at) for at in (min(found["ic"]), max(found["ic"])))
    return (
        f"Ridge regressions on {len(found['ic'])} sets of shuffled labels have an IC between {low} and {high} by "
        f"chance, and a mean of {formatting.signed(found['mean'])} (limit {found['limit']}); on the true labels it is "
        f"{formatting.signed(found['true_ic'])}."
    )
