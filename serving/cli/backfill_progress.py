"""Plan, progress bar and result of a backfill on the terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from serving.cli.context import console, notes
from serving.cli.progress import paced_progress

if TYPE_CHECKING:
    from rich.console import Console

    from ingest.backfill.runner import BackfillPlan, BackfillResult
    from ingest.backfill.source import BackfillStep
    from serving.day_jobs.repair import RepairResult


class BackfillProgress:
    """Prints the plan of a backfill and advances its progress bar."""

    def __init__(self, advance: Callable[[int, int, str], None], out: Console) -> None:
        self._advance, self._out = advance, out

    def plan(self, plan: BackfillPlan, *, about: str = "") -> None:
        """Print the plan before the first step, below a description if there is one."""
        if about:
            self._out.print(about, highlight=False, markup=False, soft_wrap=True)
        for line in describe_plan(plan):
            self._out.print(line, highlight=False, markup=False, soft_wrap=True)
        self._advance(0, len(plan.steps), "")

    def step(self, step: BackfillStep, done: BackfillResult) -> None:
        """Advance the bar after a step."""
        self._advance(done.taken + len(done.absent), len(done.plan.steps), step.about)


@contextlib.contextmanager
def report_backfill(label: str, *, dry_run: bool) -> Iterator[BackfillProgress]:
    """Yield the reporter; with `dry_run` it prints the plan only, without a progress bar."""
    if dry_run:
        yield BackfillProgress(lambda *_: None, console)
        return
    with paced_progress(label) as advance:
        yield BackfillProgress(advance, notes)


def describe_plan(plan: BackfillPlan) -> list[str]:
    """Return the plan and its cost as lines of text."""
    if not plan.steps:
        return [f"nothing to do: all {plan.committed} steps are in the lake"]
    first, last, cost = plan.steps[0][1], plan.steps[-1][1], plan.cost
    lines = [f"{len(plan.steps)} steps, {plan.committed} more are in the lake already"]
    lines += [f"  first     {first.about}", f"  last      {last.about}"]
    if plan.weight:
        wait = f"about {plan.minutes:,.0f} minutes" if plan.minutes else "less than a minute"
        lines.append(
            f"  requests  {plan.weight:,} of the venue's rate-limit weight, {wait} at the share for backfills"
        )
    unsized = f", and {cost.unsized} objects of unknown size" if cost.unsized else ""
    lines.append(f"  download  about {cost.size_bytes / 1e6:,.1f} MB{unsized}")
    if cost.is_paid:
        lines.append(
            f"  price     about {cost.usd:,.2f} USD, paid by you, at archive.usd_per_gb and archive.usd_per_1000"
        )
    return lines


def show_result(done: BackfillResult, *, dry_run: bool) -> None:
    """Print the result of a backfill."""
    if dry_run:
        notes.print("nothing was downloaded: --dry-run", highlight=False)
        return
    rows = ", ".join(f"{name} {count:,}" for name, count in sorted(done.rows.items()) if count) or "nothing"
    console.print(f"steps     {done.taken:,} done, {done.plan.committed:,} were in the lake", highlight=False)
    console.print(f"new rows  {rows}", highlight=False)
    if done.refused:
        console.print(f"rejected  {done.refused:,} rows; see: tickwalk quarantine list", highlight=False)
    if done.absent:
        console.print(f"absent    {len(done.absent):,} steps; the next run tries them again", highlight=False)
        for step, reason in done.absent[:5]:
            console.print(f"  {step.about}: {reason}", highlight=False, markup=False, soft_wrap=True)
    if done.is_stopped:
        console.print(f"stopped   {done.left:,} steps are left; the same command continues", highlight=False)


def show_repair(done: RepairResult, *, dry_run: bool) -> None:
    """Print the result of a repair of gaps, and what is left with its causes."""
    if not done.requests:
        console.print("no gap that the venue's API can fill", highlight=False)
    elif dry_run:
        notes.print("nothing was downloaded: --dry-run", highlight=False)
    else:
        rows = (
            ", ".join(f"{name} {count:,}" for name, count in sorted(done.rows.items()) if count) or "nothing"
        )
        console.print(f"new rows  {rows}; {done.certified:,} bars certified", highlight=False)
    left: dict[str, float] = {}
    for gap in done.left:
        left[gap.cause] = left.get(gap.cause, 0.0) + (gap.to_ns - gap.from_ns) / 3.6e12
    if left:
        causes = ", ".join(f"{cause} {hours:,.2f}" for cause, hours in sorted(left.items()))
        what = "missing" if dry_run else "left"
        console.print(
            f"{what:9} {sum(left.values()):,.2f} instrument-hours ({causes}) of the last 5 days; see docs/gaps.md",
            highlight=False,
            soft_wrap=True,
        )
    if done.is_stopped:
        console.print("stopped   the same command continues", highlight=False)
