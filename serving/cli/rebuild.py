"""Command `lake rebuild`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serving.cli.context import Format, notes, print_table, settings_of

if TYPE_CHECKING:
    from ingest.replay.lineage import LineageSource
    from ingest.replay.rebuild import RebuildResult
    from storage.lake.lake import Lake
    from storage.lake.snapshots import Pin
    from storage.settings import Settings


def add_to(app: typer.Typer) -> None:
    """Add the command to the group `lake`."""
    app.command("rebuild")(make_anew)


def make_anew(
    context: typer.Context,
    to: Annotated[
        Path | None,
        typer.Option(
            help="Build it in this folder, as a home of its own, and leave the current lake in place."
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it; otherwise the command only prints what it would do.")
    ] = False,
    accept_missing: Annotated[
        bool, typer.Option("--accept-missing", help="Swap even if the new lake lacks rows of the old one.")
    ] = False,
    form: Annotated[Format, typer.Option("--format", help="Output format of the tables.")] = "table",
) -> None:
    """Rebuild the lake from the journal, archive objects and imported files.

    The new lake is built beside the old one and compared with it table by table. With `--yes` it then replaces the old
    one, which is kept as `lake-before-TIME`. Rows that cannot be rebuilt are copied and listed. Nothing may write to
    the lake meanwhile: stop the recorder first. Ctrl-C leaves the old lake unchanged.

    Example: `tickwalk lake rebuild --to /data/rebuilt`
    """
    from ingest.replay.lineage import journal_bytes
    from ingest.replay.rebuild import find_sources, rebuild
    from serving.cli.progress import byte_progress, rebuild_progress
    from storage.errors import LakeError
    from storage.lake.lake_diff import compared_tables

    settings = settings_of(context)
    with byte_progress("scanning the journal", journal_bytes(settings)) as advance:
        sources = find_sources(settings, on_bytes=advance)
    if not (yes or to):
        _show_sources(sources, form)
        notes.print(
            "nothing was done; to do it: tickwalk lake rebuild --yes, or --to FOLDER to inspect it first",
            highlight=False,
        )
        return
    total_bytes = sum(source.size_bytes for source in sources)
    try:
        with rebuild_progress(total_bytes, len(sources) + len(compared_tables())) as (read, step):
            done = rebuild(
                settings,
                sources,
                to=to,
                accepts_missing=accept_missing,
                reads_same=partial(_reads_same, settings),
                on_bytes=read,
                on_step=step,
            )
    except LakeError as error:
        if (found := error.facts.get("rebuilt")) is not None:
            _show_rebuilt(found, form)  # type: ignore[arg-type]  # facts hold any object
        raise
    _show_rebuilt(done, form)
    place = f"the old lake is kept in {done.kept}" if done.kept else f"the new lake is the home {done.home}"
    notes.print(place, highlight=False, markup=False, soft_wrap=True)


def _reads_same(settings: Settings, pin: Pin, lake: Lake, at: int) -> bool | None:
    """Check whether a night's pin reads the same rows; this imports torch."""
    from training.night.pinned_inputs import reads_as_pinned

    return reads_as_pinned(settings, pin, lake, at)


def _show_sources(sources: list[LineageSource], form: Format) -> None:
    """Print which sources are rebuilt or copied, by kind and reason."""
    import pyarrow as pa

    kinds: dict[tuple[str, str], list[LineageSource]] = {}
    for source in sources:
        kinds.setdefault((source.kind, source.why_not), []).append(source)
    rows = [
        {
            "source": kind,
            "sources": len(found),
            "rows": sum(source.rows for source in found),
            "mb": round(sum(source.size_bytes for source in found) / 1e6, 1),
            "what": f"copied: {why}" if why else "rebuilt",
        }
        for (kind, why), found in kinds.items()
    ]
    if rows:
        print_table(pa.Table.from_pylist(rows), form)


def _show_rebuilt(done: RebuildResult, form: Format) -> None:
    """Print the comparison, the rows copied or lost, and the pins transferred."""
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
    notes.print(f"{again:,} of {len(done.made):,} sources were rebuilt", highlight=False)
    kinds: dict[tuple[str, str], list[int]] = {}
    for item in done.made:
        if item.why:
            totals = kinds.setdefault((item.source.kind, item.why), [0, 0, 0])
            totals[:] = [totals[0] + 1, totals[1] + item.carried, totals[2] + item.lost]
    for (kind, why), (count, carried, lost) in kinds.items():
        gone = f", {lost:,} rows are lost with files missing from the old lake" if lost else ""
        notes.print(
            f"  {count:,} x {kind}: {carried:,} rows copied{gone} ({why})",
            highlight=False,
            markup=False,
        )
    if done.pins_lost:
        notes.print(f"the pins could not be read: {done.pins_lost}", highlight=False, markup=False)
    for pin in done.pins:
        now = (
            f"is now snapshot {pin.snapshot}"
            if pin.snapshot is not None
            else f"was not transferred: {pin.why}"
        )
        notes.print(f"pin {pin.pin.name} of snapshot {pin.pin.snapshot} {now}", highlight=False, markup=False)
