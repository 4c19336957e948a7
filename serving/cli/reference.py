"""Commands `reference seed|fees|instruments|universe`."""

from __future__ import annotations

from typing import Annotated

import typer

from serving.cli.context import Format, console, print_table, settings_of
from storage.errors import RangeError

reference = typer.Typer(
    no_args_is_help=True, help="Point-in-time reference data: fees, listings, the universe."
)

At = Annotated[str | None, typer.Option("--at", help="Date or time, UTC; default: now.")]
Form = Annotated[Format, typer.Option("--format", help="Output format.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(reference, name="reference")


@reference.command()
def seed(context: typer.Context) -> None:
    """Write the venues' documented fees into the table `fees`; a second run adds nothing."""
    from storage.lake.fees import seed_fees
    from storage.lake.lake import Lake

    with Lake.open(settings_of(context)) as lake:
        done = seed_fees(lake)
    console.print(f"{done.rows.get('fees', 0)} new rows of fees", highlight=False)


@reference.command()
def fees(context: typer.Context, at: At = None, form: Form = "table") -> None:
    """List the fees in force at a date.

    Example: `tickwalk reference fees --at 2026-01-31`
    """
    from ingest.instruments.reference_data import fees_at
    from storage.lake.lake import Lake

    at_ns = _instant(at)
    with Lake.open(settings_of(context), read_only=True) as lake:
        rows = fees_at(lake, at_ns)
        total = lake.query("SELECT count(*) AS n FROM fees")["n"][0].as_py()
    if not total:
        raise RangeError(
            "the lake holds no fees yet", hint="write the known ones with: tickwalk reference seed"
        )
    print_table(rows, form)


@reference.command()
def instruments(context: typer.Context, at: At = None, form: Form = "table") -> None:
    """List the instruments that were listed at a date, and those delisted before it."""
    from ingest.instruments.reference_data import instruments_at
    from storage.clock import iso
    from storage.lake.lake import Lake

    at_ns = _instant(at)
    with Lake.open(settings_of(context), read_only=True) as lake:
        rows = instruments_at(lake, at_ns)
    if rows.num_rows == 0:
        raise RangeError(
            f"no listing was known at {iso(at_ns)}",
            hint="listings are recorded by: tickwalk record; choose a later --at",
        )
    print_table(rows, form)


@reference.command()
def universe(
    context: typer.Context,
    at: At = None,
    top: Annotated[int, typer.Option(help="Number of instruments.")] = 20,
    days: Annotated[int, typer.Option(help="Days of trading before the date to rank by.")] = 30,
    form: Form = "table",
) -> None:
    """List the most traded instruments at a date, including those delisted later.

    Example: `tickwalk reference universe --at 2026-01-31 --top 50`
    """
    from ingest.instruments.reference_data import universe as run
    from storage.lake.lake import Lake

    at_ns = _instant(at)
    with Lake.open(settings_of(context), read_only=True) as lake:
        rows = run(lake, at_ns, days=days, top=top)
    print_table(rows, form)


def _instant(text: str | None) -> int:
    from storage.clock import WallTime, parse_time_ns

    return parse_time_ns(text) if text else WallTime().now_ns()
