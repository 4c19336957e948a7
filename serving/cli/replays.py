"""Command `nights replay`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serving.cli.context import Format, console, notes, print_rows, settings_of
from serving.cli.progress import night_progress

if TYPE_CHECKING:
    from training.replay.policy import ReplayPlan


def add_to(group: typer.Typer) -> None:
    """Add the command to the group `nights`."""
    group.command("replay")(replay_nights)


def replay_nights(
    context: typer.Context,
    since: Annotated[str, typer.Option("--from", help="Time of the first night, ISO 8601, UTC.")],
    to: Annotated[
        str, typer.Option("--to", help="End of the range, exclusive; the last night serves until it.")
    ],
    recipe: Annotated[
        str | None,
        typer.Option(help="Name of a recipe, or a TOML file; default: the only one that fits the lake."),
    ] = None,
    every: Annotated[str, typer.Option(help="Time between nights, such as 12h, 1d or 1w.")] = "1d",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print how many nights and folds would be trained.")
    ] = False,
    form: Annotated[Format, typer.Option("--format", help="Output format.")] = "table",
) -> None:
    """Replay retraining, gate, promotion and demotion over history, and report what the champions earned.

    Each night knows only what was known at its time. The replay has a registry and evidence of its own; the home's stay
    as they are. Ctrl-C is safe: the same command continues at the first unfinished night.

    Example: `tickwalk nights replay --recipe candles --from 2026-09-01 --to 2026-11-01 --every 1d`
    """
    from serving.report.replay_page import write_replay
    from storage.clock import parse_time_ns
    from training.replay.earnings import PATHS
    from training.replay.policy import plan_replay, replay_policy
    from training.replay.schedule import Schedule, parse_every

    settings = settings_of(context)
    schedule = Schedule(parse_time_ns(since), parse_time_ns(to), parse_every(every))
    if dry_run:
        _print_plan(plan_replay(settings, recipe=recipe, schedule=schedule), form)
        return
    try:
        with night_progress("opening the replay") as advance:
            done = replay_policy(settings, recipe=recipe, schedule=schedule, on_night=advance)
    except KeyboardInterrupt:
        notes.print("interrupted; finished nights are kept, and the same command continues")
        raise
    page = write_replay(settings, done.replay)
    names = ("net", "sharpe", "drawdown", "fills", "periods")
    figures = done.result["figures"]
    rows: list[dict[str, Any]] = [
        {"path": path, **{name: figures[path].get(name) for name in names}} for path in PATHS
    ]
    if form == "json":
        facts = {"replay": done.replay, **done.result["counts"], "served_share": done.result["served_share"]}
        print_rows([facts | {"figures": rows}], form, columns=(), numeric=set())
        return
    if form == "table":
        _print_counts(done.replay, done.result)
        rows = [
            {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()}
            for row in rows
        ]
    print_rows(rows, form, columns=("path", *names), numeric={*names})
    if form == "table":
        console.print(f"report:   {Path(page).resolve()}", highlight=False, soft_wrap=True)


def _print_counts(replay: str, result: dict[str, Any]) -> None:
    counts = result["counts"]
    named = ", ".join(
        f"{counts[name]} {name}" for name in ("promoted", "renewed", "refused", "demoted", "failed")
    )
    console.print(f"replay:   {replay}", highlight=False)
    console.print(f"nights:   {counts['nights']}: {named}", highlight=False)
    console.print(f"served:   {result['served_share']:.1%} of the time", highlight=False)


def _print_plan(plan: ReplayPlan, form: Format) -> None:
    if form != "table":
        row = {name: getattr(plan, name) for name in ("replay", "nights", "finished", "folds", "fits")}
        print_rows([row], form, columns=tuple(row), numeric=set())
        return
    console.print(f"replay:   {plan.replay}", highlight=False)
    console.print(f"nights:   {plan.nights}, of which {plan.finished} are finished", highlight=False)
    console.print(
        f"folds:    {plan.folds}, trained once each; {plan.fits} fits with a refit a night, less those that nights "
        "of this home have trained",
        highlight=False,
        soft_wrap=True,
    )
