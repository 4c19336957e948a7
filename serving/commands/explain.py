"""The command that explains one bar."""

from __future__ import annotations

from typing import Annotated

import typer

from serving.commands.common import console, settings_of


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(explain)


def explain(
    context: typer.Context,
    instrument: Annotated[str, typer.Argument(help="An instrument id, or a coin where it is unambiguous.")],
    time: Annotated[str, typer.Argument(help="An instant in the bar, UTC, as in 2026-11-01T12:34.")],
    width: Annotated[
        str | None, typer.Option(help="Width of the bar; by default the first of bars.widths.")
    ] = None,
) -> None:
    """Explain one bar: its revisions, the prints behind each number, their frames in the journal, what was watched."""
    from serving.explain import explain as lines_of
    from storage.clock import parse_time_ns
    from storage.lake import Lake

    settings = settings_of(context)
    with Lake.open(settings, read_only=True) as lake:
        lines = lines_of(
            lake, settings, name=instrument, at_ns=parse_time_ns(time), width=width or settings.bars.width
        )
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
