"""Commands `demo`, `nightly` and `report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serving.cli.context import console, notes, settings_of

if TYPE_CHECKING:
    from storage.settings import Settings


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(demo)
    app.command()(nightly)
    app.command()(report)


def demo(
    context: typer.Context,
    hours: Annotated[float, typer.Option(help="Hours of simulated market to record.")] = 48.0,
    seed: Annotated[int, typer.Option(help="Seed of the simulated market.")] = 7,
) -> None:
    """Run the whole pipeline on a simulated market.

    Records a simulated venue, trains and evaluates models on it, and writes the report. The market has a planted
    signal: the result tests the pipeline and says nothing about the quality of a model. Everything is written to the
    folder `demo` of the home, which is created anew each time.

    Example: `tickwalk demo --hours 48`
    """
    from serving.demo import run_demo

    with notes.status("starting the simulated venue") as status:
        done = run_demo(settings_of(context), hours=hours, seed=seed, on_step=status.update)
    _print_night(done.night, done.verdict, done.report)
    console.print(f"recorded: {done.recorded}", highlight=False)


def nightly(
    context: typer.Context,
    recipe: Annotated[
        str | None,
        typer.Option(help="Name of a recipe, or a TOML file; default: the only one that fits the data."),
    ] = None,
    since: Annotated[str | None, typer.Option(help="Start of the bars, ISO 8601, UTC; default: all.")] = None,
    until: Annotated[str | None, typer.Option(help="End of the bars, exclusive, ISO 8601, UTC.")] = None,
    at: Annotated[int | None, typer.Option(help="Snapshot of the lake to read; default: the newest.")] = None,
    within: Annotated[
        float | None,
        typer.Option(
            help="Hours in which it must end; 0: no limit; default: until the next by airflow.nightly."
        ),
    ] = None,
    runner: Annotated[
        str | None,
        typer.Option(help="What trains the folds: pool, sequential or ray; default: `training.runner`."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes that train at once; 0: as many as fit; default: `training.workers`."),
    ] = None,
) -> None:
    """Retrain, evaluate and report once, without Airflow.

    Runs the same steps as the nightly DAG. Finished steps are kept: an interrupted night continues where it stopped.
    Without a recipe it uses that of the setting `training.recipe`, or else the only one that fits the data;
    `tickwalk recipes check` lists them. Its time is estimated first: a night that would not end before the next one
    has fewer seeds, if the recipe allows, or is refused. A terminal shows its fits while they train, and
    `training.curves = "tensorboard"` keeps their curves.

    Folds are trained in several processes, by default as many as the cores divided by `training.threads`. Results do
    not depend on the runner or on the number of processes, and a process that dies is replaced.

    Example: `tickwalk nightly --recipe candles --since 2026-11-01 --workers 4`
    """
    from serving.cli.night_view import NightView
    from serving.nightly import pick_recipe, run_night
    from storage.clock import iso
    from training.night.artifacts import NightArtifacts
    from training.night.readable_range import cut_of

    settings = _with_runner(settings_of(context), runner, workers)
    if recipe is None:
        chosen = pick_recipe(settings, since=since, until=until, at=at)
        notes.print(f"recipe:   {chosen.recipe} ({chosen.reason})", highlight=False, markup=False)
        recipe = chosen.recipe
    with NightView().shown() as view:
        done = run_night(
            settings,
            recipe=recipe,
            since=since,
            until=until,
            at=at,
            within_s=_limit_s(context, within),
            on_step=view.step,
            on_fit=view.fit,
        )
    console.print(done.folds, highlight=False, markup=False, soft_wrap=True)
    _print_night(done.night, done.verdict, done.report)
    if (cut := cut_of(NightArtifacts.find(settings, done.night))) is not None:
        console.print(
            f"holdout:  bars from {iso(cut[0])} to {iso(cut[1])} are sealed, so the night ends before",
            highlight=False,
        )


def _with_runner(settings: Settings, runner: str | None, workers: int | None) -> Settings:
    """Return the settings with the runner and the number of processes that were given as options."""
    from dataclasses import replace

    training = settings.training
    chosen = training.runner if runner is None else runner
    count = training.workers if workers is None else workers
    return replace(settings, training=replace(training, runner=chosen, workers=count))


def _limit_s(context: typer.Context, hours: float | None) -> float:
    """Return the seconds that a night may take."""
    import math

    from serving.schedule import nightly_interval_s
    from storage.clock import WallTime

    if hours is None:
        return nightly_interval_s(settings_of(context).airflow.nightly, WallTime().now_ns())
    return hours * 3_600 if hours > 0 else math.inf


def report(
    context: typer.Context,
    night: Annotated[str, typer.Argument(help="Id of the night; `tickwalk nights list` lists them.")],
) -> None:
    """Write the report of a night again.

    Prints the path of the page. Example: `tickwalk report candles-20261130-1a2b3c4d`
    """
    from serving.report import write_report

    console.print(str(Path(write_report(settings_of(context), night)).resolve()), highlight=False)


def _print_night(night: str, verdict: dict[str, object], page: str) -> None:
    outcome = {"champion": "promoted", "paper": "paper only"}.get(str(verdict["state"]), "refused")
    console.print(f"night:    {night}", highlight=False)
    console.print(f"verdict:  {outcome}: {verdict['reason']}", highlight=False)
    console.print(f"report:   {Path(page).resolve()}", highlight=False, soft_wrap=True)
