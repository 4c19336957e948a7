"""Commands for what must outlast a year: the journal's copies and its size on disk."""

from __future__ import annotations

from typing import Annotated

import typer

from serving.cli.context import console, notes, print_table, settings_of

keep = typer.Typer(
    no_args_is_help=True, help="Copy the journal elsewhere, remove what may go, and see how it grows."
)


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(keep, name="keep")


@keep.command("run")
def run_pass(context: typer.Context) -> None:
    """Copy sealed segments to `keep.copy_to`, and remove recordings older than `keep.journal_days`, once.

    A running recorder does the same by itself. Ends with status 1 where something could not be kept.
    """
    from ingest.journal.retention import apply_retention
    from storage.clock import WallTime

    settings = settings_of(context)
    if not (settings.keep.copy_to or settings.keep.journal_days):
        notes.print("nothing to do: keep.copy_to is empty and keep.journal_days is 0", highlight=False)
        return
    with notes.status("keeping the journal"):
        done = apply_retention(settings, now_ns=WallTime().now_ns())
    console.print(
        f"copied {done.copied} segments ({done.copied_bytes / 1e6:,.1f} MB), "
        f"removed {len(done.removed)} recordings ({done.removed_bytes / 1e6:,.1f} MB)",
        highlight=False,
    )
    for recording, reason in done.failed.items():
        notes.print(f"{recording}: {reason}", highlight=False, markup=False)
    if done.failed:
        raise typer.Exit(1)


@keep.command("status")
def show_status(context: typer.Context) -> None:
    """List the recordings on this disk: size, age, and what is copied."""
    import pyarrow as pa

    from ingest.journal.retention import stored_recordings
    from storage.clock import DAY_NS, WallTime

    settings, now_ns = settings_of(context), WallTime().now_ns()
    rows = [
        {
            "recording": held.name,
            "sealed": "yes" if held.is_sealed else "no",
            "segments": len(held.sealed) + len(held.open),
            "copied": len(held.copied & {path.name for path in held.sealed}),
            "mb": round(held.size_bytes / 1e6, 1),
            "age_days": round((now_ns - held.ended_ns) / DAY_NS, 1),
        }
        for held in stored_recordings(settings)
    ]
    if not rows:
        console.print("this home holds no recording", highlight=False)
        return
    print_table(pa.Table.from_pylist(rows), "table")


@keep.command("estimate")
def show_estimate(
    context: typer.Context,
    coins: Annotated[
        list[str] | None, typer.Option("--coin", help="Coin; by default those of the settings.")
    ] = None,
) -> None:
    """Say how many gigabytes a day a recording will take, and for how many days the disk has room."""
    from ingest.recorder.disk_estimate import estimate

    settings = settings_of(context)
    console.print(
        estimate(settings, coins=tuple(coins) if coins else None).text(),
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
