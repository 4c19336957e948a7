"""Commands `quarantine list|show|retry`."""

from __future__ import annotations

from typing import Annotated

import typer

from serving.cli.context import Format, console, print_table, settings_of
from serving.cli.progress import row_progress

quarantine = typer.Typer(no_args_is_help=True, help="Inspect rejected rows and retry them.")

Table = Annotated[str | None, typer.Option(help="Only rows meant for this table.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(quarantine, name="quarantine")


@quarantine.command("list")
def show_kinds(
    context: typer.Context,
    table: Table = None,
    form: Annotated[Format, typer.Option("--format", help="Output format.")] = "table",
) -> None:
    """Count rejected rows by table and reason, with the id of one example.

    Example: `tickwalk quarantine list --table trades`
    """
    from storage.lake.lake import Lake
    from storage.lake.quarantine_retry import list_kinds

    with Lake.open(settings_of(context), read_only=True) as lake:
        print_table(list_kinds(lake, table=table), form)


@quarantine.command("show")
def show_one(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="ID", help="Id of the row, or its first characters.")],
) -> None:
    """Show one rejected row: table, reason, source and raw bytes."""
    from storage.clock import iso
    from storage.lake.lake import Lake
    from storage.lake.quarantine_retry import find_row

    with Lake.open(settings_of(context), read_only=True) as lake:
        row = find_row(lake, name)
    raw: bytes = row["raw"]
    for label, text in (
        ("id", row["id"]),
        ("table", row["table_name"]),
        ("reason", row["reason"]),
        ("source", row["source"]),
        ("knowable", iso(row["ts_knowable_ns"])),
        ("raw", raw.decode("utf-8", "backslashreplace")),
    ):
        console.print(f"{label:9} {text}", highlight=False, markup=False, soft_wrap=True)


@quarantine.command("retry")
def retry_rows(context: typer.Context, table: Table = None) -> None:
    """Validate rejected rows again, and commit those that pass.

    Use it after a contract has changed. Frames that could not be decoded are not rows; load their recording again with
    `tickwalk replay`.

    Example: `tickwalk quarantine retry --table trades`
    """
    from storage.clock import WallTime
    from storage.lake.lake import Lake
    from storage.lake.quarantine_retry import count_pending, retry

    with Lake.open(settings_of(context)) as lake:
        total = count_pending(lake, table=table)
        with row_progress("rows", total) as advance:
            done = retry(lake, now_ns=WallTime().now_ns(), table=table, on_rows=advance)
    for name, rows in done.committed.items():
        console.print(f"{name}: {rows:,} rows committed", highlight=False)
    for reason, rows in done.left.items():
        console.print(f"left {rows:,}: {reason}", highlight=False, markup=False)
    if not (done.committed or done.left):
        console.print("the quarantine has no rows to retry", highlight=False)
