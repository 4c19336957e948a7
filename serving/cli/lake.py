"""Commands for the lake itself: what it holds, what must stay, and keeping it small and whole."""

from __future__ import annotations

from typing import Annotated

import typer

from serving.cli import rebuild
from serving.cli.context import Format, console, notes, print_table, settings_of, step_progress

lake = typer.Typer(
    no_args_is_help=True,
    help="See what the tables hold and held, pin snapshots, and keep files few and whole.",
)

Yes = Annotated[bool, typer.Option("--yes", help="Do it; without this it is only said what would be done.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    rebuild.add_to(lake)
    app.add_typer(lake, name="lake")


@lake.command("status")
def show_status(
    context: typer.Context,
    form: Annotated[Format, typer.Option("--format", help="How to print the tables.")] = "table",
) -> None:
    """Say what lies in the lake (rows, files, bytes, snapshots, pins), and what upkeep would gain."""
    import pyarrow as pa

    from storage.clock import WallTime, iso
    from storage.lake.lake import Lake
    from storage.lake.maintenance import status

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
    from storage.lake.lake import Lake
    from storage.lake.snapshots import list_snapshots

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

    from storage.lake.lake import Lake
    from storage.lake.snapshots import diff, diff_rows

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
    from storage.contracts.tables import CONTRACTS
    from storage.lake.lake import Lake
    from storage.lake.snapshots import pin

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
    from storage.lake.lake import Lake
    from storage.lake.snapshots import kept_snapshots, unpin

    with Lake.open(settings_of(context)) as held:
        gone = unpin(held, name, now_ns=WallTime().now_ns())
        still = kept_snapshots(held)
    for item in gone:
        others = ", ".join(still.get(item.snapshot, ()))
        rest = f", which {others} still holds" if others else ""
        console.print(f"{name} no longer holds snapshot {item.snapshot}{rest}", highlight=False, markup=False)


@lake.command("compact")
def merge_files(context: typer.Context) -> None:
    """Merge small files; every snapshot reads as before. Safe beside a recorder, and to be done daily."""
    from storage.clock import WallTime
    from storage.contracts.tables import CONTRACTS
    from storage.lake.lake import Lake
    from storage.lake.maintenance import compact

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
    from storage.lake.lake import Lake
    from storage.lake.maintenance import expirable, expire, expiry_steps

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
    from storage.lake.integrity import verify, verify_steps
    from storage.lake.lake import Lake

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
