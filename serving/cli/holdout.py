"""Commands `holdout seal|open|status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from serving.cli.context import Format, console, notes, print_rows, settings_of

if TYPE_CHECKING:
    from training.night.holdout_list import RangeUse

holdout = typer.Typer(
    no_args_is_help=True, help="Seal a range of time that no recipe may read, open it, and show its state."
)
Reason = Annotated[str, typer.Option(help="Why; it is kept for good.")]
Who = Annotated[str | None, typer.Option(help="Who decided; default: user@host.")]
_SHOWN = 3
"""Names of runs that a sentence lists."""


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(holdout, name="holdout")


@holdout.command("seal")
def seal(
    context: typer.Context,
    since: Annotated[str, typer.Option(help="Start of the range, ISO 8601, UTC.")],
    until: Annotated[str, typer.Option(help="End of the range, exclusive, ISO 8601, UTC.")],
    reason: Reason,
    who: Who = None,
) -> None:
    """Seal a range of time, so that no recipe reads it until it is opened.

    Nights end before it or begin after it, and their features, labels, funding and prices see nothing of it. Nights
    that have already tested on it are named. The range may lie in the future.

    Example: `tickwalk holdout seal --since 2026-11-01 --until 2026-12-01 --reason "for the last word"`
    """
    from storage.author import current_author
    from storage.clock import WallTime, parse_time_ns
    from storage.lake.lake import Lake
    from training.night.holdout_list import find_use
    from training.night.holdouts import opened_before, read_holdouts, seal_holdout

    settings = settings_of(context)
    with Lake.open(settings) as lake:
        event = seal_holdout(
            lake,
            parse_time_ns(since),
            parse_time_ns(until),
            reason=reason,
            who=who or current_author(),
            now_ns=WallTime().now_ns(),
        )
        use = find_use(settings, lake, event.since_ns, event.until_ns)
        before = opened_before(read_holdouts(lake), event)
    console.print(f"sealed: {event.span}", highlight=False, markup=False)
    _warn(use)
    if before:
        notes.print("it had been open before: see tickwalk holdout status", highlight=False, markup=False)


@holdout.command("open")
def open_range(
    context: typer.Context,
    reason: Reason,
    since: Annotated[
        str | None, typer.Option(help="Start of the range, where several are sealed, ISO 8601, UTC.")
    ] = None,
    who: Who = None,
) -> None:
    """Open a sealed range; it is recorded, and cannot be undone.

    A range that is sealed again stays known as one that had been open.

    Example: `tickwalk holdout open --reason "the recipe is final"`
    """
    from storage.author import current_author
    from storage.clock import WallTime, parse_time_ns
    from storage.lake.lake import Lake
    from training.night.holdouts import open_holdout

    with Lake.open(settings_of(context)) as lake:
        event = open_holdout(
            lake,
            since_ns=parse_time_ns(since) if since else None,
            reason=reason,
            who=who or current_author(),
            now_ns=WallTime().now_ns(),
        )
    console.print(f"opened: {event.span}", highlight=False, markup=False)


@holdout.command("status")
def status(
    context: typer.Context,
    form: Annotated[Format, typer.Option("--format", help="Output format.")] = "table",
) -> None:
    """Show every range that was ever sealed: its state, who sealed or opened it and why, and what has seen its days.

    `tested_by` are nights, files and notebooks with a test in it, `read_by` nights that only trained on it; JSON names
    all of them.

    Example: `tickwalk holdout status --format json`
    """
    from storage.lake.lake import Lake
    from training.night.holdout_list import COLUMNS, list_holdouts

    settings = settings_of(context)
    with Lake.open(settings, read_only=True) as lake:
        rows = list_holdouts(settings, lake)
    if form != "json":
        rows = [
            row | {name: len(row[name]) if form == "csv" else _names(row[name]) for name in COLUMNS[-3:]}
            for row in rows
        ]
    print_rows(rows, form, columns=COLUMNS, numeric=set())
    if form == "table" and not rows:
        notes.print(
            "no range was ever sealed; seal one with: tickwalk holdout seal --help",
            highlight=False,
            markup=False,
        )


def _warn(use: RangeUse) -> None:
    """Say which runs have already seen a range."""
    if use.tested:
        notes.print(
            f"already tested on it: {_names(use.tested)}; what they showed is known",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    if use.read:
        notes.print(
            f"already trained on it: {_names(use.read)}", highlight=False, markup=False, soft_wrap=True
        )


def _names(runs: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(runs) - _SHOWN} more" if len(runs) > _SHOWN else ""
    return f"{', '.join(runs[:_SHOWN])}{more}"
