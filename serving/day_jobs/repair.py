"""Repair of gaps: finds the bars that the venue's API can still fill, and fills them before it forgets them.

Hyperliquid serves the newest 5,000 candles of a width: a minute is gone after 3.5 days. A gap is requested with some
bars on either side of it, because silence is judged by the rhythm around it (docs/backfill.md). What the API no longer
serves is in the requester-pays archive, if anywhere; nothing here spends money.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from ingest.backfill.certify import certify
from ingest.backfill.rest.runner import RestRequest, backfill_over_rest
from ingest.backfill.runner import BackfillPlan, BackfillResult
from ingest.backfill.source import BackfillRequest, BackfillStep
from ingest.bars.reconciliation import INTERVALS
from ingest.coverage.day_coverage import FINAL_NS, DayCoverageReader, MissingStretch
from ingest.coverage.intervals import merge
from ingest.pipeline.certification import SETTLED_NS
from ingest.replay.recovery import recover
from ingest.venues.hyperliquid.protocol import coin_of
from serving.day_jobs.coverage_table import count_states, coverage_reader, served_from, update_coverage
from serving.day_jobs.days import clock_of
from storage.clock import DAY_NS, HOUR_NS, NS, TimeSource, floor_ns, iso, width_ns
from storage.lake.lake import Lake
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)

_MARGIN_STEPS: Final = 240
"""Bars requested on either side of a gap: as many as bars are made again with new ones (backfill/rest/candles.py)."""
_LOOK_BACK_NS: Final = 5 * DAY_NS
"""How far back days are looked at again: more than the venue serves of one-minute candles."""
_COINS: Final = """
    SELECT instrument FROM instruments
    QUALIFY row_number() OVER (PARTITION BY instrument ORDER BY ts_knowable_ns DESC) = 1 AND state = 'absent'
"""

OnPlan = Callable[["RepairRequest", BackfillPlan], None]
OnStep = Callable[["RepairRequest", BackfillStep, BackfillResult], None]


@dataclass(frozen=True, slots=True)
class RepairRequest:
    """Candles of a width to request: a range that holds gaps, and the coins that have them.

    Args:
        width: of the bars.
        request: range and coins.
        missing_ns: total length of the gaps in it.
        causes: of the gaps.
    """

    width: str
    request: BackfillRequest
    missing_ns: int
    causes: tuple[str, ...]

    @property
    def about(self) -> str:
        """Description for people."""
        coins = self.request.coins
        names = ", ".join(coins[:4]) + (f" and {len(coins) - 4} more" if len(coins) > 4 else "")
        return (
            f"{self.width} candles of {names}, {iso(self.request.from_ns)} to {iso(self.request.to_ns)}: "
            f"{self.missing_ns / HOUR_NS:,.2f} h missing ({', '.join(self.causes)})"
        )


@dataclass(slots=True)
class RepairResult:
    """Outcome of a repair.

    Args:
        requests: what was requested, or would be.
        rows: rows new to the lake, by table.
        certified: bars that agree with a candle, newly compared.
        coverage: states and hours of the days concerned that are sealed, see `count_states`.
        left: gaps that the API cannot fill, or did not.
        is_stopped: it was stopped before its last request.
    """

    requests: tuple[RepairRequest, ...]
    rows: dict[str, int] = field(default_factory=dict)
    certified: int = 0
    coverage: dict[str, Any] = field(default_factory=dict)
    left: tuple[MissingStretch, ...] = ()
    is_stopped: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for the log of a task."""
        return {
            "requests": [item.about for item in self.requests],
            "rows": dict(self.rows),
            "certified": self.certified,
            "left_h": round(sum(item.to_ns - item.from_ns for item in self.left) / HOUR_NS, 3),
            "coverage": self.coverage,
        }


def repair_gaps(
    settings: Settings,
    *,
    dry_run: bool = False,
    clock: TimeSource | None = None,
    on_plan: OnPlan = lambda *_: None,
    on_step: OnStep = lambda *_: None,
) -> RepairResult:
    """Fill all gaps that the venue's API can still fill; a second call finds what the first one left.

    Args:
        settings: the home.
        dry_run: only find the gaps and price the requests.
        clock: the present (default: see `clock_of`).
        on_plan, on_step: called with the plan of each request, and after each step.

    Raises:
        VenueError: the venue cannot be reached; what was filled stays.
        JournalError: another backfill of this home is running.
    """
    clock = clock or clock_of(settings)
    with Lake.open(settings, clock=clock, read_only=dry_run) as lake:
        if not dry_run:
            recover(settings, lake)
        work = repair_range(
            lake, settings, 0, clock.now_ns(), dry_run=dry_run, clock=clock, on_plan=on_plan, on_step=on_step
        )
        return asyncio.run(work)


async def repair_range(
    lake: Lake,
    settings: Settings,
    from_ns: int,
    to_ns: int,
    *,
    dry_run: bool = False,
    clock: TimeSource,
    stop: asyncio.Event | None = None,
    on_plan: OnPlan = lambda *_: None,
    on_step: OnStep = lambda *_: None,
) -> RepairResult:
    """Fill the gaps of a range, certify its bars with the new candles, and update sealed days.

    Args:
        lake: the bars.
        settings: the venue, and the widths.
        from_ns, to_ns: gaps that touch this range; what the API no longer serves is left out.
        dry_run, clock, on_plan, on_step: as for `repair_gaps`.
        stop: stops between two steps.
    """
    now_ns = clock.now_ns()
    requests = [
        item
        for width in settings.bars.widths
        for item in plan_requests(lake, settings, width, from_ns, to_ns, now_ns)
    ]
    result = RepairResult(tuple(requests))
    for item in requests:
        done = await backfill_over_rest(
            RestRequest("candles", item.width),
            item.request,
            lake,
            settings,
            clock=clock,
            dry_run=dry_run,
            stop=stop,
            on_plan=lambda plan, item=item: on_plan(item, plan),  # type: ignore[misc]
            on_step=lambda step, done, item=item: on_step(item, step, done),  # type: ignore[misc]
        )
        for name, rows in done.rows.items():
            result.rows[name] = result.rows.get(name, 0) + rows
        if done.is_stopped:
            result.is_stopped = True
            break
    # Days may have changed without a request too: the venue forgets, and the archive fills.
    first_ns = min((item.request.from_ns for item in requests), default=now_ns)
    since_ns = max(from_ns, min(first_ns, now_ns - _LOOK_BACK_NS))
    if requests and not dry_run:
        last_ns = max(item.request.to_ns for item in requests)
        result.certified = certify(lake, settings, from_ns=first_ns, to_ns=last_ns, clock=clock).certified
        logger.info("gaps repaired", requests=len(requests), rows=result.rows, certified=result.certified)
    if not dry_run:
        days = range(floor_ns(since_ns, DAY_NS), floor_ns(min(to_ns, now_ns), DAY_NS), DAY_NS)
        result.coverage = count_states(update_coverage(lake, settings, days, now_ns=now_ns, known_only=True))
    until_ns = min(to_ns, _published_ns(settings, now_ns))
    result.left = tuple(_missing(coverage_reader(lake, settings, now_ns), since_ns, until_ns))
    return result


def plan_requests(
    lake: Lake, settings: Settings, width: str, from_ns: int, to_ns: int, now_ns: int
) -> list[RepairRequest]:
    """Return the requests that fill the gaps of a range: gaps near each other share one, whatever their coins."""
    if width not in INTERVALS:
        return []
    step_ns = width_ns(width)
    served_ns = served_from(settings, width, now_ns)(f"{settings.record.venue}|")
    assert served_ns is not None
    # The recorder's own repair comes first, and a candle that the venue leaves out may come within an hour: so each gap
    # is asked for once, and the answer is final.
    until_ns = floor_ns(now_ns - FINAL_NS - int(settings.bars.lateness_s * NS), step_ns)
    margin_ns = _MARGIN_STEPS * step_ns
    reader = DayCoverageReader(lake, width=width, served_from=served_from(settings, width, now_ns))
    gaps = _missing(reader, max(from_ns, served_ns), min(to_ns, until_ns))
    gone = set(lake.query(_COINS)["instrument"].to_pylist())
    gaps = [gap for gap in gaps if gap.is_repairable and gap.instrument not in gone]
    requests = []
    for low_ns, high_ns in merge((gap.from_ns - margin_ns, gap.to_ns + margin_ns) for gap in gaps):
        inside = [gap for gap in gaps if low_ns <= gap.from_ns < high_ns]
        # A repair does not extend history: nothing is requested from before the first of its instruments.
        first_ns = min(reader.first_ns(gap.instrument) for gap in inside)
        requests.append(
            RepairRequest(
                width,
                BackfillRequest(
                    max(low_ns, served_ns, floor_ns(first_ns, step_ns)),
                    min(high_ns, until_ns),
                    tuple(sorted({coin_of(gap.instrument) for gap in inside})),
                ),
                sum(gap.to_ns - gap.from_ns for gap in inside),
                tuple(sorted({gap.cause for gap in inside})),
            )
        )
    return requests


def _published_ns(settings: Settings, now_ns: int) -> int:
    """Return the time before which recorders have published their bars, and candles have settled."""
    return now_ns - SETTLED_NS - int(settings.bars.lateness_s * NS)


def _missing(reader: DayCoverageReader, from_ns: int, to_ns: int) -> list[MissingStretch]:
    """Return the missing stretches of a range, cut at the ends of days."""
    from_ns = max(from_ns, reader.begins_ns)
    found: list[MissingStretch] = []
    for day_ns in range(floor_ns(from_ns, DAY_NS), to_ns, DAY_NS):
        found += reader.find_missing(max(day_ns, from_ns), min(day_ns + DAY_NS, to_ns))
    return found
