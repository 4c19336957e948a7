"""Backfill driver: plans the remaining steps with their cost, fetches them and commits each as one batch.

The driver is independent of the sources. It lists the steps, skips those whose batch is in the lake, fetches the
others one by one and commits each as one batch under its key. So it may be killed anywhere and started again:
committed steps are not fetched twice, and the others are fetched again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from ingest.backfill.history import HistoryStamper
from ingest.backfill.pricing import DownloadCost, cost_of
from ingest.backfill.rate_budget import weight_per_minute
from ingest.backfill.source import BackfillRequest, BackfillSource, BackfillStep, StepResult
from ingest.concurrency import run_unless
from storage.clock import iso
from storage.errors import RangeError, VenueError
from storage.lake.bulk_load import write_batch
from storage.lake.lake import Lake
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)
T = TypeVar("T")

# Time for the step in progress to finish after a stop; waiting for the rate limit could take a minute.
_PATIENCE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class BackfillPlan:
    """Remaining steps of a request, and their cost.

    Args:
        steps: remaining steps in order, each with its source.
        committed: number of steps whose batch is in the lake.
        weight: total weight of the remaining steps in the rate limit.
        minutes: time by the rate limit; 0 below one minute's limit, which may be spent at once.
        cost: size and price of the downloads.
    """

    steps: tuple[tuple[BackfillSource, BackfillStep], ...]
    committed: int
    weight: int
    minutes: float
    cost: DownloadCost


EMPTY_PLAN: Final = BackfillPlan((), 0, 0, 0.0, DownloadCost())


@dataclass(slots=True)
class BackfillResult:
    """Outcome of a backfill.

    Args:
        plan: its plan.
        taken: number of committed steps.
        rows: rows new to the lake, by table.
        refused: number of quarantined rows.
        absent: steps without data yet, with the reason; the next run retries them.
        is_stopped: whether it was stopped before its last step.
    """

    plan: BackfillPlan
    taken: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    absent: list[tuple[BackfillStep, str]] = field(default_factory=list)
    is_stopped: bool = False

    @property
    def left(self) -> int:
        """Number of steps left for the next run."""
        return len(self.plan.steps) - self.taken


def check_range(request: BackfillRequest, now_ns: int) -> None:
    """Refuse an invalid time range.

    Raises:
        RangeError: it is reversed, empty or in the future.
    """
    if request.from_ns >= now_ns:
        raise RangeError(
            f"--from {iso(request.from_ns)} lies in the future: it is {iso(now_ns)}", hint="times are UTC"
        )
    if request.from_ns >= request.to_ns:
        raise RangeError(
            f"--from {iso(request.from_ns)} is not before --to {iso(request.to_ns)}",
            hint="the first is included, the second is not; a day goes from 2026-01-31 to 2026-02-01",
        )
    if request.to_ns > now_ns:
        raise RangeError(
            f"--to {iso(request.to_ns)} lies in the future: it is {iso(now_ns)}",
            hint="leave --to away to fill in up to now; times are UTC",
        )


async def make_plan(
    sources: Sequence[BackfillSource], request: BackfillRequest, lake: Lake, settings: Settings
) -> BackfillPlan:
    """Return the remaining steps of a request and their cost, without fetching.

    Raises:
        VenueError: a source cannot list its steps.
    """
    listed = [(source, step) for source in sources for step in await source.steps(request)]
    existing = committed_keys(lake, [step.key for _, step in listed])
    left = tuple((source, step) for source, step in listed if step.key not in existing)
    weight = sum(step.weight for _, step in left)
    return BackfillPlan(
        steps=left,
        committed=len(listed) - len(left),
        weight=weight,
        minutes=float(max(0, math.ceil(weight / weight_per_minute(settings)) - 1)),
        cost=cost_of([step for _, step in left], settings.archive),
    )


def committed_keys(lake: Lake, keys: Sequence[str]) -> set[str]:
    """Return the keys whose batch is in the lake."""
    found = lake.query("SELECT batch_id FROM batches WHERE batch_id IN (SELECT unnest(?))", (list(keys),))
    return {str(key) for key in found["batch_id"].to_pylist()}


async def run_backfill(
    sources: Sequence[BackfillSource],
    request: BackfillRequest,
    lake: Lake,
    settings: Settings,
    *,
    dry_run: bool = False,
    stop: asyncio.Event | None = None,
    goes_on: bool = False,
    stamper: HistoryStamper | None = None,
    on_plan: Callable[[BackfillPlan], None] | None = None,
    on_step: Callable[[BackfillStep, BackfillResult], None] | None = None,
) -> BackfillResult:
    """Fetch and commit the steps of a request that the lake lacks, oldest first.

    Args:
        sources: used in this order; the keys of their steps differ.
        request: time range and coins.
        lake: stores each step as one batch.
        settings: rate limit and prices, for the plan.
        dry_run: only make the plan.
        stop: stops between two steps; a step that takes longer than some seconds is cancelled.
        goes_on: count a failed step as absent and continue.
        stamper: of the bars (default: by what the lake knows now).
        on_plan: called with the plan before the first step; may raise to end the backfill.
        on_step: called after each committed or absent step.

    Raises:
        VenueError: a source failed; earlier steps are in the lake, and the same call resumes from there.
        LakeError: the lake refused a batch.
    """
    plan = await _run(stop, make_plan(sources, request, lake, settings))
    result = BackfillResult(plan or EMPTY_PLAN, is_stopped=plan is None)
    if plan is None:
        return result
    if on_plan is not None:
        on_plan(result.plan)
    if dry_run:
        return result
    stamper = stamper or HistoryStamper(lake, settings)
    for number, (source, step) in enumerate(result.plan.steps):
        try:
            taken = await _run(stop, source.fetch(step))
        except VenueError as error:
            if not goes_on:
                raise _with_place(error, step, number, len(result.plan.steps)) from error
            taken = StepResult({}, absent=error.message)
        if taken is None:
            result.is_stopped = True
            break
        if taken.absent:
            result.absent.append((step, taken.absent))
            logger.info("backfill step absent", step=step.key, reason=taken.absent)
        else:
            tables, inputs = stamper.stamp(step.key, taken.tables, taken.inputs, taken.arrived_ns)
            commit = write_batch(lake, tables, batch_id=step.key, inputs=inputs)
            result.taken += 1
            result.refused += commit.refused
            for name, rows in commit.rows.items():
                result.rows[name] = result.rows.get(name, 0) + rows
        if on_step is not None:
            on_step(step, result)
    return result


async def _run(stop: asyncio.Event | None, work: Coroutine[Any, Any, T]) -> T | None:
    """Return the result of `work`; None if `stop` is set first and `work` does not end soon after."""
    if stop is None:
        return await work
    return await run_unless(stop, work, patience_s=_PATIENCE_S)


def _with_place(error: VenueError, step: BackfillStep, number: int, steps: int) -> VenueError:
    hint = f"{error.hint}; " if error.hint else ""
    return VenueError(
        f"{step.about}: {error.message}",
        hint=f"{hint}{number} of {steps} steps are in the lake, and the same command goes on from there",
        **error.facts,
    )
