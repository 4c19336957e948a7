"""Report section on coverage: heat map, gaps, discrepancies and data sources."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from markupsafe import Markup

from serving import formatting
from serving.report import charts as svg
from serving.report.lake_queries import SIMULATED, BarCount, CoverageRow, Discrepancy
from serving.report.night_data import DataGap, NightReport
from storage.clock import NS
from storage.contracts.tables import STATUSES

_MEANING: Final = {
    "printed": "watched throughout, with trades",
    "quiet": "watched throughout, with the feed alive at both edges and no trades",
    "blind": "not, or not fully, watched: trades may be missing",
    "halted": "trading halted by the venue",
    "unlisted": "not listed yet, or delisted",
    "unknown": "no information: no row and no candle",
}

# Meaning of the same statuses if bars were derived from candles only.
_CANDLE_MEANING: Final = {
    "printed": "the venue's candle has volume",
    "quiet": "the venue's candle has no volume",
    "unknown": "no candle and no row",
}

_ROW_PX: Final = 20.0
_SLIVER_PX: Final = 3.0
_MOST_ROWS: Final = 60
_MOST_GAPS: Final = 24
# From the bottom of a cell to its top: verified statuses first, problems on top.
_STACK: Final = ("printed", "quiet", "unlisted", "halted", "unknown", "blind")
_VERIFIED: Final = ("printed", "quiet")


@dataclass(frozen=True, slots=True)
class HeatRow:
    """Row of the heat map for one instrument."""

    name: str
    instrument: str
    picture: Markup
    verified: str
    watched: str
    prints: str


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """Entry of the legend."""

    status: str
    bars: str
    share: str
    meaning: str


@dataclass(frozen=True, slots=True)
class GapRow:
    """Gap of the coverage ledger, with all instruments it affected alike."""

    start: str
    length: str
    instruments: str
    cause: str
    proof: str
    is_bridged: bool


@dataclass(frozen=True, slots=True)
class HoleRow:
    """Run of unverified bars that no gap explains."""

    start: str
    stop: str
    instrument: str
    status: str
    bars: str


@dataclass(frozen=True, slots=True)
class DiscrepancyRow:
    """Complete bar that differs from the venue's candle."""

    instrument: str
    start: str
    differs: str
    checked: str


@dataclass(frozen=True, slots=True)
class BarSource:
    """Source of bars."""

    name: str
    kind: str
    time_range: str
    instruments: str


@dataclass(frozen=True, slots=True)
class CoverageSection:
    """Values of the section's template."""

    rows: tuple[HeatRow, ...]
    left_out: int
    axis: Markup
    bin: str
    keys: tuple[LegendEntry, ...]
    gaps: tuple[GapRow, ...]
    gaps_left_out: int
    holes: tuple[HoleRow, ...]
    holes_left_out: int
    discrepancies: tuple[DiscrepancyRow, ...]
    discrepancies_left_out: int
    certified: str
    sources: tuple[BarSource, ...]
    has_live: bool


def make_coverage(facts: NightReport) -> CoverageSection:
    """Return the section."""
    night, recorded = facts.night, facts.recorded
    axis = svg.TimeAxis(night["since_ns"], night["until_ns"])
    names = formatting.short_names(night["instruments"])
    by_instrument = {name: [item for item in recorded.bars if item.instrument == name] for name in names}
    # If not all rows fit, those with the lowest coverage are shown.
    shown = sorted(names, key=lambda name: sum(i.bars for i in by_instrument[name] if i.status in _VERIFIED))
    shown = sorted(shown[:_MOST_ROWS])
    gaps, gaps_left_out = _gap_rows([span for span in recorded.spans if span.kind == "gap"], names)
    holes = [hole for hole in facts.holes if hole.status != "blind"]
    discrepancies = _discrepancy_rows(recorded.discrepancies, names)
    by_length = sorted(holes, key=lambda hole: (hole.bars, -hole.from_ns), reverse=True)[:_MOST_GAPS]
    return CoverageSection(
        rows=tuple(_heat_row(facts, axis, name, names[name], by_instrument[name]) for name in shown),
        left_out=len(names) - len(shown),
        axis=svg.time_ticks(axis),
        bin=formatting.length(recorded.bin_ns),
        keys=_keys(facts),
        gaps=tuple(gaps),
        gaps_left_out=gaps_left_out,
        holes=tuple(_hole_row(hole, names) for hole in sorted(by_length, key=lambda hole: hole.from_ns)),
        holes_left_out=len(holes) - len(by_length),
        discrepancies=tuple(discrepancies[:_MOST_GAPS]),
        discrepancies_left_out=max(len(discrepancies) - _MOST_GAPS, 0),
        certified=f"{formatting.count(recorded.certified)} of {formatting.count(recorded.whole)}",
        sources=_sources(facts),
        has_live=any(origin != "candle" for origin in recorded.origins),
    )


# The heat map.


def _heat_row(
    facts: NightReport, axis: svg.TimeAxis, instrument: str, name: str, counted: Sequence[BarCount]
) -> HeatRow:
    steps = facts.panel["steps"]
    verified = sum(item.bars for item in counted if item.status in _VERIFIED)
    watched_ms = sum(item.observed_ms for item in counted if item.origin != "candle")
    # A quiet bar has no prints, whether or not the source counts them.
    is_counted = all(item.prints is not None for item in counted if item.status == "printed")
    return HeatRow(
        name=name,
        instrument=instrument,
        picture=svg.picture(
            *_cells(facts, axis, name, counted),
            height=_ROW_PX,
            label=f"{name}: {_shares_text(_tally(counted, steps))}",
            class_="heat",
        ),
        verified=formatting.percent(verified / steps),
        watched=formatting.percent(watched_ms * 1_000_000 / (axis.stop_ns - axis.start_ns)),
        prints=formatting.count(sum(item.prints or 0 for item in counted) if is_counted else None),
    )


def _cells(
    facts: NightReport, axis: svg.TimeAxis, name: str, counted: Sequence[BarCount]
) -> Iterable[Markup]:
    """Yield one group of rectangles for each run of equal bins."""
    bin_ns, bar_ns = facts.recorded.bin_ns, facts.bar_ns
    by_bin = {at: tuple(found) for at, found in groupby(counted, key=lambda item: item.bin)}
    cells = []
    for at in range(axis.start_ns // bin_ns, -(-axis.stop_ns // bin_ns)):
        start_ns, stop_ns = max(at * bin_ns, axis.start_ns), min((at + 1) * bin_ns, axis.stop_ns)
        tally = _tally(by_bin.get(at, ()), (stop_ns - start_ns) // bar_ns)
        cells.append((start_ns, stop_ns, tally, _causes(by_bin.get(at, ()))))
    for _, run in groupby(cells, key=lambda cell: (_rounded(cell[2]), cell[3])):
        members = list(run)
        (start_ns, _, tally, causes), stop_ns = members[0], members[-1][1]
        title = f"{name}, {formatting.span(start_ns, stop_ns)}: {_shares_text(tally)}{causes}"
        yield svg.el("g", svg.el("title", title), *_stack(axis.share(start_ns), axis.share(stop_ns), tally))


def _tally(counted: Iterable[BarCount], bars: int) -> dict[str, float]:
    """Return the share of bars by status; bars without a row are unknown."""
    found = dict.fromkeys(STATUSES, 0)
    for item in counted:
        found[item.status] += item.bars
    found["unknown"] += bars - sum(found.values())
    return {status: n / bars for status, n in found.items() if n and bars}


def _rounded(tally: dict[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple((status, round(share, 3)) for status, share in tally.items())


def _causes(counted: Iterable[BarCount]) -> str:
    causes = sorted({item.cause for item in counted if item.cause})
    return f" ({', '.join(causes)})" if causes else ""


def _stack(start: float, stop: float, tally: dict[str, float]) -> Iterable[Markup]:
    """Yield a cell's rectangles; even a small share of a problem is visible as a sliver.

    A cell extends slightly under its right neighbour, so that rounding leaves no seam between them.
    """
    stop = min(stop + 0.0008, 1.0)
    heights = {
        status: max(_ROW_PX * tally[status], 0.0 if status in _VERIFIED else _SLIVER_PX)
        for status in _STACK
        if status in tally
    }
    largest = max(heights, key=lambda status: heights[status])
    heights[largest] -= sum(heights.values()) - _ROW_PX
    down = _ROW_PX
    for status, height in heights.items():
        down -= height
        yield svg.block(start, stop, top=down, height=height, class_=f"s-{status}")


def _shares_text(tally: dict[str, float]) -> str:
    return ", ".join(f"{status} {formatting.percent(share)}" for status, share in tally.items()) or "nothing"


def _keys(facts: NightReport) -> tuple[LegendEntry, ...]:
    counts = facts.panel["status"]
    total = sum(counts.values())
    meaning = _MEANING | (_CANDLE_MEANING if set(facts.recorded.origins) == {"candle"} else {})
    order = ("printed", "quiet", "blind", "unknown", "halted", "unlisted")
    return tuple(
        LegendEntry(
            status,
            formatting.count(counts[status]),
            formatting.percent(counts[status] / total),
            meaning[status],
        )
        for status in order
    )


# Gaps, holes and sources.


def _gap_rows(gaps: Sequence[CoverageRow], names: dict[str, str]) -> tuple[list[GapRow], int]:
    """Return the longest gaps by time, merged by start and cause, and the number left out."""

    def start_and_cause(gap: CoverageRow) -> tuple[int, bool, str, str]:
        return (gap.from_ns // NS, gap.bridged, gap.cause, gap.evidence)

    rows = []
    for (_, is_bridged, cause, evidence), run in groupby(
        sorted(gaps, key=start_and_cause), key=start_and_cause
    ):
        found = list(run)
        start_ns, stop_ns = min(gap.from_ns for gap in found), max(gap.to_ns for gap in found)
        affected = sorted({names[gap.instrument] for gap in found})
        row = GapRow(
            start=formatting.clock(start_ns, seconds=True),
            length=formatting.length(stop_ns - start_ns),
            instruments="all" if len(affected) == len(names) else formatting.join_names(affected),
            cause=cause,
            proof="bridged: resent prints show that nothing was missed"
            if is_bridged
            else f"open: prints may be missing (evidence: {evidence})",
            is_bridged=is_bridged,
        )
        rows.append((stop_ns - start_ns, row))
    longest = sorted((duration for duration, _ in rows), reverse=True)[:_MOST_GAPS]
    kept = [row for duration, row in rows if duration >= longest[-1]] if rows else []
    return kept, len(rows) - len(kept)


def _hole_row(hole: DataGap, names: dict[str, str]) -> HoleRow:
    return HoleRow(
        start=formatting.clock(hole.from_ns),
        stop=formatting.clock(hole.to_ns),
        instrument=names[hole.instrument],
        status=hole.status,
        bars=formatting.count(hole.bars),
    )


def _discrepancy_rows(discrepancies: Sequence[Discrepancy], names: dict[str, str]) -> list[DiscrepancyRow]:
    """Return one row per bar, ordered by time."""
    rows = []
    for (open_ns, instrument), run in groupby(
        discrepancies, key=lambda item: (item.open_ns, item.instrument)
    ):
        found = list(run)
        differences = [
            f"{item.differs} {_figure(item.ours)} against {_figure(item.theirs)}" for item in found
        ]
        checks = ", ".join(sorted({item.checked for item in found}))
        rows.append(
            DiscrepancyRow(
                names.get(instrument, instrument), formatting.clock(open_ns), "; ".join(differences), checks
            )
        )
    return rows


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.10g}"


def _sources(facts: NightReport) -> tuple[BarSource, ...]:
    recorded, total = facts.recorded, len(facts.night["instruments"])

    def of(n: int) -> str:
        return f"{n} of {total}"

    found = []
    for journal, run in groupby(sorted(recorded.spans, key=lambda item: item.journal), lambda s: s.journal):
        spans = [span for span in run if span.kind == "watched"]
        if not spans:
            continue
        kind = "recording of a socket"
        if any(span.evidence == "inferred" for span in spans):
            kind = "capture without control frames: gaps are inferred"
        if journal.startswith(SIMULATED):
            kind = "recording of a simulated venue"
        time_range = formatting.span(min(s.from_ns for s in spans), max(s.to_ns for s in spans))
        found.append(BarSource(journal, kind, time_range, of(len({s.instrument for s in spans}))))
    for file in recorded.files:
        time_range = formatting.span(file.from_ns, file.to_ns + facts.bar_ns)
        kind = f"{formatting.count(file.rows)} imported candles; no socket was watched"
        found.append(BarSource(file.source, kind, time_range, of(file.instruments)))
    return tuple(found)
