"""Command `explain`."""

from __future__ import annotations

from typing import Annotated

import typer

from serving.cli.context import console, settings_of


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(explain)


def explain(
    context: typer.Context,
    instrument: Annotated[str, typer.Argument(help="Instrument id, or a coin if it is unambiguous.")],
    time: Annotated[str, typer.Argument(help="Time inside the bar, UTC, such as 2026-11-01T12:34.")],
    width: Annotated[
        str | None, typer.Option(help="Width of the bar; default: the first of bars.widths.")
    ] = None,
    feature: Annotated[
        str | None,
        typer.Option(help="Trace this feature's value instead: value, mask, input window, knowable time."),
    ] = None,
) -> None:
    """Trace a bar, or a feature's value, back to its source rows.

    For a bar: its revisions, the prints behind each number, their frames in the journal, and the coverage. With
    `--feature`: the feature's value at that bar and the rows it was computed from.

    Example: `tickwalk explain BTC 2026-11-01T12:34 --feature log_return_1`
    """
    from storage.clock import parse_time_ns
    from storage.lake.lake import Lake

    settings, at_ns = settings_of(context), parse_time_ns(time)
    bar_width = width or settings.bars.width
    with Lake.open(settings, read_only=True) as lake:
        if feature is None:
            from serving.explain.bars import explain as lines_of

            lines = lines_of(lake, settings, name=instrument, at_ns=at_ns, width=bar_width)
        else:
            from serving.explain.features import explain_cell

            lines = explain_cell(
                lake,
                feature=feature,
                name=instrument,
                at_ns=at_ns,
                width=bar_width,
                grace_ns=settings.bars.grace_ns,
            )
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
