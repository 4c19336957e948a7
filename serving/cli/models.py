"""Commands that make and judge models: demo, nightly, models, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serving.cli.context import Format, console, notes, print_table, settings_of, step_progress


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(demo)
    app.command()(nightly)
    app.command()(models)
    app.command()(report)


def demo(
    context: typer.Context,
    hours: Annotated[float, typer.Option(help="Hours of simulated market to record.")] = 48.0,
    seed: Annotated[int, typer.Option(help="Seed of the simulated market.")] = 7,
) -> None:
    """Record a simulated venue, retrain on it, judge the model, and write the report.

    The market is simulated with a planted signal: it proves the plumbing and says nothing of any model's quality.
    Everything lies below the home's folder `demo`, which is made anew each time.
    """
    from serving.demo import run_demo

    with notes.status("starting the simulated venue") as status:
        done = run_demo(settings_of(context), hours=hours, seed=seed, on_step=status.update)
    _print_night(done.night, done.verdict, done.report)
    console.print(f"recorded: {done.recorded}", highlight=False)


def nightly(
    context: typer.Context,
    recipe: Annotated[str, typer.Option(help="Name of a recipe, or a TOML file.")] = "candles",
    since: Annotated[str | None, typer.Option(help="First bar, ISO 8601, UTC.")] = None,
    until: Annotated[str | None, typer.Option(help="End of the bars, ISO 8601, UTC.")] = None,
    at: Annotated[
        int | None, typer.Option(help="Snapshot of the lake to read; the newest by default.")
    ] = None,
) -> None:
    """Retrain, judge and report, as the nightly DAG does, without Airflow.

    Steps that are done already are kept: a night that was cut short goes on where it was.
    """
    from serving.nightly import run_night

    with step_progress("opening the night", 1) as advance:
        done = run_night(
            settings_of(context), recipe=recipe, since=since, until=until, at=at, on_step=advance
        )
    console.print(done.folds, highlight=False, markup=False, soft_wrap=True)
    _print_night(done.night, done.verdict, done.report)


def models(
    context: typer.Context,
    form: Annotated[Format, typer.Option("--format", help="How to print.")] = "table",
) -> None:
    """List the ledger of model versions, newest last: what was registered, promoted, refused."""
    from storage.lake.lake import Lake

    query = """
        SELECT make_timestamptz(ts_knowable_ns // 1000) AS at, recipe, version, model, event, reason
        FROM versions ORDER BY ts_knowable_ns, version, event
    """
    with Lake.open(settings_of(context), read_only=True) as lake:
        print_table(lake.query(query), form)


def report(
    context: typer.Context,
    night: Annotated[str, typer.Argument(help="The night's id; `tickwalk models` names them.")],
) -> None:
    """Write a night's page again and print where it lies."""
    from serving.report import write_report

    console.print(str(Path(write_report(settings_of(context), night)).resolve()), highlight=False)


def _print_night(night: str, verdict: dict[str, object], page: str) -> None:
    is_promoted = bool(verdict["promoted"])
    console.print(f"night:    {night}", highlight=False)
    console.print(
        f"verdict:  {'promoted' if is_promoted else 'refused'}: {verdict['reason']}", highlight=False
    )
    console.print(f"report:   {Path(page).resolve()}", highlight=False, soft_wrap=True)
