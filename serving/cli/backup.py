"""Commands `backup create|restore`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serving.cli.context import console, notes, settings_of

if TYPE_CHECKING:
    from serving.home_backup import BackupReport

backup = typer.Typer(no_args_is_help=True, help="Back up a home, and restore it into an empty one.")


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(backup, name="backup")


@backup.command()
def create(
    context: typer.Context,
    target: Annotated[Path, typer.Argument(help="Folder on another disk or machine; empty, or of a backup.")],
    catalog: Annotated[
        bool, typer.Option(help="Copy the lake's catalog; without, dump its Postgres before this command.")
    ] = True,
) -> None:
    """Copy the home into a folder: lake, journal, models, reports, Airflow's records and secrets.

    The home may be in use. What is there from an earlier backup is not copied again. Parquet files in a bucket are not
    copied. Until the command ends, the folder holds no complete backup, so use two folders in turn.

    Example: `tickwalk backup create /mnt/backup/monday`
    """
    from serving.home_backup import create_backup
    from storage.clock import WallTime

    with notes.status("backing up"):
        done = create_backup(settings_of(context), target, now_ns=WallTime().now_ns(), with_catalog=catalog)
    _print(f"{target} is complete", done)


@backup.command()
def restore(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="Folder of a complete backup.")],
) -> None:
    """Copy a backup into an empty home, check every byte, and verify the lake.

    The exit code is 1 if the lake is not whole.

    Example: `tickwalk --home var-new backup restore /mnt/backup/monday`
    """
    from serving.home_backup import restore_backup
    from storage.clock import WallTime
    from storage.lake.integrity import verify
    from storage.lake.lake import Lake

    settings = settings_of(context)
    with notes.status("restoring"):
        done = restore_backup(source, settings)
    _print(f"{settings.home} is restored to {done.made_at}", done)
    with notes.status("verifying the lake"), Lake.open(settings) as lake:
        found = verify(lake, now_ns=WallTime().now_ns())
    console.print(
        f"the lake is {'whole' if found.is_whole else 'NOT whole'}: {found.files:,} files, {found.rows:,} rows, "
        f"{found.batches:,} batches, {found.pins} pins",
        highlight=False,
    )
    for item in found.findings:
        if item.kind != "orphan":
            notes.print(f"{item.kind} {item.name}: {item.detail}", highlight=False, markup=False)
    if not found.is_whole:
        raise typer.Exit(1)


def _print(text: str, done: BackupReport) -> None:
    console.print(
        f"{text}: {done.files:,} files, {done.size_bytes / 1e6:,.1f} MB; "
        f"copied {done.copied:,} of them, {done.copied_bytes / 1e6:,.1f} MB",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if done.bucket:
        console.print(f"the Parquet files stay in {done.bucket}", highlight=False, markup=False)
