"""Report section on predictions that were made elsewhere: what became of their rows, and skill by later bar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from serving import formatting
from serving.report import charts as svg
from serving.report.night_data import NightReport
from training.data.labels import delay_bars
from training.night.outside_predictions import describe_counts

_HEIGHT: Final = 120.0
_SMALL: Final = 0.02
"""Deviation of predictions, in units of the label, below which they are more likely to be plain returns."""


@dataclass(frozen=True, slots=True)
class FoldCoverage:
    """Row of one fold, formatted."""

    index: int
    predicted: str
    rows: str
    share: str


@dataclass(frozen=True, slots=True)
class OutsideSection:
    """Values of the section's template.

    Args:
        name: of the predictions.
        notes: what became of the rows of the file.
        folds: coverage of each test.
        skill: picture of the skill by later bar.
        bars: number of its bars.
        span: first and last bar of the label.
    """

    name: str
    notes: tuple[str, ...]
    folds: tuple[FoldCoverage, ...]
    skill: Markup
    bars: int
    span: tuple[int, int]


def make_outside(facts: NightReport) -> OutsideSection | None:
    """Return the section; `None` for a night, which made its predictions itself."""
    found = facts.outside
    if found is None:
        return None
    label = facts.recipe.label
    grace_ns = facts.night["grace_ms"] * 1_000_000
    enter = delay_bars(facts.bar_ns, grace_ns=grace_ns, delay_ms=label.delay_ms)
    span = (enter + 1, enter + label.horizon_bars)
    return OutsideSection(
        name=found["name"],
        notes=(*(f"{text}." for text in describe_counts(found["counts"])), *_unit(found)),
        folds=tuple(
            FoldCoverage(
                item["index"],
                formatting.count(item["test"]),
                formatting.count(item["test_rows"]),
                formatting.percent(item["test"] / item["test_rows"] if item["test_rows"] else None),
            )
            for item in found["folds"]
        ),
        skill=_skill(found["skill"], span),
        bars=len(found["skill"]),
        span=span,
    )


def _unit(found: dict[str, Any]) -> tuple[str, ...]:
    deviation = found["deviation"]
    shown = f"Their deviation is {formatting.decimal(deviation, 4)} in units of the label."
    if found["unit"] == "return":
        return (f"They are log returns, divided by the label's volatility. {shown}",)
    if deviation < _SMALL:
        hint = "if they are plain returns, call their column predicted_return"
        return (f"{shown} That is small for labels, whose deviation is near 1: {hint}.",)
    return (shown,)


def _skill(skill: list[dict[str, Any]], span: tuple[int, int]) -> Markup:
    """Return the correlation with the return of each later bar as columns; the label's bars are coloured."""
    known = [abs(item["correlation"]) for item in skill if item["correlation"] is not None]
    scale = max([*known, 0.01])
    middle = _HEIGHT / 2
    drawn = [svg.el("line", x1="0", x2="100%", y1=middle, y2=middle, class_="zero")]
    for place, item in enumerate(skill):
        value = item["correlation"] or 0.0
        size = middle * abs(value) / scale
        is_label = span[0] <= item["bar"] <= span[1]
        drawn.append(
            svg.block(
                (place + 0.1) / len(skill),
                (place + 0.9) / len(skill),
                top=middle - size if value > 0 else middle,
                height=size,
                class_="f-test" if is_label else "f-train",
                title=f"bar {item['bar']}: {formatting.signed(item['correlation'])}",
            )
        )
    label = f"skill by later bar: largest correlation {formatting.decimal(scale, 3)}"
    return svg.picture(*drawn, height=_HEIGHT, label=label)
