"""Commands that fetch history from the venue's archives: trades, books, contexts. Whoever reads pays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import typer

from serving.commands.common import console, notes, run_until_stopped, settings_of

_From = Annotated[
    str, typer.Option("--from", help="First instant, such as 2025-07-29 or 2025-07-29T14:00:00Z.")
]
_To = Annotated[str, typer.Option("--to", help="Last instant, exclusive.")]
_Coins = Annotated[
    list[str] | None, typer.Option("--coin", help="Coin, byte-exact; all by default. Repeat it.")
]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched and its price, and end.")]
_Yes = Annotated[bool, typer.Option("--yes", help="Pay also what costs more than archive.limit_usd.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to those that fill in the past."""
    app.command()(trades)
    app.command()(books)
    app.command()(contexts)


def trades(
    context: typer.Context,
    from_: _From,
    to: _To,
    coins: _Coins = None,
    dry_run: _DryRun = False,
    yes: _Yes = False,
) -> None:
    """Fetch trades that nodes wrote down, hour by hour, and make bars of them.

    An object holds all coins, so naming a few makes the tables smaller and not the price. Bars are made of widths
    that divide an hour.
    """
    from ingest.history.archived_trades import ArchivedTrades

    _backfill("node_data", ArchivedTrades, from_, to, coins, context=context, dry_run=dry_run, is_agreed=yes)


def books(
    context: typer.Context,
    from_: _From,
    to: _To,
    coins: _Coins = None,
    dry_run: _DryRun = False,
    yes: _Yes = False,
) -> None:
    """Fetch books of 20 levels, an hour and coin at a time; about two snapshots a second."""
    from ingest.history.archived_books import ArchivedBooks

    _backfill("market_data", ArchivedBooks, from_, to, coins, context=context, dry_run=dry_run, is_agreed=yes)


def contexts(
    context: typer.Context,
    from_: _From,
    to: _To,
    coins: _Coins = None,
    dry_run: _DryRun = False,
    yes: _Yes = False,
) -> None:
    """Fetch contexts (oracle, mark, predicted funding, open interest), a day at a time; a row a minute and coin."""
    from ingest.history.archived_contexts import ArchivedContexts

    _backfill(
        "market_data", ArchivedContexts, from_, to, coins, context=context, dry_run=dry_run, is_agreed=yes
    )


def _backfill(
    where: str,
    make: Callable[..., Any],
    from_: str,
    to: str,
    coins: list[str] | None,
    *,
    context: typer.Context,
    dry_run: bool,
    is_agreed: bool,
) -> None:
    """Tell the price of a wish, refuse what is too dear, and hand the source to the driver."""
    from ingest.history.archived_trades import ArchivedTrades
    from ingest.history.cost import check_cost, cost_of
    from ingest.history.objects import Objects
    from ingest.history.steps import Wish
    from ingest.history.stores import open_store
    from storage.clock import WallTime, parse_time_ns
    from storage.lake import Lake

    settings = settings_of(context)
    settings.ensure_home()
    wish = Wish(parse_time_ns(from_), parse_time_ns(to), tuple(coins or ()))
    store = open_store(getattr(settings.archive, where), settings.archive)
    folder = settings.archive_dir / store.where.partition("://")[2]
    objects = Objects(store, folder, retry_s=settings.archive.retry_h * 3_600.0)
    with Lake.open(settings) as lake:
        asks = {"query": lake.query} if make is ArchivedTrades else {}
        source = make(objects, settings, WallTime(), **asks)
        with notes.status("asking the archive what there is"):
            cost = cost_of(asyncio.run(source.steps(wish)), settings.archive)
        console.print(cost.text(), highlight=False, soft_wrap=True)
        if not dry_run:
            check_cost(cost, settings.archive, is_agreed=is_agreed)
        _run(source, wish, lake, settings, dry_run=dry_run)


def _run(source: Any, wish: Any, lake: Any, settings: Any, *, dry_run: bool) -> None:
    """Let the driver take the source's steps, and show what it does."""
    from ingest.history.backfill import run_backfill
    from serving.commands.backfill import show_done, told

    with told("fetching from the archive", dry_run=dry_run) as telling:
        done = run_until_stopped(
            lambda stop: run_backfill(
                [source],
                wish,
                lake,
                settings,
                dry_run=dry_run,
                stop=stop,
                on_plan=telling.plan,
                on_step=telling.step,
            )
        )
    show_done(done, dry_run=dry_run)
