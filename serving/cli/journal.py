"""Commands `keep run|status|estimate`."""

from __future__ import annotations

from typing import Annotated

import typer

from serving.cli.context import console, notes, print_table, settings_of

keep = typer.Typer(
    no_args_is_help=True, help="Back up the journal, delete old recordings, estimate disk use."
)


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(keep, name="keep")


@keep.command("run")
def run_pass(context: typer.Context) -> None:
    """Copy sealed segments to `keep.copy_to`, and delete recordings older than `keep.journal_days`, once.

    A running recorder does this by itself. The exit code is 1 if something could not be copied or deleted.

    Example: `tickwalk --set keep.copy_to=/mnt/backup keep run`
    """
    from ingest.journal.retention import apply_retention
    from storage.clock import WallTime

    settings = settings_of(context)
    if not (settings.keep.copy_to or settings.keep.journal_days):
        notes.print("nothing to do: keep.copy_to is empty and keep.journal_days is 0", highlight=False)
        return
    with notes.status("backing up the journal"):
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
    """List the recordings on this disk: size, age, and segments copied."""
    import pyarrow as pa

    from ingest.journal.retention import stored_recordings
    from storage.clock import DAY_NS, WallTime

    settings, now_ns = settings_of(context), WallTime().now_ns()
    rows = [
        {
            "recording": recording.name,
            "sealed": "yes" if recording.is_sealed else "no",
            "segments": len(recording.sealed) + len(recording.open),
            "copied": len(recording.copied & {path.name for path in recording.sealed}),
            "mb": round(recording.size_bytes / 1e6, 1),
            "age_days": round((now_ns - recording.ended_ns) / DAY_NS, 1),
        }
        for recording in stored_recordings(settings)
    ]
    if not rows:
        console.print("this home has no recordings", highlight=False)
        return
    print_table(pa.Table.from_pylist(rows), "table")


@keep.command("estimate")
def show_estimate(
    context: typer.Context,
    coins: Annotated[
        list[str] | None, typer.Option("--coin", help="Coin; repeatable; default: record.coins.")
    ] = None,
) -> None:
    """Estimate the gigabytes a recording needs per day, and the days until the disk is full.

    Example: `tickwalk keep estimate --coin BTC --coin ETH`
    """
    from ingest.recorder.disk_estimate import estimate

    settings = settings_of(context)
    console.print(
        estimate(settings, coins=tuple(coins) if coins else None).text(),
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
