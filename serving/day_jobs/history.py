"""Backfill of history in chunks: plan with requests and price, fetch of one chunk, and coverage of the changed days.

A chunk is a kind of history and some consecutive days. Its steps are those of `tickwalk backfill` (docs/backfill.md):
each is committed once, so a chunk that is repeated continues where it was interrupted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Self, cast, get_args

from ingest.backfill.archive.sources import Kind, archive_source
from ingest.backfill.pricing import DownloadCost, check_cost
from ingest.backfill.rest.runner import RestRequest, backfill_over_rest
from ingest.backfill.runner import BackfillPlan, BackfillResult, run_backfill
from ingest.backfill.source import BackfillRequest
from ingest.coverage.day_coverage import day_name
from ingest.replay.recovery import recover
from serving.day_jobs.coverage_table import count_states, update_coverage
from serving.day_jobs.days import clock_of, day_of_run, parse_day_ns
from storage.clock import DAY_NS, HOUR_NS, TimeSource, floor_ns, iso, parse_time_ns
from storage.errors import RangeError, SettingsError
from storage.lake.lake import Lake
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)

History = Literal["candles", "funding", "trades", "books", "contexts"]
MOST_CHUNKS: Final = 100
"""Mapped tasks of a run: each costs Airflow 0.3 s of processor time and a row of its database."""

_TIMES: Final = {
    "bars": "epoch_us(ts_open) // 86400000000",
    "funding": "epoch_us(ts_event) // 86400000000",
    "books": "epoch_us(ts_event) // 86400000000",
    "contexts": "ts_recv_ns // 86400000000000",
}
_CHANGED: Final = " UNION ".join(
    f"SELECT DISTINCT {day} AS day FROM {table} WHERE ts_ingested_ns >= $1 AND {day} >= $2 AND {day} < $3"
    for table, day in _TIMES.items()
)


@dataclass(frozen=True, slots=True)
class HistoryRequest:
    """What to backfill.

    Args:
        kinds: of history.
        since, until: ISO 8601, UTC; the end is exclusive.
        coins: names and patterns (default: `record.coins` for candles and funding, all for archives).
        width: of candles.
        dry_run: only make the plan.
        accepts_price: pay more than `archive.limit_usd`.
    """

    kinds: tuple[History, ...]
    since: str
    until: str
    coins: tuple[str, ...] = ()
    width: str = "1m"
    dry_run: bool = True
    accepts_price: bool = False

    @classmethod
    def of_run(cls, params: Mapping[str, Any], partition_key: str | None) -> Self:
        """Return the request of a run: of its partition's day, or of the range in its form.

        Raises:
            SettingsError: it has neither, or both; or a kind of history is unknown.
        """
        since, until = params.get("since") or None, params.get("until") or None
        if partition_key:
            if since or until:
                raise SettingsError(
                    f"the run is of the day {partition_key}, and its form names since or until too",
                    hint="leave both empty in a backfill: its dates are the range",
                )
            start_ns = parse_day_ns(day_of_run(partition_key, {}))
            since, until = iso(start_ns), iso(start_ns + DAY_NS)
        if not since or not until:
            raise SettingsError(
                f"the run has no range: since is {since}, and until is {until}",
                hint="fill in both, such as 2026-11-01 and 2026-11-08, or use Backfill, whose days are the range",
            )
        kinds = tuple(params.get("kinds") or ())
        if not kinds or not set(kinds) <= set(get_args(History)):
            raise SettingsError(
                f"kinds is {list(kinds)}", hint=f"choose some of: {', '.join(get_args(History))}"
            )
        return cls(
            kinds,
            str(since),
            str(until),
            tuple(params.get("coins") or ()),
            str(params.get("width") or "1m"),
            bool(params.get("dry_run", True)),
            bool(params.get("accept_price", False)),
        )


@dataclass(frozen=True, slots=True)
class HistoryPlan:
    """Plan of a backfill.

    Args:
        lines: the plan for people: requests, minutes, size and price of each kind.
        chunks: for `fetch_chunk`; none in a dry run, or where nothing is left.
    """

    lines: tuple[str, ...]
    chunks: tuple[dict[str, Any], ...]


def plan_history(
    settings: Settings, request: HistoryRequest, *, clock: TimeSource | None = None
) -> HistoryPlan:
    """Plan a backfill: list its steps, check its price, and cut it into at most 100 chunks.

    Raises:
        RangeError: the range is empty or in the future, or costs more than the settings allow.
        VenueError: the venue or the archive cannot be reached.
    """
    clock = clock or clock_of(settings)
    now_ns = clock.now_ns()
    from_ns, to_ns = parse_time_ns(request.since), min(parse_time_ns(request.until), now_ns)
    if from_ns >= to_ns:
        raise RangeError(
            f"nothing lies between {request.since} and {request.until}; it is {iso(now_ns)}",
            hint="the end is exclusive and must be after the start; times are UTC",
        )
    lines: list[str] = []
    left: list[History] = []
    total = DownloadCost()
    with Lake.open(settings, clock=clock) as lake:
        recover(settings, lake)
        for kind in request.kinds:
            work = _backfill(
                kind,
                request,
                BackfillRequest(from_ns, to_ns, request.coins),
                lake,
                settings,
                clock,
                dry_run=True,
            )
            try:
                plan = asyncio.run(work).plan
            except RangeError as error:  # such as candles that the venue forgot
                lines.append(f"{kind}: {error}")
                continue
            lines.append(describe_plan(kind, plan))
            total = _sum(total, plan.cost)
            left += [kind] * bool(plan.steps)
    check_cost(total, settings.archive, is_agreed=request.accepts_price or request.dry_run)
    for line in lines:
        logger.info("backfill planned", plan=line)
    chunks = [] if request.dry_run else cut(left, from_ns, to_ns)
    about = {"request": asdict(request), "planned_ns": now_ns}
    return HistoryPlan(tuple(lines), tuple(chunk | about for chunk in chunks))


def plan_run(
    settings: Settings,
    params: Mapping[str, Any],
    partition_key: str | None,
    *,
    clock: TimeSource | None = None,
) -> list[dict[str, Any]]:
    """Return the chunks of a run of the DAG; none in a dry run, whose plan is logged."""
    return list(plan_history(settings, HistoryRequest.of_run(params, partition_key), clock=clock).chunks)


def fetch_chunk(
    settings: Settings, chunk: Mapping[str, Any], *, clock: TimeSource | None = None
) -> dict[str, Any]:
    """Fetch a chunk, and return its rows by table and what is absent, as plain values.

    Raises:
        VenueError: the venue or the archive refused; the same call continues there.
        JournalError: another backfill of this home is running.
    """
    clock = clock or clock_of(settings)
    given = chunk["request"]
    request = HistoryRequest(**given | {"kinds": tuple(given["kinds"]), "coins": tuple(given["coins"])})
    wanted = BackfillRequest(chunk["from_ns"], chunk["to_ns"], request.coins)
    about = {"label": chunk["label"]}
    with Lake.open(settings, clock=clock) as lake:
        work = _backfill(cast(History, chunk["kind"]), request, wanted, lake, settings, clock, dry_run=False)
        try:
            done = asyncio.run(work)
        except RangeError as error:
            return about | {"rows": {}, "absent": [error.message]}
    absent = [f"{step.about}: {reason}" for step, reason in done.absent]
    logger.info("history fetched", chunk=chunk["label"], rows=done.rows, absent=len(absent))
    return about | {"rows": dict(done.rows), "rejected": done.refused, "absent": absent[:20]}


def finish_history(
    settings: Settings, chunks: Sequence[Mapping[str, Any]], *, clock: TimeSource | None = None
) -> list[str]:
    """Write the coverage of the days that received rows since the chunks were planned, and return those days.

    A day that is not over is left to `seal_day`.
    """
    clock = clock or clock_of(settings)
    now_ns = clock.now_ns()
    if not chunks:
        return []
    first = min(int(chunk["from_ns"]) for chunk in chunks) // DAY_NS
    last = min(-(-max(int(chunk["to_ns"]) for chunk in chunks) // DAY_NS), now_ns // DAY_NS)
    with Lake.open(settings, clock=clock) as lake:
        rows = lake.query(_CHANGED, [chunks[0]["planned_ns"], first, last]).to_pylist()
        days = sorted(int(row["day"]) * DAY_NS for row in rows)
        found = update_coverage(lake, settings, days, now_ns=now_ns)
    logger.info("history finished", days=len(days), **count_states(found))
    return [day_name(day) for day in days]


def describe_plan(kind: str, plan: BackfillPlan) -> str:
    """Return the plan of one kind of history in a line: steps, requests, time, size and price."""
    if not plan.steps:
        return f"{kind}: nothing to do, all {plan.committed} steps are in the lake"
    cost = plan.cost
    text = f"{kind}: {len(plan.steps):,} steps ({plan.committed:,} more are in the lake)"
    if plan.weight:
        text += f", {plan.weight:,} of the rate limit's weight, about {plan.minutes:,.0f} minutes"
    text += f", {cost.size_bytes / 1e6:,.1f} MB"
    if cost.unsized:
        text += f" and {cost.unsized:,} objects of unknown size"
    return text + (f", {cost.usd:,.2f} USD" if cost.is_paid else ", free of charge")


def cut(kinds: Sequence[str], from_ns: int, to_ns: int) -> list[dict[str, Any]]:
    """Return at most 100 chunks, by kind and time: whole days, except for the ends of the range.

    >>> [chunk["label"] for chunk in cut(["funding"], 0, 2 * DAY_NS)]
    ['funding 1970-01-01', 'funding 1970-01-02']
    """
    if not kinds:
        return []
    days = range(floor_ns(from_ns, DAY_NS), to_ns, DAY_NS)
    size = -(-len(days) * len(kinds) // MOST_CHUNKS)
    size = next(n for n in range(size, len(days) + 1) if -(-len(days) // n) * len(kinds) <= MOST_CHUNKS)
    chunks = []
    for kind in kinds:
        for start in days[::size]:
            stop = min(start + size * DAY_NS, days[-1] + DAY_NS)
            label = f"{kind} {day_name(start)}" + (f" to {day_name(stop - DAY_NS)}" if size > 1 else "")
            part = {"from_ns": max(start, from_ns), "to_ns": min(stop, to_ns)}
            chunks.append({"kind": kind, "label": label, **part})
    return chunks


def _backfill(
    kind: History,
    request: HistoryRequest,
    wanted: BackfillRequest,
    lake: Lake,
    settings: Settings,
    clock: TimeSource,
    *,
    dry_run: bool,
) -> Coroutine[Any, Any, BackfillResult]:
    if kind in ("candles", "funding"):
        rest = RestRequest("candles" if kind == "candles" else "funding", request.width)
        return backfill_over_rest(rest, wanted, lake, settings, clock=clock, dry_run=dry_run)
    whole_hours = BackfillRequest(
        floor_ns(wanted.from_ns, HOUR_NS), floor_ns(wanted.to_ns, HOUR_NS), wanted.coins
    )
    source = archive_source(cast(Kind, kind), lake, settings, clock)
    return run_backfill([source], whole_hours, lake, settings, dry_run=dry_run)


def _sum(a: DownloadCost, b: DownloadCost) -> DownloadCost:
    return DownloadCost(
        a.size_bytes + b.size_bytes, a.unsized + b.unsized, a.is_paid or b.is_paid, a.usd + b.usd
    )
