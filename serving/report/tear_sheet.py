"""Report section with the tear sheet: predictive power in parts, capacity, importance, and earlier nights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from serving import formatting
from serving.report import charts as svg
from serving.report.night_data import NightReport
from training.night.tear_sheet import REGIMES

_ROW_PX: Final = 18.0
_MOST_ROWS: Final = 12


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """Row of one model, or of buying and holding."""

    model: str
    is_challenger: bool
    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class BarCard:
    """A card with one bar per row, all from zero on one scale."""

    title: str
    note: str
    unit: str
    rows: tuple[tuple[str, Markup, str], ...]


@dataclass(frozen=True, slots=True)
class EarlierNight:
    """Figures of one night of the recipe."""

    night: str
    until: str
    challenger: str
    ic: str
    net: str
    state: str
    is_this: bool


@dataclass(frozen=True, slots=True)
class TearSheetSection:
    """Values of the section's template."""

    models: tuple[ModelFigures, ...]
    columns: tuple[str, ...]
    challenger: str
    cards: tuple[BarCard, ...]
    sharpe: str
    overfitting: str
    earlier: tuple[EarlierNight, ...]


def make_tear_sheet(facts: NightReport) -> TearSheetSection | None:
    """Return the section; `None` for a night of a release that wrote no tear sheet."""
    sheet = facts.tear_sheet
    if sheet is None:
        return None
    rows = [_model_row(facts, name, sheet["models"][name]) for name in facts.models]
    held = sheet["buy_and_hold"]
    columns = tuple(name for name, _ in rows[0].values)
    blank = dict.fromkeys(columns, formatting.NOTHING) | {
        "largest fall": formatting.percent(held["largest_fall"]),
        "net": formatting.signed_percent(held["net"]),
    }
    rows.append(ModelFigures("buy and hold", False, tuple(blank.items())))
    return TearSheetSection(
        models=tuple(rows),
        columns=columns,
        challenger=facts.challenger,
        cards=tuple(_cards(facts, sheet)),
        sharpe=_sharpe_text(sheet["sharpe"]),
        overfitting=_overfitting_text(facts.summary.get("path", {}).get("overfitting")),
        earlier=tuple(_earlier(facts)),
    )


def _model_row(facts: NightReport, name: str, figures: Mapping[str, Any]) -> ModelFigures:
    money = figures["money"]
    values = {
        "IC": _with_t(figures["pooled"]),
        "IC across": _with_t(figures["cross_section"]),
        "rank IC across": _with_t(figures["cross_section_rank"]),
        "slope": formatting.decimal(figures["calibration"]["slope"]),
        "turnover a day": formatting.decimal(money["turnover_per_day"]),
        "largest fall": formatting.percent(money["largest_fall"]),
        "net": formatting.signed_percent(money["net"]),
    }
    return ModelFigures(name, name == facts.challenger, tuple(values.items()))


def _with_t(part: Mapping[str, Any]) -> str:
    if part["value"] is None:
        return formatting.NOTHING
    return f"{formatting.signed(part['value'], 3)} (t {formatting.signed(part['t'], 1)})"


def _cards(facts: NightReport, sheet: Mapping[str, Any]) -> Iterable[BarCard]:
    figures = sheet["models"][facts.challenger]
    names = formatting.short_names(facts.night["instruments"])
    by_instrument = {names.get(name, name): part for name, part in figures["by_instrument"].items()}
    ordered = sorted(by_instrument.items(), key=lambda item: -(item[1]["value"] or 0.0))
    shown = dict(ordered if len(ordered) <= _MOST_ROWS else [*ordered[:6], *ordered[-6:]])
    note = "" if len(shown) == len(ordered) else f"the best and the worst of {len(ordered)}"
    yield _ic_card("By instrument", note, shown)
    yield _ic_card("By hour", "UTC, of the bar's open", figures["by_hour"])
    for name, text in (("volatility", "of a bar"), ("illiquidity", "one over the notional of a bar")):
        if f"by_{name}" in figures:
            note = f"{text}, relative to the instrument's own before the first test; terciles of that time"
            parts = figures[f"by_{name}"]
            yield _ic_card(f"By {name}", note, {part: parts[part] for part in REGIMES if part in parts})
    width = facts.recipe.width
    yield _card(
        "Decay",
        f"IC with the same label that starts later, in bars of {width}",
        "IC",
        [(f"{later:+d}", value, formatting.signed(value, 3)) for later, value in figures["decay"]],
    )
    yield _card(
        "Label by quantile of the prediction",
        "mean label, in volatilities, from the lowest fifth to the highest",
        "label",
        [
            (f"fifth {n}", part["value"], formatting.signed(part["value"], 3))
            for n, part in enumerate(figures["quantiles"], start=1)
        ],
    )
    yield _card(
        "Calibration",
        "mean label by tenth of the prediction, named by its mean prediction; both in volatilities",
        "label",
        [
            (formatting.signed(predicted, 3), found, formatting.signed(found, 3))
            for predicted, found, rows in figures["calibration"]["bins"]
            if rows
        ],
    )
    yield _card(
        "Capacity",
        "net over all tests with this capital, in USD, and its impact",
        "net",
        [
            (formatting.decimal(capital, 0), net, formatting.signed_percent(net))
            for capital, net in sheet["capacity"]
        ],
    )
    if sheet["importance"]:
        yield _card(
            "Importance of features",
            "IC that the newest fold's model loses on its tests if the feature is that of another time",
            "loss of IC",
            [(name, loss, formatting.signed(loss, 4)) for name, loss in sheet["importance"][:_MOST_ROWS]],
        )


def _ic_card(title: str, note: str, parts: Mapping[str, Mapping[str, Any]]) -> BarCard:
    rows = [(name, part["value"], formatting.signed(part["value"], 3)) for name, part in parts.items()]
    return _card(title, note, "IC", rows)


def _card(title: str, note: str, unit: str, rows: Sequence[tuple[str, float | None, str]]) -> BarCard:
    known = [value for _, value, _ in rows if value is not None and math.isfinite(value)]
    scale = svg.Linear.around(known or [0.0], include=(0.0,), pad=0.05)
    return BarCard(
        title, note, unit, tuple((name, _bar(name, value, text, scale), text) for name, value, text in rows)
    )


def _bar(name: str, value: float | None, text: str, scale: svg.Linear) -> Markup:
    """Return a bar from zero to a value."""
    zero = scale.share(0.0)
    drawn = [svg.el("line", x1=svg.percent(zero), x2=svg.percent(zero), y1=0.0, y2=_ROW_PX, class_="zero")]
    if value is not None and math.isfinite(value):
        ends = sorted((zero, scale.share(value)))
        kind = "gain" if value >= 0 else "loss"
        drawn.append(svg.block(*ends, top=4.0, height=_ROW_PX - 8.0, class_=f"sheet-{kind}"))
    return svg.picture(*drawn, height=_ROW_PX, label=f"{name}: {text}")


def _sharpe_text(found: Mapping[str, Any]) -> str:
    """Return the range of the deflated Sharpe ratio in words."""
    values = [found[name] for name in ("formula", "effective_trials", "autocorrelated")]
    if any(value is None for value in values):
        return f"{found['periods']} periods are too few for a deflated Sharpe ratio."
    least = found["least_periods"]
    needed = (
        "a ratio of at most 0 is proven by no length"
        if least is None
        else f"its ratio alone, without other trials, would need {formatting.decimal(least, 0)} periods for 95 %"
    )
    low, high, formula, effective, dependent = (
        formatting.decimal(value) for value in (min(values), max(values), *values)
    )
    independent = formatting.decimal(found["independent_trials"], 1)
    left = formatting.decimal(found["independent_periods"], 0)
    return (
        f"The path's Sharpe ratio exceeds the best of {found['trials']} trials without skill with probability {low} to "
        f"{high}: {formula} by the formula of 2014, {effective} with the {independent} independent trials that the "
        f"models' correlation leaves, {dependent} with the {left} of {found['periods']} periods that autocorrelation "
        f"leaves; {needed}."
    )


def _overfitting_text(probability: float | None) -> str:
    if probability is None:
        return "The tests have too few periods, or too few models, for a probability of overfitting."
    return (
        f"Of all splits of the periods in halves, the best model of one half is below the median in the other in "
        f"{formatting.percent(probability, 0)} (probability of backtest overfitting, PBO)."
    )


def _earlier(facts: NightReport) -> Iterable[EarlierNight]:
    for night in facts.earlier:
        yield EarlierNight(
            night=night["night"],
            until=formatting.clock(night["until_ns"]),
            challenger=night["challenger"],
            ic=formatting.signed(night["ic"], 3),
            net=formatting.signed_percent(night["net"]),
            state=night["state"],
            is_this=night["night"] == facts.night["night"],
        )
