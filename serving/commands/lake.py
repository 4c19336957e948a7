"""Commands for the lake itself: what it holds, what must stay, and keeping it small and whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serving.commands.common import (
    Format,
    byte_progress,
    console,
    notes,
    print_table,
    settings_of,
    step_progress,
)

if TYPE_CHECKING:
    from ingest.made_from import Source
    from ingest.rebuild import Rebuilt

lake = typer.Typer(
    no_args_is_help=True,
    help="See what the tables hold and held, pin snapshots, and keep files few and whole.",
)

Yes = Annotated[bool, typer.Option("--yes", help="Do it; without this it is only said what would be done.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(lake, name="lake")


@lake.command("status")
def show_status(
    context: typer.Context,
    form: Annotated[Format, typer.Option("--format", help="How to print the tables.")] = "table",
) -> None:
    """Say what lies in the lake (rows, files, bytes, snapshots, pins), and what upkeep would gain."""
    import pyarrow as pa

    from storage.clock import WallTime, iso
    from storage.lake import Lake
    from storage.upkeep import status

    with Lake.open(settings_of(context), read_only=True) as held:
        found = status(held, now_ns=WallTime().now_ns())
    rows = [
        {
            "table": item.table,
            "rows": item.rows,
            "files": item.files,
            "mb": round(item.size_bytes / 1e6, 2),
            "after_compact": item.files - max(0, item.small - 1),
        }
        for item in found.tables
    ]
    print_table(pa.Table.from_pylist(rows), form)
    if form != "table":
        return
    files, small = sum(item.files for item in found.tables), sum(max(0, t.small - 1) for t in found.tables)
    size_mb = sum(item.size_bytes for item in found.tables) / 1e6
    for line in (
        f"{sum(item.rows for item in found.tables):,} rows in {files:,} files, {size_mb:,.1f} MB",
        f"{found.snapshots:,} snapshots, the oldest {found.oldest} of {iso(found.oldest_ns)}; {found.pins} pins",
        f"tickwalk lake compact would leave about {files - small:,} files",
        f"tickwalk lake expire would let go {found.expirable:,} snapshots",
        f"{found.freed:,} files are free, {found.removable:,} of them for longer than lake.grace_h",
    ):
        console.print(line, highlight=False, markup=False)


@lake.command("snapshots")
def show_snapshots(
    context: typer.Context,
    limit: Annotated[int, typer.Option(help="So many, the newest first.")] = 20,
    form: Annotated[Format, typer.Option("--format", help="How to print.")] = "table",
) -> None:
    """List snapshots: when each was made, by which batch, and what holds it."""
    from storage.history import list_snapshots
    from storage.lake import Lake

    with Lake.open(settings_of(context), read_only=True) as held:
        print_table(list_snapshots(held, limit=limit), form)


@lake.command("diff")
def show_diff(
    context: typer.Context,
    first: Annotated[int, typer.Argument(help="A snapshot.")],
    second: Annotated[int, typer.Argument(help="A later one.")],
    table: Annotated[
        str | None, typer.Option(help="Print the rows of this table; for bars, which were added or revised.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="How to print.")] = "table",
) -> None:
    """Say what came into the tables between two snapshots."""
    import pyarrow as pa

    from storage.history import diff, diff_rows
    from storage.lake import Lake

    with Lake.open(settings_of(context), read_only=True) as held:
        if table is not None:
            rows = diff_rows(held, first, second, table)
            if table == "bars":
                rows = rows.select(["instrument", "width", "ts_open", "revision", "status", "cause", "batch"])
            print_table(rows, form)
            return
        found = [item for item in diff(held, first, second) if item.rows]
    if not found:
        console.print(f"nothing came between snapshots {first} and {second}", highlight=False)
        return
    rows = pa.Table.from_pylist([{"table": i.table, "before": i.before, "added": i.rows} for i in found])
    print_table(rows, form)


@lake.command("pin")
def set_pin(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What to call it.")],
    at: Annotated[int | None, typer.Option(help="The snapshot; the newest by default.")] = None,
) -> None:
    """Hold a snapshot for ever, with a hash of its rows; every night pins its own."""
    from storage.clock import WallTime
    from storage.contracts import CONTRACTS
    from storage.history import pin
    from storage.lake import Lake

    with (
        Lake.open(settings_of(context)) as held,
        step_progress("reading the rows it covers", len(CONTRACTS)) as advance,
    ):
        made = pin(held, name, now_ns=WallTime().now_ns(), snapshot=at, on_step=advance)
    console.print(
        f"{made.name} holds snapshot {made.snapshot}, {made.content}", highlight=False, soft_wrap=True
    )


@lake.command("unpin")
def let_go(context: typer.Context, name: Annotated[str, typer.Argument(help="The pin.")]) -> None:
    """Let go a pin: its snapshot may expire, unless a model version or another pin still names it."""
    from storage.clock import WallTime
    from storage.history import held_snapshots, unpin
    from storage.lake import Lake

    with Lake.open(settings_of(context)) as held:
        gone = unpin(held, name, now_ns=WallTime().now_ns())
        still = held_snapshots(held)
    for item in gone:
        others = ", ".join(still.get(item.snapshot, ()))
        rest = f", which {others} still holds" if others else ""
        console.print(f"{name} no longer holds snapshot {item.snapshot}{rest}", highlight=False, markup=False)


@lake.command("compact")
def merge_files(context: typer.Context) -> None:
    """Merge small files; every snapshot reads as before. Safe beside a recorder, and to be done daily."""
    from storage.clock import WallTime
    from storage.contracts import CONTRACTS
    from storage.lake import Lake
    from storage.upkeep import compact

    with (
        Lake.open(settings_of(context)) as held,
        step_progress("merging", len(CONTRACTS)) as advance,
    ):
        merged = compact(held, now_ns=WallTime().now_ns(), on_step=advance)
    if not merged:
        console.print("nothing to merge", highlight=False)
    for table, (taken, made) in merged.items():
        console.print(f"{table}: {taken:,} files became {made:,}", highlight=False)


@lake.command("expire")
def expire_snapshots(context: typer.Context, yes: Yes = False) -> None:
    """Let go snapshots older than `lake.keep_snapshots_days`; never one that a pin or a model version names."""
    from storage.clock import WallTime
    from storage.lake import Lake
    from storage.upkeep import expirable, expire, expiry_steps

    now_ns = WallTime().now_ns()
    with Lake.open(settings_of(context), read_only=not yes) as held:
        due = expirable(held, now_ns=now_ns)
        if yes and due:
            with step_progress("expiring", expiry_steps(len(due))) as advance:
                due = expire(held, now_ns=now_ns, dry_run=False, on_step=advance)
    which = f", from {due[0]} to {due[-1]}" if due else ""
    console.print(f"{len(due):,} snapshots {'expired' if yes else 'would expire'}{which}", highlight=False)
    if due and not yes:
        notes.print("nothing was done; to do it: tickwalk lake expire --yes", highlight=False)


@lake.command("verify")
def verify_lake(
    context: typer.Context,
    mend: Annotated[
        bool, typer.Option("--mend", help="Remove orphans older than lake.grace_h; with --yes.")
    ] = False,
    yes: Yes = False,
    no_pins: Annotated[
        bool, typer.Option("--no-pins", help="Do not read the rows that pins cover; quicker.")
    ] = False,
    form: Annotated[Format, typer.Option("--format", help="How to print what was found.")] = "table",
) -> None:
    """Look whether each file is there with its rows, each batch whole, each pin unchanged. Status 1: it is not so."""
    import pyarrow as pa

    from storage.clock import WallTime
    from storage.lake import Lake
    from storage.verify import verify, verify_steps

    does_mend = mend and yes
    with Lake.open(settings_of(context), read_only=not does_mend) as held:
        steps = verify_steps(held, with_pins=not no_pins)
        with step_progress("verifying", steps) as advance:
            found = verify(
                held, now_ns=WallTime().now_ns(), mend=does_mend, with_pins=not no_pins, on_step=advance
            )
    if found.findings:
        rows = [{"kind": i.kind, "name": i.name, "detail": i.detail} for i in found.findings]
        print_table(pa.Table.from_pylist(rows), form)
    notes.print(
        f"{found.files:,} files with {found.rows:,} rows, {found.batches:,} batches and {found.pins} pins looked at; "
        f"{len(found.findings)} findings, {len(found.removed)} orphans removed",
        highlight=False,
    )
    if mend and not yes:
        notes.print("nothing was removed; to do it: tickwalk lake verify --mend --yes", highlight=False)
    if not found.is_whole:
        raise typer.Exit(1)


@lake.command("rebuild")
def make_anew(
    context: typer.Context,
    to: Annotated[
        Path | None,
        typer.Option(help="Build it in this folder, a home of its own, and leave the lake where it is."),
    ] = None,
    yes: Yes = False,
    accept_missing: Annotated[
        bool, typer.Option("--accept-missing", help="Swap also where the new lake lacks rows of the old one.")
    ] = False,
    form: Annotated[Format, typer.Option("--format", help="How to print the comparison.")] = "table",
) -> None:
    """Make the lake anew from all that the home still holds: journal, objects of archives, imported files.

    It is built beside, and compared with the old one table by table. Only then, with `--yes`, does it take the old
    one's place, which is kept as `lake-before-TIME`. What cannot be made again is carried over as it is, and told.
    No one may write meanwhile: stop the recorder first. Ctrl-C leaves the old lake as it was.
    """
    from ingest.made_from import journal_bytes
    from ingest.rebuild import find_sources, rebuild
    from storage.compare import compared_tables
    from storage.errors import LakeError
    from training.pinned import reads_as_pinned

    settings = settings_of(context)
    with byte_progress("looking at the journal", journal_bytes(settings)) as advance:
        sources = find_sources(settings, on_bytes=advance)
    if not (yes or to):
        _show_sources(sources)
        notes.print(
            "nothing was done; to do it: tickwalk lake rebuild --yes, or --to FOLDER to look at it first",
            highlight=False,
        )
        return
    steps = len(sources) + len(compared_tables())
    try:
        with step_progress("rebuilding", steps) as done_one:
            done = rebuild(
                settings,
                sources,
                to=to,
                accepts_missing=accept_missing,
                reads_same=lambda pin, held, at: reads_as_pinned(settings, pin, held, at),
                on_step=done_one,
            )
    except LakeError as error:
        if (found := error.facts.get("rebuilt")) is not None:
            _show_rebuilt(found, form)  # type: ignore[arg-type]  # facts hold any object
        raise
    _show_rebuilt(done, form)
    place = f"the old lake is kept in {done.kept}" if done.kept else f"the new lake is the home {done.home}"
    notes.print(place, highlight=False, markup=False, soft_wrap=True)


def _show_sources(sources: list[Source]) -> None:
    """Print what is made again, and what is not and why, by kind."""
    import pyarrow as pa

    kinds: dict[tuple[str, str], list[Source]] = {}
    for source in sources:
        kinds.setdefault((source.kind, source.why_not), []).append(source)
    rows = [
        {
            "source": kind,
            "sources": len(found),
            "rows": sum(source.rows for source in found),
            "mb": round(sum(source.size_bytes for source in found) / 1e6, 1),
            "what": f"carried over: {why}" if why else "made again",
        }
        for (kind, why), found in kinds.items()
    ]
    if rows:
        print_table(pa.Table.from_pylist(rows), "table")


def _show_rebuilt(done: Rebuilt, form: Format) -> None:
    """Print the comparison, and what was carried over, lost, or could not be pinned again."""
    import pyarrow as pa

    tables = [table for table in done.compared if table.equal or table.missing or table.extra]
    rows = [
        {
            "table": it.table,
            "equal": it.equal,
            "missing": it.missing,
            "extra": it.extra,
            "files_lost": len(it.lost),
        }
        for it in tables
    ]
    if rows:
        print_table(pa.Table.from_pylist(rows), form)
    again = sum(not item.why for item in done.made)
    notes.print(f"{again:,} of {len(done.made):,} sources were made again", highlight=False)
    kinds: dict[tuple[str, str], list[int]] = {}
    for item in done.made:
        if item.why:
            held = kinds.setdefault((item.source.kind, item.why), [0, 0, 0])
            held[:] = [held[0] + 1, held[1] + item.carried, held[2] + item.lost]
    for (kind, why), (count, carried, lost) in kinds.items():
        gone = f", {lost:,} rows are lost with the old lake's files" if lost else ""
        notes.print(
            f"  {count:,} x {kind}: {carried:,} rows carried over{gone} ({why})",
            highlight=False,
            markup=False,
        )
    if done.pins_lost:
        notes.print(f"the pins could not be read: {done.pins_lost}", highlight=False, markup=False)
    for pin in done.pins:
        now = (
            f"is snapshot {pin.snapshot} now" if pin.snapshot is not None else f"is not set again: {pin.why}"
        )
        notes.print(f"pin {pin.pin.name} of snapshot {pin.pin.snapshot} {now}", highlight=False, markup=False)
