"""How is history filled in: which steps are left, what do they cost, and what became of them?

The driver knows no source's business. It lists the steps, leaves out those whose batch is in the lake, takes the
others one by one and commits each as one batch under its key. So it may be killed anywhere and started again: what
is committed is not asked for twice, and what was not is asked for again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

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

# A step that is under way when someone stops may end within this; one that waits for the budget would take a minute.
_PATIENCE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class BackfillPlan:
    """What a wish needs.

    Args:
        steps: what is left, in the order in which it is taken, with its source.
        held: steps whose batch is in the lake.
        weight: what the steps that are left cost of the venue's budget.
        minutes: how long that budget takes; 0 for less than one minute's worth, since it may be spent at once.
        cost: what is downloaded, and its price where whoever reads pays.
    """

    steps: tuple[tuple[BackfillSource, BackfillStep], ...]
    held: int
    weight: int
    minutes: float
    cost: DownloadCost


NOTHING: Final = BackfillPlan((), 0, 0, 0.0, DownloadCost())


@dataclass(slots=True)
class BackfillResult:
    """What a backfill did.

    Args:
        plan: what it set out to do.
        taken: steps that were committed.
        rows: rows new to the lake, by table.
        refused: rows that went to quarantine.
        absent: steps of which there was nothing to take, and why; they are asked for again at the next run.
        is_stopped: someone ended it before its last step.
    """

    plan: BackfillPlan
    taken: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    absent: list[tuple[BackfillStep, str]] = field(default_factory=list)
    is_stopped: bool = False

    @property
    def left(self) -> int:
        """Steps that the next run takes."""
        return len(self.plan.steps) - self.taken


def check_wish(wish: BackfillRequest, now_ns: int) -> None:
    """Refuse a range that cannot be meant.

    Raises:
        RangeError: it is reversed or empty, or lies in the future.
    """
    if wish.from_ns >= now_ns:
        raise RangeError(
            f"--from {iso(wish.from_ns)} lies in the future: it is {iso(now_ns)}", hint="times are UTC"
        )
    if wish.from_ns >= wish.to_ns:
        raise RangeError(
            f"--from {iso(wish.from_ns)} is not before --to {iso(wish.to_ns)}",
            hint="the first is included, the second is not; a day goes from 2026-01-31 to 2026-02-01",
        )
    if wish.to_ns > now_ns:
        raise RangeError(
            f"--to {iso(wish.to_ns)} lies in the future: it is {iso(now_ns)}",
            hint="leave --to away to fill in up to now; times are UTC",
        )


async def make_plan(
    sources: Sequence[BackfillSource], wish: BackfillRequest, lake: Lake, settings: Settings
) -> BackfillPlan:
    """Return what a wish needs and what it costs; nothing is taken.

    Raises:
        VenueError: a source cannot say.
    """
    listed = [(source, step) for source in sources for step in await source.steps(wish)]
    held = committed(lake, [step.key for _, step in listed])
    left = tuple((source, step) for source, step in listed if step.key not in held)
    weight = sum(step.weight for _, step in left)
    return BackfillPlan(
        steps=left,
        held=len(listed) - len(left),
        weight=weight,
        minutes=float(max(0, math.ceil(weight / weight_per_minute(settings)) - 1)),
        cost=cost_of([step for _, step in left], settings.archive),
    )


def committed(lake: Lake, keys: Sequence[str]) -> set[str]:
    """Return those of the keys whose batch is in the lake."""
    found = lake.query("SELECT batch_id FROM batches WHERE batch_id IN (SELECT unnest(?))", (list(keys),))
    return {str(key) for key in found["batch_id"].to_pylist()}


async def run_backfill(
    sources: Sequence[BackfillSource],
    wish: BackfillRequest,
    lake: Lake,
    settings: Settings,
    *,
    dry_run: bool = False,
    stop: asyncio.Event | None = None,
    goes_on: bool = False,
    on_plan: Callable[[BackfillPlan], None] | None = None,
    on_step: Callable[[BackfillStep, BackfillResult], None] | None = None,
) -> BackfillResult:
    """Fill in what a wish needs and the lake has not, oldest first.

    Args:
        sources: asked in this order; their steps' keys differ.
        wish: which time, of which coins.
        lake: takes each step as one batch.
        settings: the budget and the prices that a plan is told with.
        dry_run: make the plan only.
        stop: ends it in order between two steps; a step that takes longer than some seconds is given up.
        goes_on: a step that cannot be taken counts as absent, and the next one is tried.
        on_plan: is told what is left before the first step; what it raises ends the backfill.
        on_step: is told of each step that was taken or is absent.

    Raises:
        VenueError: a source failed; every step before is in the lake, and the same call goes on from there.
        LakeError: the lake refused a batch.
    """
    plan = await _run(stop, make_plan(sources, wish, lake, settings))
    done = BackfillResult(plan or NOTHING, is_stopped=plan is None)
    if plan is None:
        return done
    if on_plan is not None:
        on_plan(done.plan)
    if dry_run:
        return done
    for number, (source, step) in enumerate(done.plan.steps):
        try:
            taken = await _run(stop, source.take(step))
        except VenueError as error:
            if not goes_on:
                raise _with_place(error, step, number, len(done.plan.steps)) from error
            taken = StepResult({}, absent=error.message)
        if taken is None:
            done.is_stopped = True
            break
        if taken.absent:
            done.absent.append((step, taken.absent))
            logger.info("backfill step absent", step=step.key, reason=taken.absent)
        else:
            commit = write_batch(lake, taken.tables, batch_id=step.key, inputs=taken.inputs)
            done.taken += 1
            done.refused += commit.refused
            for name, rows in commit.rows.items():
                done.rows[name] = done.rows.get(name, 0) + rows
        if on_step is not None:
            on_step(step, done)
    return done


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
