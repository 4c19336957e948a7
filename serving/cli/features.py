"""Commands for features: what there is, what changed, build, prove, health."""

from __future__ import annotations

import itertools
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import pyarrow as pa
import typer

from serving.cli.context import Format, console, day_progress, notes, print_table, settings_of, step_progress
from storage.errors import LeakError, SettingsError

if TYPE_CHECKING:
    from features.monitoring.health import FeatureHealth
    from serving.feature_jobs.selection import BarSelection

features = typer.Typer(
    no_args_is_help=True,
    help="What features there are, what changed, whether they look ahead; build them, or follow the recorder.",
)

Set = Annotated[
    str, typer.Argument(metavar="SET", help="A feature set; `tickwalk features list` names them.")
]
Width = Annotated[str | None, typer.Option(help="Width of the bars; by default the first of bars.widths.")]
Since = Annotated[str | None, typer.Option(help="First bar, ISO 8601, UTC.")]
Until = Annotated[str | None, typer.Option(help="End of the bars, ISO 8601, UTC.")]
At = Annotated[int | None, typer.Option(help="Snapshot of the lake to read; the newest by default.")]
Instruments = Annotated[
    list[str] | None, typer.Option("--instrument", help="An id; may be given several times.")
]
Form = Annotated[Format, typer.Option("--format", help="How to print.")]
Share = Annotated[
    float, typer.Option("--newest", help="Share of the range, the newest, that is held against the rest.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(features, name="features")


@features.command("list")
def list_features(
    feature_set: Annotated[str | None, typer.Argument(metavar="[SET]", help="Only this set.")] = None,
    form: Form = "table",
) -> None:
    """List the feature sets, or the features of one with unit, lookback, inputs and source."""
    from serving.feature_jobs.catalog import list_rows, list_sets

    if feature_set is None and form == "table":
        print_table(list_sets(), form)
        return
    print_table(list_rows(feature_set, is_short=form == "table"), form)


@features.command()
def show(
    feature: Annotated[str, typer.Argument(help="Its name; `tickwalk features list` names them.")],
    code: Annotated[bool, typer.Option("--code", help="Print the source of all that it reaches.")] = False,
) -> None:
    """Show all about one feature: formula, missing policy, inputs, the code it reaches, its fingerprint."""
    from serving.feature_jobs.catalog import describe

    for line in describe(feature, with_code=code):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


@features.command()
def diff(
    context: typer.Context,
    what: Annotated[str, typer.Argument(help="A night's id, a block, or an edition's file.")],
    other: Annotated[
        str | None, typer.Argument(help="Another of them; by default the code as it stands here.")
    ] = None,
    form: Form = "table",
) -> None:
    """Tell which features came, went or changed since a night or a block was made, and through which function."""
    from features.versioning.set_diff import differences
    from serving.feature_jobs.selection import edition_now, find_edition

    settings = settings_of(context)
    old = find_edition(settings, what)
    new = find_edition(settings, other) if other else edition_now(old["feature_set"])
    found = differences(old, new)
    if not found:
        console.print(f"the same {len(new['features'])} features, by the same code", highlight=False)
        return
    rows = [{"feature": item.feature, "change": item.change, "what": item.what} for item in found]
    print_table(pa.Table.from_pylist(rows), form)


@features.command()
def build(
    context: typer.Context,
    feature_set: Set,
    to: Annotated[
        Path | None,
        typer.Option(help="Write one block there; refused where its health is not fit to learn from."),
    ] = None,
    width: Width = None,
    since: Since = None,
    until: Until = None,
    at: At = None,
    instrument: Instruments = None,
    newest: Share = 0.2,
    wider: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WIDTH",
            help="With --to: join the set's features of wider bars too, such as 1h, each as of the last wider bar that "
            "was over by a close, as NAME@1h, and its age; may be given several times.",
        ),
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Write the block, or end with 0, even where it is refused.")
    ] = False,
) -> None:
    """Build a set over a range of the lake: the days that changed, below the home; or one block, with --to.

    Days are kept as they are finished: Ctrl-C leaves them, and the same command goes on from there. When all are
    built the newest of them are judged, as many as fit into memory; where a limit refuses them the command ends with 1
    and says why, and the days stay.
    """
    from serving.feature_jobs.build import build_to
    from serving.feature_jobs.selection import BarSelection, refuse_share

    settings = settings_of(context)
    refuse_share(newest)
    bars = BarSelection.of(
        settings, feature_set, width=width, since=since, until=until, at=at, instruments=instrument
    )
    if to is None:
        if wider:
            raise SettingsError(
                "--wider joins features into one file, and none was named", hint="add --to FILE.safetensors"
            )
        _build_days(bars, newest=newest, anyway=anyway)
        return
    with step_progress("reading bars", 4 + len(wider or ())) as advance:
        said = build_to(to, bars, wider=wider or (), newest=newest, anyway=anyway, on_step=advance)
    console.print(said, highlight=False, soft_wrap=True)


def _build_days(bars: BarSelection, *, newest: float, anyway: bool) -> None:
    """Build the days of a home's store, and say what was done and found."""
    from serving.feature_jobs.build import build_days, judge_days, told_days

    days = 0
    try:
        with day_progress("building days") as draw:

            def on_day(done: int, total: int, rows: int) -> None:
                nonlocal days
                days = done
                draw(done, total, rows)

            built = build_days(bars, on_day=on_day)
    except KeyboardInterrupt:
        counted = f"{days} day{'' if days == 1 else 's'}"
        notes.print(f"stopped: {counted} done and kept; the same command goes on from there", soft_wrap=True)
        raise
    console.print(told_days(built), highlight=False, soft_wrap=True)
    with notes.status("judging the newest days"):
        judged, health = judge_days(bars, built, newest=newest)
    _tell_findings(health)
    refused = len(health.refusals)
    outcome = "refused" if refused else "fit to learn from"
    warnings = len(health.findings) - refused
    console.print(
        f"judged the newest {judged} of its days: {outcome}, {refused} refusals, {warnings} warnings",
        highlight=False,
        soft_wrap=True,
    )
    if refused and not anyway:
        raise typer.Exit(1)


def _tell_findings(health: FeatureHealth) -> None:
    for item in health.findings:
        told = (
            f"{item.verdict}: {item.feature} of {', '.join(item.instruments[:3])} {item.what}; {item.reason}"
        )
        notes.print(told, highlight=False, markup=False, soft_wrap=True)


@features.command()
def follow(
    context: typer.Context,
    feature_set: Set,
    width: Width = None,
    instrument: Instruments = None,
    patience: Annotated[
        float,
        typer.Option(
            help="Seconds that a bar is waited for once its grace is over; then what is missing is unknown. Fewer than "
            "a recorder takes to commit (record.commit_s, and a moment) leave bars unknown that were recorded."
        ),
    ] = 30.0,
    bars: Annotated[int | None, typer.Option("--bars", min=1, help="End after so many bars.")] = None,
    form: Annotated[
        Literal["line", "json"],
        typer.Option("--format", help="A line a bar, or all values as a JSON object an instrument."),
    ] = "line",
) -> None:
    """Compute a set beside the recorder: of each bar as it closes, the features that a build gives it later.

    It goes on until Ctrl-C. It reads the home's lake and writes nothing.
    """
    from serving.feature_jobs.follow import follow_bars
    from serving.feature_jobs.selection import BarSelection

    settings = settings_of(context)
    asked = BarSelection.of(
        settings, feature_set, width=width, since=None, until=None, at=None, instruments=instrument
    )
    for told in itertools.islice(follow_bars(asked, patience_s=patience, stop=threading.Event()), bars):
        lines = [told.line()] if form == "line" else [json.dumps(record) for record in told.records()]
        typer.echo("\n".join(lines))


@features.command()
def prove(
    context: typer.Context,
    feature_set: Set,
    width: Width = None,
    since: Since = None,
    until: Until = None,
    at: At = None,
    instrument: Instruments = None,
    seed: Annotated[int, typer.Option(help="Seed of the cuts, the order and what replaces values.")] = 0,
) -> None:
    """Prove on the lake's newest bars that no feature of a set looks ahead; ends with 1, naming it, where one does."""
    from serving.feature_jobs.selection import BarSelection, prove_set

    settings = settings_of(context)
    bars = BarSelection.of(
        settings, feature_set, width=width, since=since, until=until, at=at, instruments=instrument
    )
    try:
        with notes.status("proving"):
            lines = prove_set(bars, seed=seed)
    except LeakError as error:
        notes.print(f"leak: {error.message}", style="bold red", highlight=False, markup=False, soft_wrap=True)
        notes.print(f"next: {error.hint}", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


@features.command()
def health(
    context: typer.Context,
    feature_set: Set,
    width: Width = None,
    since: Since = None,
    until: Until = None,
    at: At = None,
    instrument: Instruments = None,
    newest: Share = 0.2,
    page: Annotated[Path | None, typer.Option(help="Also draw it, as one HTML file.")] = None,
    form: Form = "table",
) -> None:
    """Judge a set on the lake's bars: coverage, nulls, drift; ends with 1 where a limit refuses it."""
    from features.build import build_features
    from serving.feature_jobs.selection import BarSelection, health_of, health_rows, refuse_share
    from serving.report.page import write_features

    settings = settings_of(context)
    refuse_share(newest)
    bars = BarSelection.of(
        settings, feature_set, width=width, since=since, until=until, at=at, instruments=instrument
    )
    with notes.status("building features"):
        panel = bars.load()
        found = health_of(build_features(panel, feature_set), panel, newest=newest)
    print_table(health_rows(found, is_short=form == "table"), form)
    _tell_findings(found)
    if page is not None:
        console.print(str(write_features(page, found).resolve()), highlight=False, soft_wrap=True)
    if found.refusals:
        raise typer.Exit(1)
