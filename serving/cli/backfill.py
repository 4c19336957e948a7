"""Commands `backfill candles|funding|trades|books|contexts|gaps`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serving.cli.backfill_progress import report_backfill, show_repair, show_result
from serving.cli.context import run_until_stopped, settings_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine

    from ingest.backfill.archive.sources import Kind
    from ingest.backfill.rest.runner import RestRequest
    from ingest.backfill.runner import BackfillPlan, BackfillResult
    from serving.day_jobs.repair import RepairResult
    from storage.lake.lake import Lake
    from storage.settings import Settings

    Work = Callable[..., Coroutine[Any, Any, BackfillResult]]
    """Called with the lake and the keyword arguments of the backfill driver."""

backfill = typer.Typer(
    no_args_is_help=True,
    help="Download history from the venue's API and archives.",
    epilog="Steps whose rows the tables already hold are skipped. Ctrl-C stops between two steps; the same command "
    "continues there.",
)

From = Annotated[str | None, typer.Option("--from", help="Start, such as 2026-01-31; UTC.")]
To = Annotated[str | None, typer.Option("--to", help="End, exclusive; default: now.")]
Since = Annotated[str, typer.Option("--from", help="Start, such as 2025-07-29 or 2025-07-29T14:00; UTC.")]
Until = Annotated[str, typer.Option("--to", help="End, exclusive.")]
Coins = Annotated[
    list[str] | None,
    typer.Option(
        "--coin",
        help="Coin or pattern, such as `xyz:*`; case-sensitive; repeatable; default: record.coins.",
    ),
]
AllCoins = Annotated[
    list[str] | None, typer.Option("--coin", help="Coin, case-sensitive; repeatable; default: all.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print the plan and its cost.")]
Yes = Annotated[bool, typer.Option("--yes", help="Accept a cost above archive.limit_usd.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(backfill, name="backfill")


@backfill.command()
def candles(
    context: typer.Context,
    since: From = None,
    until: To = None,
    coin: Coins = None,
    width: Annotated[str, typer.Option(help="Width of the candles: 1m, 5m, 1h, 1d, ...")] = "1m",
    absent: Annotated[
        str, typer.Option(help="Status of bars without a candle: unknown or quiet.")
    ] = "unknown",
    dry_run: DryRun = False,
) -> None:
    """Download candles from the venue's API, and derive bars from them with origin `candle`.

    The venue serves the newest 5,000 candles of a width: 3.5 days of `1m`, 17 days of `5m`, 208 days of `1h`. Without
    `--from` all of them are downloaded. Bars that were recorded live are never replaced.

    Ctrl-C stops between two steps; the same command continues there, also after a kill.

    Example: `tickwalk backfill candles --coin BTC --width 5m`
    """
    from ingest.backfill.candle_files import check_absent
    from ingest.backfill.rest.runner import RestRequest

    wanted = RestRequest("candles", width, check_absent(absent))
    _over_rest(settings_of(context), wanted, since, until, coin, dry_run=dry_run)


@backfill.command()
def funding(
    context: typer.Context, since: From = None, until: To = None, coin: Coins = None, dry_run: DryRun = False
) -> None:
    """Download funding payments: every 8 hours until June 2023, hourly since.

    Without `--from` it starts at 2023-05-12, the venue's first payment.

    Example: `tickwalk backfill funding --coin BTC --from 2026-01-01`
    """
    from ingest.backfill.rest.runner import RestRequest

    _over_rest(settings_of(context), RestRequest("funding"), since, until, coin, dry_run=dry_run)


def _archive_command(kind: Kind, about: str) -> None:
    """Add a command that downloads one kind of history from an archive."""

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
    """Download trades hour by hour from the node archive, and derive bars from them.

    One object holds all coins, so naming a few reduces the size of the tables but not the price. Bars are derived for
    widths that divide an hour.

    Example: `tickwalk backfill trades --from 2025-07-29 --to 2025-07-30 --dry-run`
    """,
)
_archive_command(
    "books",
    """Download order books of 20 levels; about two snapshots per second.

    One object holds an hour of one coin.

    Example: `tickwalk backfill books --from 2025-07-29 --to 2025-07-30 --coin BTC --dry-run`
    """,
)
_archive_command(
    "contexts",
    """Download oracle and mark prices, predicted funding and open interest; one row per minute and coin.

    One object holds a day.

    Example: `tickwalk backfill contexts --from 2025-07-29 --to 2025-07-30 --dry-run`
    """,
)


@backfill.command()
def gaps(context: typer.Context, dry_run: DryRun = False) -> None:
    """Fill all gaps that the venue's API can still fill: one-minute bars of the last 3.5 days.

    Finds the bars that are missing, requests their candles, certifies bars with them, and updates the coverage of
    sealed days. The archive is left alone, since it costs money. What is left is listed with its cause.

    Ctrl-C stops between two steps; the same command continues there.

    Example: `tickwalk backfill gaps --dry-run`
    """
    from ingest.replay.recovery import recover
    from serving.day_jobs.days import clock_of
    from serving.day_jobs.repair import repair_range
    from storage.lake.lake import Lake

    settings = settings_of(context)
    clock = clock_of(settings)
    with (
        Lake.open(settings, clock=clock, read_only=dry_run) as lake,
        report_backfill("filling gaps", dry_run=dry_run) as progress,
    ):
        if not dry_run:
            recover(settings, lake)

        def go(stop: asyncio.Event) -> Coroutine[Any, Any, RepairResult]:
            return repair_range(
                lake,
                settings,
                0,
                clock.now_ns(),
                dry_run=dry_run,
                clock=clock,
                stop=stop,
                on_plan=lambda request, plan: progress.plan(plan, about=request.about),
                on_step=lambda _, step, done: progress.step(step, done),
            )

        done: RepairResult = run_until_stopped(go)
    show_repair(done, dry_run=dry_run)


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

    request = BackfillRequest(
        parse_time_ns(since) if since else 0,
        parse_time_ns(until) if until else WallTime().now_ns(),
        tuple(coins or ()),
    )

    def work(lake: Lake, **how: Any) -> Coroutine[Any, Any, BackfillResult]:
        return backfill_over_rest(wanted, request, lake, settings, **how)

    _run(f"downloading {wanted.what}", work, settings, dry_run=dry_run, is_agreed=True)


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

    request = BackfillRequest(parse_time_ns(since), parse_time_ns(until), tuple(coins or ()))

    def work(lake: Lake, **how: Any) -> Coroutine[Any, Any, BackfillResult]:
        return run_backfill([archive_source(kind, lake, settings)], request, lake, settings, **how)

    _run(f"downloading {kind} from the archive", work, settings, dry_run=dry_run, is_agreed=is_agreed)


def _run(label: str, work: Work, settings: Settings, *, dry_run: bool, is_agreed: bool) -> None:
    """Print the plan, check its cost, run the driver, and print the result."""
    from ingest.backfill.pricing import check_cost
    from ingest.replay.recovery import recover
    from storage.lake.lake import Lake

    settings.ensure_home()
    with Lake.open(settings) as lake, report_backfill(label, dry_run=dry_run) as progress:
        if not dry_run:
            recover(settings, lake)

        def planned(plan: BackfillPlan) -> None:
            progress.plan(plan)
            check_cost(plan.cost, settings.archive, is_agreed=is_agreed or dry_run)

        def go(stop: asyncio.Event) -> Coroutine[Any, Any, BackfillResult]:
            return work(lake, dry_run=dry_run, stop=stop, on_plan=planned, on_step=progress.step)

        done: BackfillResult = run_until_stopped(go)
    show_result(done, dry_run=dry_run)
