"""Commands `lake status|snapshots|diff|pin|unpin|compact|expire|verify|rebuild`."""

from __future__ import annotations

from typing import Annotated

import typer

from serving.cli import rebuild
from serving.cli.context import Format, console, notes, print_rows, print_table, settings_of

group = typer.Typer(
    no_args_is_help=True,
    help="Inspect, pin, compact, verify and rebuild the lake.",
)

Yes = Annotated[
    bool, typer.Option("--yes", help="Do it; otherwise the command only prints what it would do.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    rebuild.add_to(group)
    app.add_typer(group, name="lake")


@group.command("status")
def show_status(
    context: typer.Context,
    form: Annotated[Format, typer.Option("--format", help="Output format.")] = "table",
) -> None:
    """Show rows, files, bytes, snapshots and pins, and what maintenance would free."""
    from storage.clock import WallTime, iso
    from storage.lake.lake import Lake
    from storage.lake.maintenance import status

    with Lake.open(settings_of(context), read_only=True) as lake:
        found = status(lake, now_ns=WallTime().now_ns())
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
    columns = ("table", "rows", "files", "mb", "after_compact")
    print_rows(rows, form, columns=columns, numeric={*columns[1:]})
    if form != "table":
        return
    files, small = sum(item.files for item in found.tables), sum(max(0, t.small - 1) for t in found.tables)
    size_mb = sum(item.size_bytes for item in found.tables) / 1e6
    for line in (
        f"{sum(item.rows for item in found.tables):,} rows in {files:,} files, {size_mb:,.1f} MB",
        f"{found.snapshots:,} snapshots, the oldest is {found.oldest} from {iso(found.oldest_ns)}; {found.pins} pins",
        f"tickwalk lake compact would leave about {files - small:,} files",
        f"tickwalk lake expire would remove {found.expirable:,} snapshots",
        f"{found.freed:,} files are unused, {found.removable:,} of them for longer than lake.grace_h",
    ):
        console.print(line, highlight=False, markup=False)


@group.command("snapshots")
def show_snapshots(
    context: typer.Context,
    limit: Annotated[int, typer.Option(help="How many, newest first.")] = 20,
    form: Annotated[Format, typer.Option("--format", help="Output format.")] = "table",
) -> None:
    """List snapshots: creation time, batch, and the pins that keep them."""
    from storage.lake.lake import Lake
    from storage.lake.snapshots import list_snapshots

    with Lake.open(settings_of(context), read_only=True) as lake:
        print_table(list_snapshots(lake, limit=limit), form)


@group.command("diff")
def show_diff(
    context: typer.Context,
    first: Annotated[int, typer.Argument(help="Older snapshot.")],
    second: Annotated[int, typer.Argument(help="Newer snapshot.")],
    table: Annotated[
        str | None, typer.Option(help="Print the new rows of this table; for bars, added and revised ones.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="Output format.")] = "table",
) -> None:
    """Show the rows added between two snapshots.

    Example: `tickwalk lake diff 120 140 --table bars`
    """
    import pyarrow as pa

    from storage.lake.lake import Lake
    from storage.lake.snapshots import diff, diff_rows

    with Lake.open(settings_of(context), read_only=True) as lake:
        if table is not None:
            rows = diff_rows(lake, first, second, table)
            if table == "bars":
                rows = rows.select(["instrument", "width", "ts_open", "revision", "status", "cause", "batch"])
            print_table(rows, form)
            return
        found = [item for item in diff(lake, first, second) if item.rows]
    if not found:
        console.print(f"no rows were added between snapshots {first} and {second}", highlight=False)
        return
    rows = pa.Table.from_pylist([{"table": i.table, "before": i.before, "added": i.rows} for i in found])
    print_table(rows, form)


@group.command("pin")
def set_pin(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the pin.")],
    at: Annotated[int | None, typer.Option(help="Snapshot; default: the newest.")] = None,
) -> None:
    """Keep a snapshot from expiring, and store a hash of its rows.

    Every night pins its own snapshot. Example: `tickwalk lake pin before-migration`
    """
    from serving.cli.progress import step_progress
    from storage.clock import WallTime
    from storage.contracts.tables import CONTRACTS
    from storage.lake.lake import Lake
    from storage.lake.snapshots import pin

    with (
        Lake.open(settings_of(context)) as lake,
        step_progress("hashing its rows", len(CONTRACTS)) as advance,
    ):
        made = pin(lake, name, now_ns=WallTime().now_ns(), snapshot=at, on_step=advance)
    console.print(
        f"{made.name} pins snapshot {made.snapshot}, {made.content}", highlight=False, soft_wrap=True
    )


@group.command("unpin")
def remove_pin(context: typer.Context, name: Annotated[str, typer.Argument(help="Name of the pin.")]) -> None:
    """Release a pin, so that its snapshot may expire unless a model version or another pin keeps it."""
    from storage.clock import WallTime
    from storage.lake.lake import Lake
    from storage.lake.snapshots import kept_snapshots, unpin

    with Lake.open(settings_of(context)) as lake:
        released = unpin(lake, name, now_ns=WallTime().now_ns())
        kept_by = kept_snapshots(lake)
    for item in released:
        others = ", ".join(kept_by.get(item.snapshot, ()))
        rest = f", which {others} still keeps" if others else ""
        console.print(f"{name} no longer pins snapshot {item.snapshot}{rest}", highlight=False, markup=False)


@group.command("compact")
def merge_files(context: typer.Context) -> None:
    """Merge small files.

    Every snapshot still reads the same rows. It is safe beside a running recorder; run it daily.
    """
    from serving.cli.progress import step_progress
    from storage.clock import WallTime
    from storage.contracts.tables import CONTRACTS
    from storage.lake.lake import Lake
    from storage.lake.maintenance import compact

    with (
        Lake.open(settings_of(context)) as lake,
        step_progress("merging", len(CONTRACTS)) as advance,
    ):
        merged = compact(lake, now_ns=WallTime().now_ns(), on_step=advance)
    if not merged:
        console.print("nothing to merge", highlight=False)
    for table, (taken, made) in merged.items():
        console.print(f"{table}: merged {taken:,} files into {made:,}", highlight=False)


@group.command("expire")
def expire_snapshots(context: typer.Context, yes: Yes = False) -> None:
    """Remove snapshots older than `lake.keep_snapshots_days`, except those that a pin or a model version keeps.

    Example: `tickwalk lake expire --yes`
    """
    from serving.cli.progress import step_progress
    from storage.clock import WallTime
    from storage.lake.lake import Lake
    from storage.lake.maintenance import expirable, expire, expiry_steps

    now_ns = WallTime().now_ns()
    with Lake.open(settings_of(context), read_only=not yes) as lake:
        due = expirable(lake, now_ns=now_ns)
        if yes and due:
            with step_progress("expiring", expiry_steps(len(due))) as advance:
                due = expire(lake, now_ns=now_ns, dry_run=False, on_step=advance)
    which = f", from {due[0]} to {due[-1]}" if due else ""
    console.print(f"{len(due):,} snapshots {'expired' if yes else 'would expire'}{which}", highlight=False)
    if due and not yes:
        notes.print("nothing was done; to do it: tickwalk lake expire --yes", highlight=False)


@group.command("verify")
def verify_lake(
    context: typer.Context,
    mend: Annotated[
        bool, typer.Option("--mend", help="Remove orphaned files older than lake.grace_h; needs --yes.")
    ] = False,
    yes: Yes = False,
    no_pins: Annotated[
        bool, typer.Option("--no-pins", help="Skip the rows of pinned snapshots; faster.")
    ] = False,
    form: Annotated[Format, typer.Option("--format", help="Output format of the findings.")] = "table",
) -> None:
    """Check files, batches and pins; exit code 1 if something is missing or changed.

    Example: `tickwalk lake verify --mend --yes`
    """
    import pyarrow as pa

    from serving.cli.progress import step_progress
    from storage.clock import WallTime
    from storage.lake.integrity import verify, verify_steps
    from storage.lake.lake import Lake

    does_mend = mend and yes
    with Lake.open(settings_of(context), read_only=not does_mend) as lake:
        steps = verify_steps(lake, with_pins=not no_pins)
        with step_progress("verifying", steps) as advance:
            found = verify(
                lake, now_ns=WallTime().now_ns(), mend=does_mend, with_pins=not no_pins, on_step=advance
            )
    if found.findings:
        rows = [{"kind": i.kind, "name": i.name, "detail": i.detail} for i in found.findings]
        print_table(pa.Table.from_pylist(rows), form)
    notes.print(
        f"{found.files:,} files with {found.rows:,} rows, {found.batches:,} batches and {found.pins} pins checked; "
        f"{len(found.findings)} findings, {len(found.removed)} orphans removed",
        highlight=False,
    )
    if mend and not yes:
        notes.print("nothing was removed; to do it: tickwalk lake verify --mend --yes", highlight=False)
    if not found.is_whole:
        raise typer.Exit(1)
