"""Command `certify`."""

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
    coin: Annotated[str | None, typer.Option(help="One instrument or coin; default: all.")] = None,
    since: Annotated[str | None, typer.Option("--from", help="Start.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="End, exclusive.")] = None,
    form: Annotated[Format, typer.Option("--format", help="Output format.")] = "table",
) -> None:
    """Compare recorded bars with the venue's candles.

    Prints the share of certified bars per coin. A bar that agrees gets a revision marked `certified`; one that differs
    is listed by `tickwalk gaps --differ`, and its prints are requested from the archive. The newest three hours are
    left to the recorder, which certifies them itself. A second run adds nothing.

    Example: `tickwalk certify --coin BTC --from 2026-11-01`
    """
    from ingest.backfill.certify import certify as run
    from ingest.replay.recovery import recover
    from storage.clock import parse_time_ns
    from storage.lake.lake import Lake

    from_ns = parse_time_ns(since) if since else 0
    to_ns = parse_time_ns(until) if until else None
    if to_ns is not None and to_ns <= from_ns:
        raise RangeError(f"--to {until} is not after --from {since}", hint="swap them")
    settings = settings_of(context)
    with Lake.open(settings) as lake, notes.status("comparing bars with candles"):
        recover(settings, lake)
        done = run(lake, settings, from_ns=from_ns, to_ns=to_ns, instrument=coin)
    if done.shares.num_rows == 0:
        raise RangeError(
            "the lake holds no watched bar in that range",
            hint="record or load some: tickwalk record, or tickwalk replay FILE",
        )
    print_table(done.shares, form)
    if form == "table":
        console.print(
            f"compared {done.compared:,} bars now: {done.certified:,} certified, {done.differ:,} differ",
            highlight=False,
        )
