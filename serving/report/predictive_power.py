"""Report section on predictive power: IC and rank IC of all models with confidence intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from serving import formatting
from serving.report import charts as svg
from serving.report.night_data import NightReport

_ROW_PX: Final = 26.0


@dataclass(frozen=True, slots=True)
class PredictivePowerRow:
    """Row of one model on one set of test rows."""

    model: str
    role: str
    is_challenger: bool
    picture: Markup
    ic: str
    ic_interval: str
    rank_ic: str
    rank_interval: str
    r2: str
    hit_rate: str
    rows: str


@dataclass(frozen=True, slots=True)
class PredictionPanel:
    """All models on one set of test rows."""

    title: str
    note: str
    rows: tuple[PredictivePowerRow, ...]


@dataclass(frozen=True, slots=True)
class PredictivePowerSection:
    """Values of the section's template."""

    together: PredictionPanel
    folds: tuple[PredictionPanel, ...]
    axis: Markup
    short_axis: Markup
    seeds: tuple[str, ...]
    valid: tuple[tuple[str, str], ...]
    has_intervals: bool


def make_predictive_power(facts: NightReport) -> PredictivePowerSection:
    """Return the section; all pictures share one axis."""
    models = facts.summary["models"]
    figures = [figure for model in models.values() for figure in (model["test"], *model["folds"])]
    estimates = [figure[kind] for figure in figures for kind in ("ic", "rank_ic")]
    known = [value for item in estimates for value in item.values() if value is not None]
    scale = svg.Linear.around(known, include=(0.0,), pad=0.05)
    folds = tuple(
        _panel(
            facts,
            f"Fold {fold['index']}",
            formatting.span(*fold["test"]),
            {name: models[name]["folds"][number] for name in facts.models},
            scale,
        )
        for number, fold in enumerate(facts.folds)
    )
    valid = {name: [ic for ic in ics if ic is not None] for name, ics in facts.summary["valid_ic"].items()}
    return PredictivePowerSection(
        together=_panel(
            facts, "All test periods", "", {name: models[name]["test"] for name in facts.models}, scale
        ),
        folds=folds,
        axis=_axis(scale, 6),
        short_axis=_axis(scale, 3),
        seeds=tuple(formatting.signed(ic) for ic in facts.summary["seed_ic"]),
        valid=tuple(
            (name, formatting.signed(sum(ics) / len(facts.folds) if ics else None))
            for name, ics in valid.items()
        ),
        has_intervals=any(item["low"] is not None for item in estimates),
    )


def _axis(scale: svg.Linear, most: int) -> Markup:
    values = scale.ticks(most)
    return svg.value_ticks(
        scale, [(at, formatting.signed(at, formatting.needed_digits(values))) for at in values]
    )


def _panel(
    facts: NightReport, title: str, note: str, figures: dict[str, dict[str, Any]], scale: svg.Linear
) -> PredictionPanel:
    return PredictionPanel(
        title, note, tuple(_row(facts, name, figure, scale) for name, figure in figures.items())
    )


def _row(facts: NightReport, model: str, figure: dict[str, Any], scale: svg.Linear) -> PredictivePowerRow:
    ic, rank = figure["ic"], figure["rank_ic"]
    ic_text, rank_text = formatting.signed(ic["value"]), formatting.signed(rank["value"])
    label = f"{model}: IC {ic_text} {_interval(ic)}; rank IC {rank_text} {_interval(rank)}"
    role = facts.summary["models"][model]["role"]
    is_challenger = model == facts.challenger
    zero = svg.percent(scale.share(0.0))
    drawn = [
        svg.el("line", x1=zero, x2=zero, y1=0.0, y2=_ROW_PX, class_="zero"),
        *_whisker(ic, scale, 9.0, "ic"),
        *_whisker(rank, scale, 19.0, "rank"),
    ]
    class_ = "forest is-challenger" if is_challenger else f"forest is-{role}"
    return PredictivePowerRow(
        model=model,
        role=role,
        is_challenger=is_challenger,
        picture=svg.picture(*drawn, height=_ROW_PX, label=label, class_=class_),
        ic=ic_text,
        ic_interval=_interval(ic),
        rank_ic=rank_text,
        rank_interval=_interval(rank),
        r2=formatting.signed(figure["r2"]),
        hit_rate=formatting.percent(figure["hit_rate"]),
        rows=formatting.count(figure["rows"]),
    )


def _whisker(estimate: dict[str, float | None], scale: svg.Linear, down: float, kind: str) -> list[Markup]:
    """Return an estimate's mark and interval; empty if it is undefined."""
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None:
        return [svg.el("text", "no ranking", x="100%", y=16.0, text_anchor="end", class_="tick")] * (
            kind == "ic"
        )
    drawn = []
    if low is not None and high is not None:
        ends = [svg.percent(scale.share(end)) for end in (low, high)]
        drawn.append(svg.el("line", x1=ends[0], x2=ends[1], y1=down, y2=down, class_=f"whisker {kind}"))
        drawn += [
            svg.el("line", x1=end, x2=end, y1=down - 3, y2=down + 3, class_=f"whisker {kind}") for end in ends
        ]
    radius = 4.5 if kind == "ic" else 3.2
    return [*drawn, svg.el("circle", cx=svg.percent(scale.share(value)), cy=down, r=radius, class_=kind)]


def _interval(estimate: dict[str, float | None]) -> str:
    low, high = estimate["low"], estimate["high"]
    return (
        "" if low is None or high is None else f"[{formatting.signed(low, 3)}, {formatting.signed(high, 3)}]"
    )
