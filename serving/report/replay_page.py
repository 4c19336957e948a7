"""Page of a replay: what the versions that served would have earned, who served when, and every night."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from markupsafe import Markup

from serving import formatting
from serving.report import charts as svg
from serving.report.page import POLICY, page_environment
from serving.report.pnl import COSTS, make_ticks, name_lines
from storage.atomic_write import write_atomic
from storage.clock import HOUR_NS
from storage.logs import get_logger
from storage.settings import Settings
from training.recipe import Recipe, recipe_from_plain
from training.replay.earnings import GATE_PATH, NEWEST, PATHS, SEQUENCE
from training.replay.folder import ReplayedNight, ReplayFolder

logger = get_logger(__name__)

_HEIGHT: Final = 300.0
_STRIP_PX: Final = 14.0
_LINES: Final = {SEQUENCE: "line k0 chosen", NEWEST: "line k1", GATE_PATH: "line control c1"}
_MEANING: Final = {
    SEQUENCE: "the versions that served, each until the next night; flat where none served",
    NEWEST: "the challenger that each night refitted, whatever the gate said",
    GATE_PATH: "the days that the gate read as evidence: tests of models chosen before them, so it ends earlier",
}
_MARKS: Final = {"promoted": "▲", "demoted": "▼"}


@dataclass(frozen=True, slots=True)
class PathRow:
    """Row of one path in the table of figures."""

    name: str
    class_: str
    meaning: str
    figures: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class NightRow:
    """Row of one night."""

    at: str
    outcome: str
    model: str
    evidence: str
    serving: str
    reason: str
    night: str
    link: str


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """A finished replay, as the page reads it.

    Args:
        facts: `replay.json`.
        recipe: of the replay.
        nights: oldest first.
        result: `result.json`.
        home: path of the replay's nights relative to the page.
    """

    facts: Mapping[str, Any]
    recipe: Recipe
    nights: Sequence[ReplayedNight]
    result: Mapping[str, Any]
    home: str


def write_replay(settings: Settings, replay: str) -> str:
    """Write the page of a finished replay, and return its path.

    The page depends on the replay's folder alone.

    Raises:
        GateError: there is no such replay.
    """
    folder = ReplayFolder.find(settings, replay)
    facts = folder.read("replay.json")
    nights_dir = folder.records.models_dir / "nights"
    found = ReplayReport(
        facts,
        recipe_from_plain(facts["recipe"]),
        folder.nights(),
        folder.read("result.json"),
        f"../{nights_dir.relative_to(settings.home).as_posix()}",
    )
    page = render_replay(found).encode()
    path = settings.reports_dir / f"replay-{replay}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page, is_synced=False)
    logger.info("replay report written", replay=replay, path=str(path), size_bytes=len(page))
    return str(path)


def render_replay(found: ReplayReport) -> str:
    """Return the page."""
    facts, result = found.facts, found.result
    equity, names, axis = _equity(found)
    return (
        page_environment()
        .get_template("replay_page.html.j2")
        .render(
            policy=POLICY,
            replay=facts["replay"],
            recipe=found.recipe.name,
            time_range=formatting.span(facts["from_ns"], facts["to_ns"]),
            every=formatting.length(facts["every_ns"]),
            headline=_headline(result),
            tiles=_tiles(found),
            caveats=_caveats(found),
            equity=equity,
            names=names,
            axis=axis,
            paths=_paths(result),
            nights=_nights(found, found.nights),
            changes=_nights(found, [night for night in found.nights if _is_change(night)]),
            counts=result["counts"],
            positions=_positions(found.recipe),
            provenance=_provenance(facts),
        )
    )


def _headline(result: Mapping[str, Any]) -> str:
    if not result["served"]:
        return "Nothing served"
    return f"{formatting.signed_percent(result['figures'][SEQUENCE]['net'])} after costs"


def _tiles(found: ReplayReport) -> list[tuple[str, str, str]]:
    """Return label, value and note of each tile."""
    result = found.result
    figures, counts = result["figures"][SEQUENCE], result["counts"]
    newest = result["figures"][NEWEST]
    return [
        (
            "net of what served",
            formatting.signed_percent(figures["net"]),
            f"newest refit: {formatting.signed_percent(newest['net'])}",
        ),
        (
            "Sharpe, annualised",
            formatting.signed(figures["sharpe"], 2),
            f"of {formatting.count(figures['periods'])} {_period(result)}",
        ),
        ("largest drawdown", formatting.percent(figures["drawdown"], 2), "of cumulated net, from a peak"),
        (
            "promotions, demotions",
            f"{counts['promoted']}, {counts['demoted']}",
            f"renewed {counts['renewed']}, refused {counts['refused']}, failed {counts['failed']} times",
        ),
        (
            "time served",
            formatting.percent(result["served_share"]),
            f"of this on paper: {formatting.percent(_paper_share(result['served']))}",
        ),
    ]


def _paper_share(served: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the share of the time that something served in which that was a version on paper."""
    lengths = [(part["stop_ns"] - part["start_ns"], part["on_paper"]) for part in served]
    total = sum(length for length, _ in lengths)
    return sum(length for length, on_paper in lengths if on_paper) / total if total else None


def _period(result: Mapping[str, Any]) -> str:
    return "complete hours" if result["period_ns"] == HOUR_NS else "complete UTC days"


def _caveats(found: ReplayReport) -> list[str]:
    result = found.result
    caveats = [
        "Not a forecast: one path over the past. A recipe that was chosen because of this page has seen this range.",
        "Not real trading: orders are assumed to fill completely at a bar's close, with a modelled price impact.",
        "A night takes no time here: its version decides from the next bar on.",
    ]
    if any(part["on_paper"] for part in result["served"]):
        caveats.append(
            "On paper: versions served here on evidence of days without quotes. At home such a version never serves."
        )
    if result["quoted_share"] < 1:
        caveats.append(
            f"{formatting.percent(result['quoted_share'])} of the bars had a quote; the half spread of the others is "
            f"estimated from earlier prints, at least {found.recipe.costs.half_spread_bps:g} bp."
        )
    if not result["has_funding"]:
        caveats.append("The lake has no funding payments in this range, so funding is missing, not zero.")
    if result["counts"]["failed"]:
        caveats.append(
            f"Nights that failed, as they would have at home: {result['counts']['failed']}. What served before went on."
        )
    return caveats


def _equity(found: ReplayReport) -> tuple[Markup, Markup, Markup]:
    """Return the curves with the strip of who served, their names for the right side, and the time axis."""
    facts, result = found.facts, found.result
    curves = {name: curve for name, curve in result["curves"].items() if curve["ts_ns"]}
    axis = svg.TimeAxis(facts["from_ns"], facts["to_ns"])
    scale = svg.Linear.around([value for curve in curves.values() for value in curve["net"]], include=(0.0,))

    def down(value: float) -> float:
        return _HEIGHT * (1 - scale.share(value))

    ends = {name: curve["net"][-1] for name, curve in curves.items()}
    order = sorted(curves, key=lambda name: name == SEQUENCE)  # on top of the others
    lines = [
        svg.path(
            [
                (axis.share(facts["from_ns"]), down(0.0)),
                *(
                    (axis.share(at), down(value))
                    for at, value in zip(curves[name]["ts_ns"], curves[name]["net"], strict=True)
                ),
            ],
            class_=_LINES[name],
            title=f"{name}: {formatting.signed_percent(ends[name])}",
        )
        for name in order
    ]
    marks = [(down(at), text) for at, text in make_ticks(scale, 6)]
    label = "cumulated net return: " + ", ".join(
        f"{name} {formatting.signed_percent(end)}" for name, end in ends.items()
    )
    picture = svg.picture(
        *(_served_band(axis, part) for part in result["served"]),
        svg.rules_across(at for at, _ in marks),
        svg.el("line", x1="0", x2="100%", y1=down(0.0), y2=down(0.0), class_="zero"),
        *(_change_line(axis, change) for change in result["changes"]),
        svg.stretched(*lines, height=_HEIGHT),
        svg.texts_at_left(marks),
        *(_change_mark(axis, change) for change in result["changes"]),
        height=_HEIGHT + _STRIP_PX,
        label=label,
        class_="equity",
    )
    return picture, name_lines(ends, _LINES, down, height=_HEIGHT), svg.time_ticks(axis)


def _served_band(axis: svg.TimeAxis, part: Mapping[str, Any]) -> Markup:
    kind = "paper" if part["on_paper"] else "champion"
    refits = f"{part['refits']} refits, the last " if part["refits"] > 1 else ""
    return svg.block(
        axis.share(part["start_ns"]),
        axis.share(part["stop_ns"]),
        top=0,
        height=_HEIGHT + _STRIP_PX,
        class_=f"served-{kind}",
        title=f"{kind} {formatting.span(part['start_ns'], part['stop_ns'])}: {refits}{part['last']}",
    )


def _change_line(axis: svg.TimeAxis, change: Mapping[str, Any]) -> Markup:
    at = svg.percent(axis.share(change["at_ns"]))
    return svg.el("line", x1=at, x2=at, y1=0.0, y2=_HEIGHT, class_=f"change {change['kind']}")


def _change_mark(axis: svg.TimeAxis, change: Mapping[str, Any]) -> Markup:
    share = axis.share(change["at_ns"])
    return svg.el(
        "text",
        svg.el("title", f"{change['kind']} {formatting.clock(change['at_ns'])}"),
        _MARKS[change["kind"]],
        x=svg.percent(share),
        y=_HEIGHT + _STRIP_PX - 2,
        text_anchor="start" if share < 0.02 else "middle",
        class_=f"change {change['kind']}",
    )


def _paths(result: Mapping[str, Any]) -> list[PathRow]:
    rows = []
    for name in PATHS:
        figures = result["figures"][name]
        found = [
            ("gross", formatting.signed_percent(figures.get("gross"))),
            *((cost, _cost(figures, cost, has_funding=result["has_funding"])) for cost in COSTS),
            ("net", formatting.signed_percent(figures["net"])),
            ("Sharpe", formatting.signed(figures["sharpe"], 2)),
            ("drawdown", formatting.percent(figures["drawdown"], 2)),
            ("fills", formatting.count(figures.get("fills"))),
            (_period(result), formatting.count(figures["periods"])),
        ]
        rows.append(PathRow(name, _LINES[name], _MEANING[name], tuple(found)))
    return rows


def _cost(figures: Mapping[str, Any], cost: str, *, has_funding: bool) -> str:
    value = figures.get(cost)
    if value is None or (cost == "funding" and not has_funding):
        return formatting.NOTHING
    return formatting.signed_percent(-value)


def _is_change(night: ReplayedNight) -> bool:
    return night.is_demoted or night.outcome in ("promoted", "failed")


def _nights(found: ReplayReport, nights: Sequence[ReplayedNight]) -> list[NightRow]:
    """Return the rows of some nights, the newest first."""
    rows = []
    for night in reversed(nights):
        outcome = f"{night.outcome}, champion demoted" if night.is_demoted else night.outcome
        evidence = formatting.NOTHING
        if night.evidence is not None and night.needed is not None:
            evidence = f"{night.evidence:.3g} of {night.needed:.3g}"
        link = f"{found.home}/{quote(night.night)}/verdict.json" if night.outcome != "failed" else ""
        rows.append(
            NightRow(
                at=formatting.clock(night.at_ns),
                outcome=outcome,
                model=night.model or formatting.NOTHING,
                evidence=evidence,
                serving=f"{night.serving}{' (paper)' if night.on_paper else ''}" if night.serving else "none",
                reason=night.reason,
                night=night.night,
                link=link,
            )
        )
    return rows


def _positions(recipe: Recipe) -> str:
    position, costs = recipe.position, recipe.costs
    return (
        f"One ledger runs over the whole range. A position is opened if the predicted move exceeds "
        f"{position.threshold:g} times the round-trip cost, with {formatting.percent(position.gross_share)} of "
        f"{formatting.decimal(costs.capital_usd, 0)} USD shared by the listed instruments, and held for "
        f"{position.hold_bars} bars of {recipe.width}. When the version changes, an open position is held to the end "
        "of its holding period; the version that serves by then renews, reverses or closes it, and where none serves "
        "it is closed. All positions are closed at the end, at cost."
    )


def _provenance(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = (
        "replay", "content_hash", "funding_hash", "fee_hash", "feature_fingerprint", "training_code", "seed",
        "false_promotions", "device", "hardware", "threads",
    )  # fmt: skip
    return [(name, str(facts[name])) for name in names]
