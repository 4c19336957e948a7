"""The command that compares bars with the venue's own candles."""

from __future__ import annotations

from typing import Annotated

import typer

from serving.cli.context import Format, console, notes, print_table, settings_of
from storage.errors import RangeError


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(certify)


def certify(
    context: typer.Context,
    coin: Annotated[str | None, typer.Option(help="One instrument or coin; all by default.")] = None,
    since: Annotated[str | None, typer.Option("--from", help="Bars from this time on.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Bars before this time.")] = None,
    form: Annotated[Format, typer.Option("--format", help="How to print.")] = "table",
) -> None:
    """Compare bars that we watched with the candles in the lake, and say which share of each coin's is certified.

    A bar that agrees gets a revision that says `certified`; one that differs stands in `tickwalk gaps --differ`, and
    its prints are asked of the archive. The newest three hours are the recorder's, which asks by itself.
    A second run adds nothing.
    """
    from ingest.backfill.certify import certify as run
    from storage.clock import parse_time_ns
    from storage.lake.lake import Lake

    from_ns = parse_time_ns(since) if since else 0
    to_ns = parse_time_ns(until) if until else None
    if to_ns is not None and to_ns <= from_ns:
        raise RangeError(f"--to {until} is not after --from {since}", hint="exchange them")
    settings = settings_of(context)
    with Lake.open(settings) as lake, notes.status("comparing bars with candles"):
        done = run(lake, settings, from_ns=from_ns, to_ns=to_ns, instrument=coin)
    if done.shares.num_rows == 0:
        raise RangeError(
            "the lake holds no bar of that stretch that was watched",
            hint="bring some in with: tickwalk record, or tickwalk replay FILE",
        )
    print_table(done.shares, form)
    if form == "table":
        console.print(
            f"compared {done.compared:,} bars now: {done.certified:,} certified, {done.differ:,} differ",
            highlight=False,
        )
