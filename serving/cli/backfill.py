"""Commands that fill in the past: candles and funding from the venue over REST, the rest from its archives."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serving.cli.backfill_progress import show_done, told
from serving.cli.context import run_until_stopped, settings_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine

    from ingest.backfill.archive.sources import Kind
    from ingest.backfill.rest.runner import RestRequest
    from ingest.backfill.runner import BackfillPlan, BackfillResult
    from storage.lake.lake import Lake
    from storage.settings import Settings

    Work = Callable[..., Coroutine[Any, Any, BackfillResult]]
    """Takes the lake, and the driver's keywords."""

backfill = typer.Typer(
    no_args_is_help=True,
    help="Fill in the past from the venue; what is in the tables is not asked for again.",
)

From = Annotated[str | None, typer.Option("--from", help="First instant, as in 2026-01-31; UTC.")]
To = Annotated[str | None, typer.Option("--to", help="First instant that is left out; by default now.")]
Since = Annotated[
    str, typer.Option("--from", help="First instant, as in 2025-07-29 or 2025-07-29T14:00; UTC.")
]
Until = Annotated[str, typer.Option("--to", help="First instant that is left out.")]
Coins = Annotated[
    list[str] | None,
    typer.Option("--coin", help="Coin, byte-exact, or a pattern such as `xyz:*`; by default `record.coins`."),
]
AllCoins = Annotated[
    list[str] | None, typer.Option("--coin", help="Coin, byte-exact; all by default. Repeat it.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say what it would ask for, and what that costs.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Pay also what costs more than archive.limit_usd.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
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
    from ingest.backfill.candle_files import check_absent
    from ingest.backfill.rest.runner import RestRequest

    wanted = RestRequest("candles", width, check_absent(absent))
    _over_rest(settings_of(context), wanted, since, until, coin, dry_run=dry_run)


@backfill.command()
def funding(
    context: typer.Context, since: From = None, until: To = None, coin: Coins = None, dry_run: DryRun = False
) -> None:
    """Ask the venue for the funding that was paid: every 8 hours until June 2023, every hour since.

    Without `--from` it begins at 2023-05-12, the first payment that the venue tells of.
    """
    from ingest.backfill.rest.runner import RestRequest

    _over_rest(settings_of(context), RestRequest("funding"), since, until, coin, dry_run=dry_run)


def _archive_command(kind: Kind, about: str) -> None:
    """Add a command that reads a kind of history from an archive."""

    def command(
        context: typer.Context,
        since: Since,
        until: Until,
        coin: AllCoins = None,
        dry_run: DryRun = False,
        yes: Yes = False,
    ) -> None:
        _from_archive(settings_of(context), kind, since, until, coin, dry_run=dry_run, is_agreed=yes)

    backfill.command(kind, help=about)(command)


_archive_command(
    "trades",
    """Fetch trades that nodes wrote down, hour by hour, and make bars of them.

    An object holds all coins, so naming a few makes the tables smaller and not the price. Bars are made of widths
    that divide an hour.
    """,
)
_archive_command(
    "books", "Fetch books of 20 levels, an hour and coin at a time; about two snapshots a second."
)
_archive_command(
    "contexts",
    "Fetch contexts (oracle, mark, predicted funding, open interest), a day at a time; a row a minute and coin.",
)


def _over_rest(
    settings: Settings,
    wanted: RestRequest,
    since: str | None,
    until: str | None,
    coins: list[str] | None,
    *,
    dry_run: bool,
) -> None:
    from ingest.backfill.rest.runner import backfill_over_rest
    from ingest.backfill.source import BackfillRequest
    from storage.clock import WallTime, parse_time_ns

    wish = BackfillRequest(
        parse_time_ns(since) if since else 0,
        parse_time_ns(until) if until else WallTime().now_ns(),
        tuple(coins or ()),
    )

    def work(lake: Lake, **how: Any) -> Coroutine[Any, Any, BackfillResult]:
        return backfill_over_rest(wanted, wish, lake, settings, **how)

    _fill_in(f"asking for {wanted.what}", work, settings, dry_run=dry_run, is_agreed=True)


def _from_archive(
    settings: Settings,
    kind: Kind,
    since: str,
    until: str,
    coins: list[str] | None,
    *,
    dry_run: bool,
    is_agreed: bool,
) -> None:
    from ingest.backfill.archive.sources import archive_source
    from ingest.backfill.runner import run_backfill
    from ingest.backfill.source import BackfillRequest
    from storage.clock import parse_time_ns

    wish = BackfillRequest(parse_time_ns(since), parse_time_ns(until), tuple(coins or ()))

    def work(lake: Lake, **how: Any) -> Coroutine[Any, Any, BackfillResult]:
        return run_backfill([archive_source(kind, lake, settings)], wish, lake, settings, **how)

    _fill_in(f"fetching {kind} from the archive", work, settings, dry_run=dry_run, is_agreed=is_agreed)


def _fill_in(label: str, work: Work, settings: Settings, *, dry_run: bool, is_agreed: bool) -> None:
    """Tell the plan, refuse what is too dear, let the driver work, and show what it did."""
    from ingest.backfill.pricing import check_cost
    from storage.lake.lake import Lake

    settings.ensure_home()
    with Lake.open(settings) as lake, told(label, dry_run=dry_run) as telling:

        def planned(plan: BackfillPlan) -> None:
            telling.plan(plan)
            check_cost(plan.cost, settings.archive, is_agreed=is_agreed or dry_run)

        def go(stop: asyncio.Event) -> Coroutine[Any, Any, BackfillResult]:
            return work(lake, dry_run=dry_run, stop=stop, on_plan=planned, on_step=telling.step)

        done: BackfillResult = run_until_stopped(go)
    show_done(done, dry_run=dry_run)
