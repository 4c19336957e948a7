"""Report section on features: coverage by instrument, and drift from the training window."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import numpy as np
from markupsafe import Markup

from features.monitoring.checks import PSI_MUCH, PSI_SOME, HealthFinding
from features.monitoring.drift import Figures
from features.monitoring.health import FeatureHealth
from serving import formatting
from serving.report import charts as svg

_ROW_PX: Final = 14.0
_MOST_INSTRUMENTS: Final = 40
_MOST_NAMES: Final = 16
_LONGEST_NAME: Final = 10
_MOST_FINDINGS: Final = 24
_MOST_NAMED: Final = 6
_PSI_SHOWN: Final = 1.0
"""End of the PSI axis; larger values are cut off there, with their number beside them."""
_STEPS: Final = 20
_LABELS: Final = ((0.0, "0"), (PSI_SOME, "0.1"), (PSI_MUCH, "0.25"), (0.5, "0.5"), (1.0, "1 or more"))


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """Row of one feature: coverage heat map and drift bars."""

    name: str
    heat: Markup
    known: str
    least: str
    least_on: str
    bars: Markup
    psi: str
    psi_on: str
    ks: str
    is_far: bool


@dataclass(frozen=True, slots=True)
class FeatureNote:
    """Health finding, with all features it applies to."""

    is_refusal: bool
    features: str
    instruments: str
    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class FeaturesSection:
    """Values of the section's template."""

    rows: tuple[FeatureRow, ...]
    names: Markup
    left_out: int
    axis: Markup
    trained: str
    training_source: str
    recent: str
    findings: tuple[FeatureNote, ...]
    findings_left_out: int
    checks: tuple[tuple[str, str], ...]


def make_features(health: FeatureHealth, *, checks: Sequence[tuple[str, str]] = ()) -> FeaturesSection:
    """Return the section.

    Args:
        health: health of the block.
        checks: checks of the leakage test with their number of values.
    """
    names = formatting.short_names(health.instruments)
    shown = _shown(health)
    findings = _notes(health, names)
    return FeaturesSection(
        rows=tuple(_row(health, place, shown, list(names.values())) for place in range(len(health.names))),
        names=_names([list(names.values())[row] for row in shown]),
        left_out=len(names) - len(shown),
        axis=svg.value_ticks(_PSI_AXIS, [(_sqrt_scale(at), text) for at, text in _LABELS]),
        trained=formatting.span(health.trained_since_ns, health.trained_until_ns),
        training_source=f"the training window of champion {health.champion}"
        if health.champion
        else "the range before the newest bars",
        recent=formatting.span(health.split_ns, health.until_ns),
        findings=tuple(findings[:_MOST_FINDINGS]),
        findings_left_out=max(len(findings) - _MOST_FINDINGS, 0),
        checks=tuple(checks),
    )


def _notes(health: FeatureHealth, names: dict[str, str]) -> list[FeatureNote]:
    """Return the findings, refusals first, with equal findings of several features merged."""

    def group_key(item: HealthFinding) -> tuple[bool, str, str, tuple[str, ...]]:
        return (item.verdict != "refuse", item.what, item.reason, item.instruments)

    rows = []
    order = {group_key(item): place for place, item in reversed(list(enumerate(health.findings)))}
    ranked = sorted(health.findings, key=lambda item: (item.verdict != "refuse", order[group_key(item)]))
    for (is_warning, what, reason, instruments), run in groupby(ranked, key=group_key):
        some = formatting.join_names([names[name] for name in instruments], _MOST_NAMED)
        rows.append(
            FeatureNote(
                is_refusal=not is_warning,
                features=", ".join(item.feature for item in run),
                instruments="all" if len(instruments) == len(names) > 1 else some,
                what=what,
                reason=reason,
            )
        )
    return rows


def _shown(health: FeatureHealth) -> list[int]:
    """Return the instruments to draw, in order; if not all fit, those with the lowest coverage."""
    known = np.nan_to_num(health.coverage).mean(axis=0)
    worst = sorted(range(len(known)), key=lambda row: (known[row], row))[:_MOST_INSTRUMENTS]
    return sorted(worst)


def _row(health: FeatureHealth, place: int, shown: Sequence[int], names: Sequence[str]) -> FeatureRow:
    feature, coverage, psi = health.names[place], health.coverage[place], health.psi[place]
    mean, least = _mean(coverage), _first(np.argsort(coverage), coverage)
    farthest = _first(np.argsort(-psi), psi)
    are_equal = len(set(coverage[np.isfinite(coverage)].tolist())) == 1 < len(names)
    return FeatureRow(
        name=feature,
        heat=_heat(feature, [(names[row], float(coverage[row])) for row in shown]),
        known=formatting.percent(mean),
        least=formatting.NOTHING if least is None else formatting.percent(float(coverage[least])),
        least_on="" if least is None else "all equal" if are_equal else names[least],
        bars=_bars(feature, psi, health.usual[place]),
        psi=formatting.NOTHING if farthest is None else formatting.decimal(float(psi[farthest])),
        psi_on="" if farthest is None else names[farthest],
        ks=formatting.NOTHING if farthest is None else formatting.decimal(float(health.ks[place][farthest])),
        is_far=farthest is not None and float(psi[farthest]) > PSI_MUCH,
    )


# The heat map: instruments from left to right.


def _heat(feature: str, cells: Sequence[tuple[str, float]]) -> Markup:
    drawn, at = [], 0
    for (_, filled), run in groupby(cells, key=lambda cell: (math.isnan(cell[1]), _filled(cell[1]))):
        members = list(run)
        start, stop = at / len(cells), (at + len(members)) / len(cells)
        at += len(members)
        coverages = formatting.join_names(
            [f"{name} {formatting.percent(share)}" for name, share in members], _MOST_NAMED
        )
        drawn.append(
            svg.el(
                "g",
                svg.el("title", f"{feature}, known on: {coverages}"),
                svg.block(
                    start, stop, top=0, height=_ROW_PX, class_="s-unknown" if filled == 0.0 else "masked"
                ),
                *([_shade(start, stop, filled)] if filled > 0.0 else []),
            )
        )
    mean = _mean(np.array([share for _, share in cells]))
    if len(cells) <= _MOST_NAMES:
        drawn += _ticks((n / len(cells) for n in range(1, len(cells))), class_="seam")
    return svg.picture(
        *drawn, height=_ROW_PX, label=f"{feature}: known on {formatting.percent(mean)}", class_="heat"
    )


def _shade(start: float, stop: float, filled: float) -> Markup:
    return svg.el(
        "rect",
        class_="known",
        fill_opacity=filled,
        x=svg.percent(start),
        y=0.0,
        width=svg.percent(stop - start),
        height=_ROW_PX,
    )


def _filled(share: float) -> float:
    """Return a cell's opacity in steps; 0 and 1 are reserved for exactly 0 and 1.

    >>> [_filled(x) for x in (0.0, 0.001, 0.97, 0.999, 1.0)]
    [0.0, 0.05, 0.95, 0.95, 1.0]
    """
    if math.isnan(share) or share in (0.0, 1.0):
        return 0.0 if math.isnan(share) else share
    return min(max(math.floor(share * _STEPS), 1), _STEPS - 1) / _STEPS


def _names(names: Sequence[str]) -> Markup:
    """Return the instruments' names under the heat map, written downwards; or their number if they do not fit."""
    height = 18.0
    if len(names) > _MOST_NAMES:
        text = f"{len(names)} instruments; hover over a cell for its name"
        marks = [svg.el("text", text, x=0.0, y=13.0, class_="tick")]
    else:
        shown = [
            name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}\N{HORIZONTAL ELLIPSIS}"
            for name in names
        ]
        height = 8.0 + 7.5 * max(map(len, shown), default=0)
        marks = [
            svg.el(
                "text",
                name,
                x=svg.percent((n + 0.5) / len(names)),
                y=4.0,
                writing_mode="vertical-rl",
                class_="tick",
            )
            for n, name in enumerate(shown)
        ]
    return svg.el("svg", *marks, class_="pic", width="100%", height=height, aria_hidden="true")


# Bars of drift.


def _sqrt_scale(index: float) -> float:
    """Return the square root of an index, so that small values are distinguishable."""
    return math.sqrt(min(index, _PSI_SHOWN))


_PSI_AXIS: Final = svg.Linear(0.0, 1.06)


def _bars(feature: str, psi: Figures, usual: Figures) -> Markup:
    """Return a bar to the median, a tick per instrument, and a mark for the training window itself."""
    found = psi[np.isfinite(psi)]
    lines = svg.rules_down(
        (_PSI_AXIS.share(_sqrt_scale(limit)) for limit in (PSI_SOME, PSI_MUCH)), height=_ROW_PX
    )
    if not len(found):
        return svg.picture(lines, height=_ROW_PX, label=f"{feature}: too few values to measure drift")
    median, within = float(np.median(found)), float(np.nanmedian(usual))
    class_ = "psi-much" if median > PSI_MUCH else "psi-some" if median > PSI_SOME else "psi-none"
    return svg.picture(
        svg.block(0.0, _PSI_AXIS.share(_sqrt_scale(median)), top=2, height=_ROW_PX - 4, class_=class_),
        lines,
        *_ticks(sorted({round(_PSI_AXIS.share(_sqrt_scale(at)), 3) for at in found.tolist()}), class_="each"),
        *_ticks([_PSI_AXIS.share(_sqrt_scale(within))], class_="usual"),
        height=_ROW_PX,
        label=f"{feature}: PSI {median:.2f} in the middle of its instruments, {found.max():.2f} at most, "
        f"{within:.2f} within the training window",
    )


def _ticks(shares: Iterable[float], *, class_: str) -> list[Markup]:
    return [
        svg.el("line", x1=svg.percent(at), x2=svg.percent(at), y1=0.0, y2=_ROW_PX, class_=class_)
        for at in shares
    ]


def _mean(figures: Figures) -> float:
    known = figures[np.isfinite(figures)]
    return float(known.mean()) if len(known) else math.nan


def _first(order: np.ndarray, figures: Figures) -> int | None:
    return next((int(row) for row in order if math.isfinite(figures[row])), None)
