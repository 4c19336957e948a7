"""Report section on profit and loss: equity curves, and costs from gross to net."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from serving import formatting
from serving.report import charts as svg
from serving.report.night_data import NightReport

COSTS: Final = ("fee", "spread", "impact", "funding")

_HEIGHT: Final = 300.0
_ROW_PX: Final = 26.0
_LABEL_PX: Final = 15.0


@dataclass(frozen=True, slots=True)
class CostRow:
    """Row of one model: gross return, costs and net return."""

    model: str
    class_: str
    is_challenger: bool
    picture: Markup
    gross: str
    costs: tuple[tuple[str, str], ...]
    net: str
    fills: str
    sharpe: str
    deflated: str


@dataclass(frozen=True, slots=True)
class PnlSection:
    """Values of the section's template."""

    equity: Markup
    labels: Markup
    axis: Markup
    rows: tuple[CostRow, ...]
    costs_axis: Markup
    rule: str
    has_funding: bool


def line_classes(facts: NightReport) -> dict[str, str]:
    """Return the CSS classes of each model's line; controls are grey and dashed."""
    recipe = facts.recipe
    found = {name: f"line control c{n % 3}" for n, name in enumerate(recipe.controls)}
    found |= {name: f"line model k{n % 4}" for n, name in enumerate(recipe.challengers)}
    found[facts.challenger] += " chosen"
    return found


def make_pnl(facts: NightReport) -> PnlSection:
    """Return the section."""
    classes = line_classes(facts)
    equity, labels, axis = _equity(facts, classes)
    rows, costs_axis = _costs(facts, classes)
    position, costs = facts.recipe.position, facts.recipe.costs
    rule = (
        f"A position is opened if the predicted move exceeds {position.threshold:g} times the round-trip cost. "
        f"Each instrument gets {formatting.percent(position.gross_share / len(facts.night['instruments']))} "
        f"of {formatting.decimal(costs.capital_usd, 0)} USD. A position is held for {position.hold_bars} bars of "
        f"{facts.recipe.width}."
    )
    return PnlSection(
        equity=equity,
        labels=labels,
        axis=axis,
        rows=rows,
        costs_axis=costs_axis,
        rule=rule,
        has_funding=facts.panel["funding_share"] is not None,
    )


# Equity.


def _equity(facts: NightReport, classes: dict[str, str]) -> tuple[Markup, Markup, Markup]:
    """Return the curves, their names for the right side, and the time axis."""
    curve = facts.summary["equity"]
    times, nets = curve["ts_ns"], {name: curve["net"][name] for name in facts.models}
    axis = svg.TimeAxis(times[0], times[-1])
    scale = svg.Linear.around([value for net in nets.values() for value in net], include=(0.0,))

    def down(value: float) -> float:
        return _HEIGHT * (1 - scale.share(value))

    ends = {name: net[-1] for name, net in nets.items()}
    # The challenger is drawn last, on top of the others.
    order = sorted(nets, key=lambda name: name == facts.challenger)
    lines = [
        svg.path(
            [(axis.share(at), down(value)) for at, value in zip(times, nets[name], strict=True)],
            class_=classes[name],
            title=f"{name}: {formatting.signed_percent(ends[name])} after costs",
        )
        for name in order
    ]
    marks = [(down(at), text) for at, text in make_ticks(scale, 6)]
    starts = [axis.share(fold["test"][0]) for fold in facts.folds]
    label = "equity after costs over all test periods: " + ", ".join(
        f"{name} {formatting.signed_percent(end)}" for name, end in ends.items()
    )
    picture = svg.picture(
        *(_fold_band(axis, fold, n) for n, fold in enumerate(facts.folds)),
        svg.rules_down([share for share in starts if share > 0.001], height=_HEIGHT),
        svg.rules_across(at for at, _ in marks),
        svg.el("line", x1="0", x2="100%", y1=down(0.0), y2=down(0.0), class_="zero"),
        svg.stretched(*lines, height=_HEIGHT),
        svg.texts_at_left(marks),
        height=_HEIGHT,
        label=label,
        class_="equity",
    )
    return picture, name_lines(ends, classes, down, height=_HEIGHT), svg.time_ticks(axis)


def _fold_band(axis: svg.TimeAxis, fold: dict[str, list[int]], number: int) -> Markup:
    start, stop = (min(max(axis.share(at), 0.0), 1.0) for at in fold["test"])
    return svg.block(
        start,
        stop,
        top=0,
        height=_HEIGHT,
        class_=f"band b{number % 2}",
        title=f"test of fold {fold['index']}: {formatting.span(*fold['test'])}",
    )


def name_lines(
    ends: Mapping[str, float], classes: Mapping[str, str], down: Callable[[float], float], *, height: float
) -> Markup:
    """Return the names of lines at the height of their ends, moved apart if they would overlap.

    Args:
        ends: last value by name.
        classes: CSS classes by name.
        down: pixels from the top of a value.
        height: of the picture, in pixels.
    """
    order = sorted(ends, key=lambda name: -ends[name])
    wanted = [down(ends[name]) for name in order]
    places = spread(wanted, least=_LABEL_PX, low=8.0, high=height - 6.0)
    drawn = []
    for name, place, at in zip(order, places, wanted, strict=True):
        drawn.append(svg.el("path", d=f"M0 {at:.1f}L10 {place:.1f}L26 {place:.1f}", class_=classes[name]))
        class_ = "name strong" if "chosen" in classes[name] else "name"
        drawn.append(svg.el("text", name, x=31.0, y=place + 4, class_=class_))
    return svg.el("svg", *drawn, class_="pic names", width=112.0, height=height, aria_hidden="true")


def spread(wanted: list[float], *, least: float, low: float, high: float) -> list[float]:
    """Return increasing positions at least `least` apart, close to the wanted ones and within bounds if they fit.

    >>> spread([10.0, 11.0, 50.0], least=15.0, low=0.0, high=100.0)
    [10.0, 25.0, 50.0]
    """
    places: list[float] = []
    for at in wanted:
        places.append(max(at, low if not places else places[-1] + least))
    over = high
    for n in range(len(places) - 1, -1, -1):
        places[n] = min(places[n], over)
        over = places[n] - least
    return places


# Costs.


def _costs(facts: NightReport, classes: dict[str, str]) -> tuple[tuple[CostRow, ...], Markup]:
    traded = {name: facts.summary["models"][name]["traded"] for name in facts.models}
    bounds = [
        value for result in traded.values() for _, start, stop in _steps(result) for value in (start, stop)
    ]
    scale = svg.Linear.around(bounds, include=(0.0,), pad=0.06)
    has_funding = facts.panel["funding_share"] is not None
    rows = tuple(
        CostRow(
            model=name,
            class_=classes[name],
            is_challenger=name == facts.challenger,
            picture=_waterfall(name, result, scale),
            gross=formatting.signed_percent(result["gross"]),
            costs=tuple(
                (cost, formatting.signed_percent(-result[cost] if has_funding or cost != "funding" else None))
                for cost in COSTS
            ),
            net=formatting.signed_percent(result["net"]),
            fills=formatting.count(result["fills"]),
            sharpe=formatting.signed(result["sharpe"], 3),
            deflated=formatting.percent(result["deflated_sharpe"] if result["fills"] else None),
        )
        for name, result in traded.items()
    )
    return rows, svg.value_ticks(scale, make_ticks(scale, 5))


def make_ticks(scale: svg.Linear, most: int) -> list[tuple[float, str]]:
    """Return at most `most` round shares of the capital within a scale, with their text."""
    values = scale.ticks(most)
    digits = formatting.needed_digits(100 * value for value in values)
    return [(value, formatting.signed_percent(value, digits)) for value in values]


def _steps(result: dict[str, float]) -> list[tuple[str, float, float]]:
    """Return (name, from, to) of the waterfall: the gross return, then each cost down to the net return."""
    steps, at = [("gross", 0.0, result["gross"])], result["gross"]
    for cost in COSTS:
        steps.append((cost, at, at - result[cost]))
        at -= result[cost]
    return steps


def _waterfall(model: str, result: dict[str, float], scale: svg.Linear) -> Markup:
    zero = svg.percent(scale.share(0.0))
    drawn = [svg.el("line", x1=zero, x2=zero, y1=0.0, y2=_ROW_PX, class_="zero")]
    for name, start, stop in _steps(result):
        low, high = sorted((scale.share(start), scale.share(stop)))
        is_gross = name == "gross"
        drawn.append(
            svg.block(
                low,
                high,
                top=4 if is_gross else 11,
                height=6 if is_gross else 9,
                class_=f"cost-{name}",
                title=f"{model}, {name}: {formatting.signed_percent(stop - start)}",
            )
        )
    net = svg.percent(scale.share(result["net"]))
    drawn.append(svg.el("line", x1=net, x2=net, y1=2.0, y2=_ROW_PX - 2, class_="net"))
    label = f"{model}: gross {formatting.signed_percent(result['gross'])}, " + ", ".join(
        f"{cost} {formatting.signed_percent(-result[cost])}" for cost in COSTS
    )
    return svg.picture(
        *drawn,
        height=_ROW_PX,
        label=f"{label}, net {formatting.signed_percent(result['net'])}",
        class_="costs",
    )
