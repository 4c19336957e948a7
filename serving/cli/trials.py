"""Command `trials`: every member that was evaluated on test rows."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from serving.cli.context import Format, print_rows, settings_of

_NARROW = ("at", "source", "run", "model", "seed", "tests_since", "tests_until", "net", "sharpe", "who")
_NUMERIC = frozenset({"seed", "instruments", "net", "sharpe"})


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("trials")(list_all)


def list_all(
    context: typer.Context,
    source: Annotated[
        Literal["night", "judge", "notebook"] | None,
        typer.Option(help="Only trials of nights, of judged files of predictions, or of notebooks."),
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Only trials of this recipe.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only with a test after this time, ISO 8601, UTC; default: all.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Only with a test before this time, ISO 8601, UTC.")
    ] = None,
    instrument: Annotated[
        list[str] | None, typer.Option(help="Only on this instrument id; may be repeated.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="Output format.")] = "table",
) -> None:
    """List every model that was evaluated on test rows.

    A member (model and seed of a recipe over a range of tests) is listed once, with its net return and Sharpe ratio,
    whoever evaluates the same predictions again; the newest come last. The more were tried on the same days, the less
    the best of them says. CSV and JSON have more columns.

    Example: `tickwalk trials --source notebook --since 2026-11-01`
    """
    from storage.clock import parse_time_ns
    from storage.lake.lake import Lake
    from training.night.trial_list import COLUMNS, list_trials

    with Lake.open(settings_of(context), read_only=True) as lake:
        rows = list_trials(
            lake,
            source=source,
            recipe=recipe,
            since_ns=parse_time_ns(since) if since else None,
            until_ns=parse_time_ns(until) if until else None,
            instruments=instrument or (),
        )
    if form == "table":
        rows = [
            {name: f"{value:.4g}" if isinstance(value := row[name], float) else value for name in _NARROW}
            for row in rows
        ]
    print_rows(rows, form, columns=_NARROW if form == "table" else COLUMNS, numeric=_NUMERIC)
