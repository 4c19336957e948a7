"""What is a person told of a backfill: the plan and its price, a bar while it runs, and what became of it?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from serving.cli.context import console, notes, paced_progress

if TYPE_CHECKING:
    from rich.console import Console

    from ingest.backfill.runner import BackfillPlan, BackfillResult
    from ingest.backfill.source import BackfillStep


class BackfillProgress:
    """Tells a person of a backfill while it runs."""

    def __init__(self, advance: Callable[[int, int, str], None], out: Console) -> None:
        self._advance, self._out = advance, out

    def plan(self, plan: BackfillPlan) -> None:
        """Say what is left before the first step."""
        for line in describe_plan(plan):
            self._out.print(line, highlight=False, markup=False, soft_wrap=True)
        self._advance(0, len(plan.steps), "")

    def step(self, step: BackfillStep, done: BackfillResult) -> None:
        """Move the bar."""
        self._advance(done.taken + len(done.absent), len(done.plan.steps), step.about)


@contextlib.contextmanager
def told(label: str, *, dry_run: bool) -> Iterator[BackfillProgress]:
    """Show the plan, and unless it is all that is wanted a bar with pace and time left."""
    if dry_run:
        yield BackfillProgress(lambda *_: None, console)
        return
    with paced_progress(label) as advance:
        yield BackfillProgress(advance, notes)


def describe_plan(plan: BackfillPlan) -> list[str]:
    """Return what a plan costs, one line a matter."""
    if not plan.steps:
        return [f"nothing to do: all {plan.committed} steps are in the lake"]
    first, last, cost = plan.steps[0][1], plan.steps[-1][1], plan.cost
    lines = [f"{len(plan.steps)} steps, {plan.committed} more are in the lake already"]
    lines += [f"  first     {first.about}", f"  last      {last.about}"]
    if plan.weight:
        wait = f"about {plan.minutes:,.0f} minutes" if plan.minutes else "less than a minute"
        lines.append(f"  budget    {plan.weight:,} of the venue's weight, {wait} at a backfill's share")
    unsized = f", and {cost.unsized} objects of unknown size" if cost.unsized else ""
    lines.append(f"  download  about {cost.size_bytes / 1e6:,.1f} MB{unsized}")
    if cost.is_paid:
        lines.append(
            f"  price     about {cost.usd:,.2f} USD for the reader, at archive.usd_per_gb and archive.usd_per_1000"
        )
    return lines


def show_done(done: BackfillResult, *, dry_run: bool) -> None:
    """Print what a backfill did."""
    if dry_run:
        notes.print("nothing was asked for: --dry-run", highlight=False)
        return
    rows = ", ".join(f"{name} {count:,}" for name, count in sorted(done.rows.items()) if count) or "nothing"
    console.print(
        f"steps     {done.taken:,} taken, {done.plan.committed:,} were in the lake", highlight=False
    )
    console.print(f"new rows  {rows}", highlight=False)
    if done.refused:
        console.print(f"refused   {done.refused:,} rows, see the table quarantine", highlight=False)
    if done.absent:
        console.print(
            f"absent    {len(done.absent):,} steps; the next run asks for them again", highlight=False
        )
        for step, reason in done.absent[:5]:
            console.print(f"  {step.about}: {reason}", highlight=False, markup=False, soft_wrap=True)
    if done.is_stopped:
        console.print(f"stopped   {done.left:,} steps are left; the same command goes on", highlight=False)
