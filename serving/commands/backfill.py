"""Commands that fill in the past from the venue: candles and funding over REST."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from serving.commands import backfill_archive
from serving.commands.common import console, notes, paced_progress, run_until_stopped, settings_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from rich.console import Console

    from ingest.history.backfill import Backfilled, Plan
    from ingest.history.over_rest import Wanted
    from ingest.history.steps import Step
    from storage.settings import Settings

backfill = typer.Typer(
    no_args_is_help=True,
    help="Fill in the past from the venue; what is in the tables is not asked for again.",
)

From = Annotated[str | None, typer.Option("--from", help="First instant, as in 2026-01-31; UTC.")]
To = Annotated[str | None, typer.Option("--to", help="First instant that is left out; by default now.")]
Coins = Annotated[
    list[str] | None,
    typer.Option("--coin", help="Coin, byte-exact, or a pattern such as `xyz:*`; by default `record.coins`."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say what it would ask for, and what that costs.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    backfill_archive.add_to(backfill)
    app.add_typer(backfill, name="backfill")


@backfill.command()
def candles(
    context: typer.Context,
    since: From = None,
    until: To = None,
    coin: Coins = None,
    width: Annotated[
        str, typer.Option(help="Their width, as the venue has them: 1m, 5m, 1h, 1d, ...")
    ] = "1m",
    absent: Annotated[str, typer.Option(help="What a missing candle means: unknown, or quiet.")] = "unknown",
    dry_run: DryRun = False,
) -> None:
    """Ask the venue for its candles, and make bars of them with origin `candle`.

    The venue serves the newest 5,000 of a width: 3.5 days of `1m`, 17 days of `5m`, 208 days of `1h`. Without `--from`
    all of them are taken. A bar that was recorded live is never replaced.

    Ctrl-C ends between two steps; the same command goes on from there, also after a kill.
    """
    from ingest.history.candles import check_absent
    from ingest.history.over_rest import Wanted

    wanted = Wanted("candles", width, check_absent(absent))
    _fill_in(settings_of(context), wanted, since, until, coin, dry_run=dry_run)


@backfill.command()
def funding(
    context: typer.Context, since: From = None, until: To = None, coin: Coins = None, dry_run: DryRun = False
) -> None:
    """Ask the venue for the funding that was paid: every 8 hours until June 2023, every hour since.

    Without `--from` it begins at 2023-05-12, the first payment that the venue tells of.
    """
    from ingest.history.over_rest import Wanted

    _fill_in(settings_of(context), Wanted("funding"), since, until, coin, dry_run=dry_run)


def _fill_in(
    settings: Settings,
    wanted: Wanted,
    since: str | None,
    until: str | None,
    coins: list[str] | None,
    *,
    dry_run: bool,
) -> None:
    from ingest.history.over_rest import backfill_over_rest
    from ingest.history.steps import Wish
    from storage.clock import WallTime, parse_time_ns
    from storage.lake import Lake

    wish = Wish(
        parse_time_ns(since) if since else 0,
        parse_time_ns(until) if until else WallTime().now_ns(),
        tuple(coins or ()),
    )
    settings.ensure_home()
    with Lake.open(settings) as lake, told(f"asking for {wanted.what}", dry_run=dry_run) as telling:

        async def work(stop: asyncio.Event) -> Backfilled:
            return await backfill_over_rest(
                wanted,
                wish,
                lake,
                settings,
                dry_run=dry_run,
                stop=stop,
                on_plan=telling.plan,
                on_step=telling.step,
            )

        done: Backfilled = run_until_stopped(work)
    show_done(done, dry_run=dry_run)


class Telling:
    """Tells a person of a backfill while it runs."""

    def __init__(self, advance: Callable[[int, int, str], None], out: Console) -> None:
        self._advance, self._out = advance, out

    def plan(self, plan: Plan) -> None:
        """Say what is left before the first step."""
        for line in describe_plan(plan):
            self._out.print(line, highlight=False, markup=False, soft_wrap=True)
        self._advance(0, len(plan.steps), "")

    def step(self, step: Step, done: Backfilled) -> None:
        """Move the bar."""
        self._advance(done.taken + len(done.absent), len(done.plan.steps), step.about)


@contextlib.contextmanager
def told(label: str, *, dry_run: bool) -> Iterator[Telling]:
    """Show the plan, and unless it is all that is wanted a bar with pace and time left."""
    if dry_run:
        yield Telling(lambda *_: None, console)
        return
    with paced_progress(label) as advance:
        yield Telling(advance, notes)


def describe_plan(plan: Plan) -> list[str]:
    """Return what a plan costs, one line a matter."""
    if not plan.steps:
        return [f"nothing to do: all {plan.held} steps are in the lake"]
    first, last = plan.steps[0][1], plan.steps[-1][1]
    lines = [f"{len(plan.steps)} steps, {plan.held} more are in the lake already"]
    lines += [f"  first     {first.about}", f"  last      {last.about}"]
    if plan.weight:
        wait = f"about {plan.minutes:,.0f} minutes" if plan.minutes else "less than a minute"
        lines.append(
            f"  budget    {plan.weight:,} of the venue's weight, {wait} at record.rest_weight_per_minute"
        )
    unsized = f", and {plan.unsized} objects of unknown size" if plan.unsized else ""
    lines.append(f"  download  about {plan.size_bytes / 1e6:,.1f} MB{unsized}")
    if plan.usd or (plan.unsized and not plan.weight):
        lines.append(f"  price     {plan.usd:,.2f} USD for the reader, at archive.usd_per_gb")
    return lines


def show_done(done: Backfilled, *, dry_run: bool) -> None:
    """Print what a backfill did."""
    if dry_run:
        notes.print("nothing was asked for: --dry-run", highlight=False)
        return
    rows = ", ".join(f"{name} {count:,}" for name, count in sorted(done.rows.items()) if count) or "nothing"
    console.print(f"steps     {done.taken:,} taken, {done.plan.held:,} were in the lake", highlight=False)
    console.print(f"new rows  {rows}", highlight=False)
    if done.refused:
        console.print(f"refused   {done.refused:,} rows, see the table quarantine", highlight=False)
    if done.absent:
        console.print(
            f"absent    {len(done.absent):,} steps; the next run asks for them again", highlight=False
        )
        for step, reason in done.absent[:5]:
            console.print(f"  {step.about}: {reason}", highlight=False, markup=False)
    if done.is_stopped:
        console.print(f"stopped   {done.left:,} steps are left; the same command goes on", highlight=False)
