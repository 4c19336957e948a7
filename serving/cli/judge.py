"""Command `judge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serving.cli.context import console, notes, settings_of
from serving.cli.progress import step_progress


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(judge)


def judge(
    context: typer.Context,
    predictions: Annotated[Path, typer.Argument(help="Parquet or CSV file of predictions.")],
    recipe: Annotated[str, typer.Option(help="Name of a recipe, or a TOML file.")],
    since: Annotated[str | None, typer.Option(help="Start of the bars, ISO 8601, UTC; default: all.")] = None,
    until: Annotated[str | None, typer.Option(help="End of the bars, exclusive, ISO 8601, UTC.")] = None,
    at: Annotated[int | None, typer.Option(help="Snapshot of the lake to read; default: the newest.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the predictions; default: that of the file.")
    ] = None,
) -> None:
    """Judge predictions that were made elsewhere.

    The file has columns instrument, ts_open and prediction. It is judged on the recipe's folds, costs, leak checks and
    gate, beside the recipe's controls. All files of one name are one lineage; nothing is promoted, since there are no
    weights. The exit code is 1 if a leak check fails.

    Example: `tickwalk judge predictions.parquet --recipe candles --name my-lstm`
    """
    from serving.judging import run_judgement

    with step_progress("reading the predictions", 1) as advance:
        done = run_judgement(
            settings_of(context),
            predictions,
            recipe=recipe,
            name=name,
            since=since,
            until=until,
            at=at,
            on_step=advance,
        )
    console.print(done.folds, highlight=False, markup=False, soft_wrap=True)
    for line in done.notes:
        notes.print(line, highlight=False, markup=False, soft_wrap=True)
    for rule in done.verdict["rules"]:
        if not rule["passed"]:
            console.print(f"failed:   {rule['name']}: {rule['reason']}", highlight=False, soft_wrap=True)
    console.print(f"judged:   {done.night}", highlight=False)
    console.print(
        f"verdict:  {'refused' if done.verdict['state'] == 'rejected' else 'passed'}: {done.verdict['reason']}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"report:   {Path(done.report).resolve()}", highlight=False, soft_wrap=True)
    if done.is_leaking:
        raise typer.Exit(1)
