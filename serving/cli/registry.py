"""Commands `models list|show|compare|promote|retire|rollback|pack|rebuild` and `nights list|show|replay`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serving.cli import packs, replays
from serving.cli.context import Format, console, notes, print_rows, settings_of

if TYPE_CHECKING:
    from storage.lake.lake import Lake
    from storage.settings import Settings
    from training.night.night_list import NightDetails
    from training.night.registry import VersionEvent

models = typer.Typer(help="List, compare, promote, retire, roll back and rebuild model versions.")
nights = typer.Typer(
    no_args_is_help=True, help="List retraining nights, show one, and replay them over history."
)

Form = Annotated[Format, typer.Option("--format", help="Output format.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept in the registry.")]
Who = Annotated[str | None, typer.Option(help="Who decided; default: user@host.")]
Expect = Annotated[
    str | None,
    typer.Option(help="Refuse unless this version serves now; default: the one read at the start."),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    packs.add_to(models)
    app.add_typer(models, name="models")
    replays.add_to(nights)
    app.add_typer(nights, name="nights")


@models.callback(invoke_without_command=True)
def models_default(context: typer.Context, form: Form = "table") -> None:
    """List, compare, promote, retire, roll back and rebuild model versions.

    Without a verb it lists them. States: registered, paper, champion, rejected, retired.
    """
    if context.invoked_subcommand is None:
        list_models(context, recipe=None, form=form)


@models.command("list")
def list_models(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Option(help="Only versions of this recipe.")] = None,
    form: Form = "table",
) -> None:
    """List model versions with state, figures and reason, newest last."""
    from storage.lake.lake import Lake
    from training.night.version_list import COLUMNS, FIGURES, list_versions

    settings = settings_of(context)
    with Lake.open(settings, read_only=True) as lake:
        found = list_versions(settings, lake, recipe=recipe)
    print_rows(_for(form, (item.row() for item in found)), form, columns=COLUMNS, numeric={*FIGURES})


@models.command("show")
def show_model(
    context: typer.Context,
    version: Annotated[str, typer.Argument(help="Id of the version.")],
    project: Annotated[
        Path | None,
        typer.Option(help="Write the project folder that its checkpoint stores into this directory."),
    ] = None,
    form: Form = "table",
) -> None:
    """Show a version's figures and every event of its life.

    Example: `tickwalk models show mlp-candles-1a2b3c4d5e6f`
    """
    from storage.clock import iso
    from storage.lake.lake import Lake
    from training.night.project_restore import restore_project
    from training.night.version_list import show_version

    settings = settings_of(context)
    with Lake.open(settings, read_only=True) as lake:
        item, events = show_version(settings, lake, version)
    facts = item.row() | {"night": item.event.night} | dict(item.figures) | dict(item.event.inputs)
    if form == "table":
        for name, value in next(iter(_for(form, [facts]))).items():
            console.print(f"{name:20} {value}", highlight=False, markup=False, soft_wrap=True)
        console.print()
    rows: list[dict[str, Any]] = [
        {
            "at": iso(event.ts_knowable_ns),
            "event": event.event,
            "who": event.who or "gate",
            "reason": event.reason,
        }
        for event in events
    ]
    if form == "json":
        print_rows([facts | {"events": rows}], form, columns=(), numeric=set())
    else:
        print_rows(rows, form, columns=("at", "event", "who", "reason"), numeric=set())
    if project is not None:
        folder = restore_project(settings.models_dir / item.event.artefact, project)
        notes.print(f"project: {folder}", highlight=False, markup=False, soft_wrap=True)


@models.command("compare")
def compare_models(
    context: typer.Context,
    versions: Annotated[list[str], typer.Argument(help="Ids of two or more versions.")],
    form: Form = "table",
) -> None:
    """Compare versions: figures, origin and state, side by side."""
    from storage.lake.lake import Lake
    from training.night.version_list import compare_versions

    settings = settings_of(context)
    with Lake.open(settings, read_only=True) as lake:
        rows = compare_versions(settings, lake, versions)
    print_rows(_for(form, rows), form, columns=("property", *versions), numeric=set())


@models.command("promote")
def promote_model(
    context: typer.Context,
    version: Annotated[str, typer.Argument(help="Id of the version.")],
    reason: Reason,
    who: Who = None,
    expect: Expect = None,
) -> None:
    """Make a version the champion of its recipe by hand.

    Its checkpoint is verified first. Of two promotions at once, one is refused and names the champion.

    Example: `tickwalk models promote mlp-candles-1a2b3c4d5e6f --reason "agreed on Monday"`
    """
    from training.night.registry import find_version, promote_version, read_versions

    def becoming(lake: Lake) -> VersionEvent:
        return find_version(read_versions(lake), version)[-1]

    _change(context, promote_version, version, reason=reason, who=who, expect=expect, becoming=becoming)


@models.command("retire")
def retire_model(
    context: typer.Context,
    version: Annotated[str, typer.Argument(help="Id of the champion.")],
    reason: Reason,
    who: Who = None,
    expect: Expect = None,
) -> None:
    """Take the champion of a recipe out of service; no version serves until another is promoted."""
    from training.night.registry import retire_version

    _change(context, retire_version, version, reason=reason, who=who, expect=expect)


@models.command("rollback")
def roll_back(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="The recipe.")],
    reason: Reason,
    who: Who = None,
    expect: Expect = None,
) -> None:
    """Let the previous champion of a recipe serve again.

    Retired and demoted versions do not return. Example: `tickwalk models rollback candles --reason "wrong fees"`
    """
    from training.night.registry import read_versions, rollback_recipe, serving_history

    def becoming(lake: Lake) -> VersionEvent | None:
        earlier, _ = serving_history(read_versions(lake, recipe=recipe))
        return earlier[-1] if earlier else None

    _change(context, rollback_recipe, recipe, reason=reason, who=who, expect=expect, becoming=becoming)


@nights.command("list")
def list_all_nights(context: typer.Context, form: Form = "table") -> None:
    """List retraining nights with outcome, figures and reason; unfinished ones come last."""
    from storage.lake.lake import Lake
    from training.night.night_list import list_nights
    from training.night.version_list import FIGURES

    settings = settings_of(context)
    with Lake.open(settings, read_only=True) as lake:
        rows = list_nights(settings, lake).to_pylist()
    columns: tuple[str, ...] = ("night", "recipe", "outcome", "model", *FIGURES, "leaks", "reason")
    if form == "table":
        rows = [{name: row[name] for name in columns} for row in rows]
    else:
        columns = tuple(rows[0]) if rows else columns
    print_rows(_for(form, rows), form, columns=columns, numeric={*FIGURES, "leaks"})


@nights.command("show")
def show_night(
    context: typer.Context,
    night: Annotated[str, typer.Argument(help="Id of the night; `tickwalk nights list` lists them.")],
    form: Form = "table",
) -> None:
    """Show a night: its outcome, the figures of every model, the gate's rules, and what was tried on its tests."""
    from training.night.night_list import drawdown_of, read_night
    from training.night.trial_ledger import describe_counts
    from training.night.version_list import FIGURES

    settings = settings_of(context)
    found = read_night(settings, night)
    path = found.folder / "summary.json"
    summary = _json(path) if path.exists() else {}
    tried = _trials_of(settings, night)
    rows = [
        {
            "model": name,
            "role": figures.get("role"),
            "ic": figures.get("test", {}).get("ic", {}).get("value"),
            **{key: figures.get("traded", {}).get(key) for key in ("net", "sharpe")},
            "drawdown": drawdown_of(summary, name),
        }
        for name, figures in found.models.items()
    ]
    if form == "json":
        facts = {"night": night, "outcome": found.outcome, "reason": found.verdict.get("reason")}
        facts |= {"version": found.verdict.get("version"), "models": rows, "rules": list(found.rules)}
        facts["trials"] = tried
        facts |= {"estimate": dict(found.estimate), "seconds": found.seconds}
        print_rows([facts], form, columns=(), numeric=set())
        return
    if form == "table":
        console.print(
            f"{night}: {found.outcome}: {found.verdict.get('reason', 'a step is missing')}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        console.print(f"  time: {_time_of(found)}", highlight=False, markup=False, soft_wrap=True)
        for rule in found.rules:
            mark = "holds" if rule["passed"] else "FAILS"
            console.print(
                f"  {mark}  {rule['name']}: {rule['reason']}", highlight=False, markup=False, soft_wrap=True
            )
        if tried:
            console.print(describe_counts(tried), highlight=False, markup=False, soft_wrap=True)
    print_rows(_for(form, rows), form, columns=("model", "role", *FIGURES), numeric={*FIGURES})


def _trials_of(settings: Settings, night: str) -> dict[str, int]:
    """Return the members that the home has evaluated on a night's tests, by source; none where there is no lake."""
    from storage.errors import LakeError
    from storage.lake.lake import Lake
    from training.night.artifacts import NightArtifacts
    from training.night.trial_ledger import count_on_tests

    try:
        with Lake.open(settings, read_only=True) as lake:
            return count_on_tests(lake, NightArtifacts.find(settings, night))
    except LakeError:
        return {}


def _time_of(found: NightDetails) -> str:
    """Return what a night took, and the estimate that it was opened with."""
    from training.night.time_budget import describe_time

    taken = f"took {describe_time(found.seconds)}"
    if not (plan := found.estimate):
        return f"{taken}; not estimated"
    shrunk = f", {plan['seeds']} of {plan['shrunk_from']} seeds" if plan["shrunk_from"] else ""
    limit = float("inf") if plan["within_s"] is None else plan["within_s"]
    return (
        f"{taken}; estimated {describe_time(plan['seconds'])} of at most {describe_time(limit)}{shrunk} "
        f"({plan['source']})"
    )


def _change(
    context: typer.Context,
    change: Any,
    name: str,
    *,
    reason: str,
    who: str | None,
    expect: str | None,
    becoming: Callable[[Lake], VersionEvent | None] = lambda _: None,
) -> None:
    """Apply a change of the champion, and print the champion that results.

    Args:
        context: of the command.
        change: function of the registry.
        name: of the version or the recipe.
        reason, who, expect: see the options.
        becoming: returns the version that will serve, whose weights are verified first; `None`: none will.
    """
    from functools import partial

    from storage.author import current_author
    from storage.clock import WallTime
    from storage.lake.lake import Lake
    from training.models.checkpoint import load_checkpoint
    from training.night.registry import current_champion

    settings = settings_of(context)
    apply = partial(change, reason=reason, now_ns=WallTime().now_ns(), who=who or current_author())
    if expect is not None:
        apply = partial(apply, expected=expect)
    with Lake.open(settings) as lake:
        if (next_champion := becoming(lake)) is not None:
            load_checkpoint(settings.models_dir / next_champion.artefact, expect={})
        event = apply(lake, name)
        serving = current_champion(lake, event.recipe)
    console.print(
        f"{event.recipe}: {f'the champion is {serving.version}' if serving else 'no version serves'}",
        highlight=False,
        markup=False,
    )


def _for(form: Format, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with figures rounded to fit a terminal; other formats keep all digits."""
    return [
        {
            name: f"{value:.4g}" if form == "table" and isinstance(value, float) else value
            for name, value in row.items()
        }
        for row in rows
    ]


def _json(path: Path) -> dict[str, Any]:
    import json

    value: dict[str, Any] = json.loads(path.read_bytes())
    return value
