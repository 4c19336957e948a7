"""Report section on the train, validation and test splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from serving import formatting
from serving.report import charts as svg
from serving.report.night_data import NightReport

_ROW_PX: Final = 22.0
_PARTS: Final = ("train", "valid", "test")


@dataclass(frozen=True, slots=True)
class FoldRow:
    """Row of one fold: picture and row counts."""

    index: int
    picture: Markup
    test: str
    rows: tuple[tuple[str, str], ...]
    leaks: int
    leaks_title: str
    choice: str
    reused: str


@dataclass(frozen=True, slots=True)
class FoldsSection:
    """Values of the section's template."""

    rows: tuple[FoldRow, ...]
    axis: Markup
    boundary: Markup
    boundary_at: str
    label_span: str
    embargo: str
    scheme: str
    calendar: str
    leaks: int


def make_folds(facts: NightReport) -> FoldsSection:
    """Return the section."""
    axis = svg.TimeAxis(
        min(fold["train"][0] for fold in facts.folds), max(fold["test"][1] for fold in facts.folds)
    )
    last = facts.folds[-1]
    return FoldsSection(
        rows=tuple(_row(facts, number, axis) for number in range(len(facts.folds))),
        axis=svg.time_ticks(axis),
        boundary=_boundary(last["test"][0], facts.label_span_ns, last["embargo_ns"]),
        boundary_at=formatting.clock(last["test"][0]),
        label_span=formatting.length(facts.label_span_ns),
        embargo=formatting.length(last["embargo_ns"]),
        scheme=facts.recipe.folds.scheme,
        calendar=_calendar(facts),
        leaks=facts.leaks,
    )


def _calendar(facts: NightReport) -> str:
    """Return the windows in words; nothing for a night of a release whose folds were shares of the range."""
    if "unit" not in facts.night["recipe"]["folds"]:
        return ""
    folds = facts.recipe.folds
    tests, valid = (
        f"{units} {folds.unit}{'s' if units > 1 else ''}" for units in (folds.test_units, folds.valid_units)
    )
    monday = ", from Monday" if folds.unit == "week" else ""
    return f"tests of {tests} and validation of {valid} on the UTC calendar{monday}"


def _row(facts: NightReport, number: int, axis: svg.TimeAxis) -> FoldRow:
    fold, label_span_ns = facts.folds[number], facts.label_span_ns
    index, rows, leaks = fold["index"], fold["rows"], fold["leaks"]
    fits, choices = facts.fits.get(index, {}), facts.summary.get("path", {}).get("by_fold", ())
    drawn = [
        svg.block(
            axis.share(fold[part][0]),
            axis.share(fold[part][1]),
            top=0,
            height=_ROW_PX,
            class_=f"f-{part}",
            title=f"fold {index}, {part}: {formatting.span(*fold[part])}, {formatting.count(rows[part])} rows",
        )
        for part in _PARTS
    ]
    for boundary_ns in (fold["valid"][0], fold["test"][0]):
        at = axis.share(boundary_ns)
        drawn.append(
            _zone(at, axis.share(boundary_ns - label_span_ns), "purge", formatting.length(label_span_ns))
        )
        if fold["embargo_ns"]:
            after = axis.share(boundary_ns + fold["embargo_ns"])
            drawn.append(_zone(at, after, "embargo", formatting.length(fold["embargo_ns"])))
    spans = ", ".join(f"{part} {formatting.span(*fold[part])}" for part in _PARTS)
    counts = tuple((name, formatting.count(rows[name])) for name in (*_PARTS, "purged", "embargoed"))
    return FoldRow(
        index=index,
        picture=svg.picture(*drawn, height=_ROW_PX, label=f"fold {index}: {spans}"),
        test=formatting.span(*fold["test"]),
        rows=counts,
        leaks=sum(leaks.values()),
        leaks_title=", ".join(f"{name} {found}" for name, found in sorted(leaks.items())),
        choice=choices[number] if number < len(choices) else "",
        reused=f"{sum(entry['is_reused'] for entry in fits.values())} of {len(fits)}" if fits else "",
    )


def _zone(at: float, stop: float, name: str, length: str) -> Markup:
    return svg.sliver(at, stop, top=0, height=_ROW_PX, class_=f"f-{name}", title=f"{name}: {length}")


def _boundary(at_ns: int, label_span_ns: int, embargo_ns: int) -> Markup:
    """Return one boundary magnified, with the purge and embargo zones and two example labels."""
    reach_ns = round(2.2 * max(label_span_ns, embargo_ns, 1))
    axis = svg.TimeAxis(at_ns - reach_ns, at_ns + reach_ns)
    purge, embargo = axis.share(at_ns - label_span_ns), axis.share(at_ns + embargo_ns)
    kept = (axis.share(at_ns - 2 * label_span_ns), purge)
    cut = (axis.share(at_ns - label_span_ns // 2), axis.share(at_ns + label_span_ns // 2))
    drawn = [
        svg.block(0, purge, top=26, height=26, class_="f-valid"),
        svg.block(purge, 0.5, top=26, height=26, class_="f-purge zone"),
        svg.block(0.5, embargo, top=26, height=26, class_="f-embargo zone"),
        svg.block(embargo, 1, top=26, height=26, class_="f-test"),
        _text(0.0, 44, "valid", "start", "on-valid"),
        _text(1.0, 44, "test", "end", "on-test"),
        _text(0.5, 18, f"purge {formatting.length(label_span_ns)} ", "end", dx=-6),
        _text(0.5, 18, f"embargo {formatting.length(embargo_ns)}", "start", dx=6),
        svg.el("line", x1="50%", x2="50%", y1=6.0, y2=112.0, class_="boundary"),
        *_label(kept, 70, "kept"),
        *_label(cut, 94, "purged"),
    ]
    return svg.picture(
        *drawn,
        height=118,
        label="last boundary between validation and test: rows whose label crosses it are purged, rows decided "
        "within the embargo after it are dropped",
    )


def _label(span: tuple[float, float], down: float, outcome: str) -> list[Markup]:
    """Return a decision, the span of its label, and the outcome for the row."""
    start, stop = (svg.percent(share) for share in span)
    kind = "label-kept" if outcome == "kept" else "label-cut"
    return [
        svg.el("line", x1=start, x2=stop, y1=down, y2=down, class_=kind),
        svg.el("circle", cx=start, cy=down, r=3.5, class_=kind),
        svg.el("line", x1=stop, x2=stop, y1=down - 5, y2=down + 5, class_=kind),
        _text(span[0], down + 4, outcome, "end", dx=-10),
    ]


def _text(share: float, down: float, text: str, anchor: str, class_: str = "tick", dx: float = 0) -> Markup:
    nudge = dx or (6 if anchor == "start" else -6)
    return svg.el(
        "text", text, x=svg.percent(share), y=float(down), dx=float(nudge), text_anchor=anchor, class_=class_
    )
