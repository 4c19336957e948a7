"""Commands `features list|show|diff|build|follow|prove|health|report`."""

from __future__ import annotations

import itertools
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from serving.cli.context import Format, console, notes, print_table, settings_of
from serving.cli.progress import day_progress, step_progress
from storage.errors import LeakError, SettingsError

if TYPE_CHECKING:
    from features.monitoring.health import FeatureHealth
    from serving.feature_jobs.selection import BarSelection

features = typer.Typer(
    no_args_is_help=True,
    help="List, build, test and follow feature sets.",
)

Set = Annotated[str, typer.Argument(metavar="SET", help="Feature set; `tickwalk features list` lists them.")]
Width = Annotated[str | None, typer.Option(help="Width of the bars; default: the first of bars.widths.")]
Since = Annotated[str | None, typer.Option(help="Start of the bars, ISO 8601, UTC; default: all.")]
Until = Annotated[str | None, typer.Option(help="End of the bars, exclusive, ISO 8601, UTC.")]
At = Annotated[int | None, typer.Option(help="Snapshot of the lake to read; default: the newest.")]
Instruments = Annotated[
    list[str] | None, typer.Option("--instrument", help="Instrument id; repeatable; default: all.")
]
Form = Annotated[Format, typer.Option("--format", help="Output format.")]
Share = Annotated[
    float, typer.Option("--newest", help="Newest share of the range, compared with the rest for drift.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(features, name="features")


@features.command("list")
def list_features(
    feature_set: Annotated[
        str | None, typer.Argument(metavar="[SET]", help="Feature set; default: all.")
    ] = None,
    form: Form = "table",
) -> None:
    """List the feature sets, or the features of one set with unit, lookback, inputs and source.

    Example: `tickwalk features list live`
    """
    from serving.feature_jobs.catalog import list_rows, list_sets

    if feature_set is None and form == "table":
        print_table(list_sets(), form)
        return
    print_table(list_rows(feature_set, is_short=form == "table"), form)


@features.command()
def show(
    feature: Annotated[
        str, typer.Argument(help="Name of the feature; `tickwalk features list SET` lists them.")
    ],
    code: Annotated[
        bool, typer.Option("--code", help="Also print the source of every function it calls.")
    ] = False,
) -> None:
    """Show one feature: formula, missing policy, inputs, functions it calls, fingerprint.

    Example: `tickwalk features show log_return_1 --code`
    """
    from serving.feature_jobs.catalog import describe

    for line in describe(feature, with_code=code):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


@features.command()
def diff(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(help="Id of a night, a file that `features build --to` wrote, or its edition."),
    ],
    other: Annotated[str | None, typer.Argument(help="Another one; default: the current code.")] = None,
    form: Form = "table",
) -> None:
    """Show the features added, removed or changed since a night or a build, and the function that changed.

    Example: `tickwalk features diff features.safetensors`
    """
    import pyarrow as pa

    from features.versioning.set_diff import differences
    from serving.feature_jobs.selection import current_edition, find_edition

    settings = settings_of(context)
    old = find_edition(settings, what)
    new = find_edition(settings, other) if other else current_edition(old["feature_set"])
    found = differences(old, new)
    if not found:
        console.print(f"no difference: {len(new['features'])} features with the same code", highlight=False)
        return
    rows = [{"feature": item.feature, "change": item.change, "what": item.what} for item in found]
    print_table(pa.Table.from_pylist(rows), form)


@features.command()
def build(
    context: typer.Context,
    feature_set: Set,
    to: Annotated[
        Path | None,
        typer.Option(help="Write one file there instead; refused if its health check fails."),
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
            help="With --to: also join the set's features of wider bars, such as 1h, as NAME@1h with their age; each "
            "as of the last wider bar that was closed; repeatable.",
        ),
    ] = None,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Write the file, or exit with code 0, even if the health check fails."),
    ] = False,
) -> None:
    """Build a feature set over a range of the lake.

    By default the days whose bars changed are built and stored in the home. With `--to` one file is written instead.
    Each finished day is saved: after Ctrl-C the same command continues there. At the end the newest days, as many as
    fit into memory, are checked for health. If a limit refuses them, the command prints why and exits with code 1; the
    days stay.

    Example: `tickwalk features build live --width 1m --since 2026-11-01`
    """
    from serving.feature_jobs.build import build_to
    from serving.feature_jobs.selection import BarSelection, check_share

    settings = settings_of(context)
    check_share(newest)
    bars = BarSelection.of(
        settings, feature_set, width=width, since=since, until=until, at=at, instruments=instrument
    )
    if to is None:
        if wider:
            raise SettingsError(
                "--wider joins features into one file, but no file is named", hint="add --to FILE.safetensors"
            )
        _build_days(bars, newest=newest, anyway=anyway)
        return
    with step_progress("reading bars", 4 + len(wider or ())) as advance:
        summary = build_to(to, bars, wider=wider or (), newest=newest, anyway=anyway, on_step=advance)
    console.print(summary, highlight=False, soft_wrap=True)


def _build_days(bars: BarSelection, *, newest: float, anyway: bool) -> None:
    """Build the days of a home's store, and print what was built and the health findings."""
    from serving.feature_jobs.build import build_days, check_days, summarize_days

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
        notes.print(f"stopped: {counted} built and saved; the same command continues there", soft_wrap=True)
        raise
    console.print(summarize_days(built), highlight=False, soft_wrap=True)
    with notes.status("checking the health of the newest days"):
        judged, health = check_days(bars, built, newest=newest)
    _print_findings(health)
    refused = len(health.refusals)
    outcome = "refused" if refused else "fit for training"
    warnings = len(health.findings) - refused
    console.print(
        f"health of the newest {judged} days: {outcome}, {refused} refusals, {warnings} warnings",
        highlight=False,
        soft_wrap=True,
    )
    if refused and not anyway:
        raise typer.Exit(1)


def _print_findings(health: FeatureHealth) -> None:
    for item in health.findings:
        line = (
            f"{item.verdict}: {item.feature} of {', '.join(item.instruments[:3])} {item.what}; {item.reason}"
        )
        notes.print(line, highlight=False, markup=False, soft_wrap=True)


@features.command()
def follow(
    context: typer.Context,
    feature_set: Set,
    width: Width = None,
    instrument: Instruments = None,
    patience: Annotated[
        float,
        typer.Option(
            help="Seconds to wait for a bar after its grace period; a bar still missing then is unknown. Choose "
            "more than record.commit_s, or recorded bars become unknown."
        ),
    ] = 30.0,
    bars: Annotated[int | None, typer.Option("--bars", min=1, help="Stop after this many bars.")] = None,
    form: Annotated[
        Literal["line", "json"],
        typer.Option(
            "--format", help="line: one line per bar; json: all values, one object per bar and instrument."
        ),
    ] = "line",
) -> None:
    """Compute a feature set live, bar by bar, beside a running recorder.

    Runs until Ctrl-C. The values equal those of a later `build`. It reads the lake and writes nothing.

    Example: `tickwalk features follow live --format json`
    """
    from serving.feature_jobs.follow import follow_bars
    from serving.feature_jobs.selection import BarSelection

    settings = settings_of(context)
    selection = BarSelection.of(
        settings, feature_set, width=width, since=None, until=None, at=None, instruments=instrument
    )
    for bar in itertools.islice(follow_bars(selection, patience_s=patience, stop=threading.Event()), bars):
        lines = [bar.line()] if form == "line" else [json.dumps(record) for record in bar.records()]
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
    seed: Annotated[int, typer.Option(help="Seed of the random cuts, order and replacement values.")] = 0,
    auditor: Annotated[
        Literal["forecastguard"] | None,
        typer.Option(
            "--with",
            help="Also let an outside auditor test the set, in an environment of its own below the home; it needs "
            "Python 3.12, and the package index once.",
        ),
    ] = None,
    python: Annotated[
        Path | None,
        typer.Option(help="Interpreter for --with; default: one on PATH or below ~/.pyenv/versions."),
    ] = None,
) -> None:
    """Test on the lake's newest bars that no feature looks ahead; exit code 1 if one does.

    Example: `tickwalk features prove live --with forecastguard`
    """
    from serving.feature_jobs.selection import BarSelection, audit_set, prove_set

    settings = settings_of(context)
    bars = BarSelection.of(
        settings, feature_set, width=width, since=since, until=until, at=at, instruments=instrument
    )
    try:
        with notes.status("testing for look-ahead"):
            lines = prove_set(bars, seed=seed)
        if auditor is not None:
            with notes.status(f"{auditor} tests for look-ahead"):
                lines += audit_set(bars, python=python)
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
    page: Annotated[Path | None, typer.Option(help="Also write it as one HTML file.")] = None,
    form: Form = "table",
) -> None:
    """Check the health of a set on the lake's bars: coverage, nulls, drift; exit code 1 if a limit refuses it.

    Example: `tickwalk features health live --page health.html`
    """
    from features.build import build_features
    from serving.feature_jobs.selection import BarSelection, check_share, health_of, health_rows
    from serving.report.page import write_features

    settings = settings_of(context)
    check_share(newest)
    bars = BarSelection.of(
        settings, feature_set, width=width, since=since, until=until, at=at, instruments=instrument
    )
    with notes.status("building features"):
        panel = bars.load()
        found = health_of(build_features(panel, feature_set), panel, newest=newest)
    print_table(health_rows(found, is_short=form == "table"), form)
    _print_findings(found)
    if page is not None:
        console.print(str(write_features(page, found).resolve()), highlight=False, soft_wrap=True)
    if found.refusals:
        raise typer.Exit(1)


@features.command()
def report(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A feature, or a set for all of its features.")],
    width: Width = None,
    since: Since = None,
    until: Until = None,
    at: At = None,
    instrument: Instruments = None,
    form: Form = "table",
) -> None:
    """Show what features say by themselves: IC by horizon with t-values, decay, nearest feature, coverage.

    Labels are returns over 1, 5, 15 and 60 bars in volatilities; `later` has the IC with the label of one bar that is
    entered so many bars later. Features of one `group` tell nearly the same. The figures are of the whole range, so
    whoever chooses features by them has used up these bars as a test.

    Example: `tickwalk features report momentum_30 --since 2026-11-01`
    """
    import pyarrow as pa

    from features.build import build_features
    from serving.feature_jobs.feature_report import names_of, report_features, report_rows, set_of
    from serving.feature_jobs.selection import BarSelection

    settings = settings_of(context)
    feature_set = set_of(name)
    bars = BarSelection.of(
        settings, feature_set, width=width, since=since, until=until, at=at, instruments=instrument
    )
    with notes.status("building features"):
        panel = bars.load()
        block = build_features(panel, feature_set)
    names = names_of(name)
    with step_progress("measuring features", len(names)) as advance:
        found = report_features(panel, block, names, grace_ns=settings.bars.grace_ns, on_feature=advance)
    rows = report_rows(found, is_short=form == "table" and len(found) > 1)
    print_table(pa.Table.from_pylist(rows), form)
