"""Command `probe`."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from serving.cli.context import console, notes, run_until_stopped, settings_of

if TYPE_CHECKING:
    from ingest.probe.runner import ProbeFinding

Chosen = Literal["hyperliquid", "gaiaex", "all"]


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(probe)


def probe(
    context: typer.Context,
    venue: Annotated[Chosen, typer.Option(help="hyperliquid, gaiaex or all.")] = "all",
    out: Annotated[
        Path | None, typer.Option(help="Empty folder for the raw answers; default: a new folder in reports/.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds to listen on each socket.")] = 15.0,
    url: Annotated[str | None, typer.Option(help="WebSocket address; default: record.ws_url.")] = None,
    info_url: Annotated[
        str | None, typer.Option(help="Address of POST /info; default: record.info_url.")
    ] = None,
) -> None:
    """Test every endpoint and channel of the live venues.

    Sends each request and opens each channel once, and lists the answers. Run it before a first recording, and when a
    venue announces a change. Raw answers are saved byte for byte; `tickwalk replay` reads the frames. No API key is
    needed or sent. The exit code is 1 if nothing answered.

    Example: `tickwalk probe --venue hyperliquid --seconds 30`
    """
    from ingest.concurrency import run_unless
    from ingest.probe.runner import VENUES, Probe

    settings = settings_of(context)
    record = settings.record
    record = dataclasses.replace(record, ws_url=url or record.ws_url, info_url=info_url or record.info_url)
    settings = dataclasses.replace(settings, record=record)
    folder = out or settings.reports_dir / f"probe-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    venues = VENUES if venue == "all" else (venue,)
    prober = Probe(settings, folder, seconds=seconds)

    async def work(stop: asyncio.Event) -> list[ProbeFinding]:
        found = await run_unless(stop, prober.run(venues))
        if found is None:
            raise typer.Abort
        return found

    with notes.status(f"probing {' and '.join(venues)}, {seconds:g} s per socket (Ctrl-C stops)"):
        findings: list[ProbeFinding] = run_until_stopped(work)
    _show(findings)
    answered = sum(item.answered for item in findings)
    console.print(f"{answered} of {len(findings)} answered; raw answers in {folder}", highlight=False)
    if not answered:
        raise typer.Exit(1)


def _show(findings: list[ProbeFinding]) -> None:
    table = Table(show_edge=False, header_style="bold")
    for name in ("venue", "what", "status"):
        table.add_column(name, overflow="fold")
    table.add_column("ms", justify="right")
    table.add_column("finding", overflow="fold")
    for item in findings:
        table.add_row(
            item.venue,
            Text(item.what),
            Text(item.status, style="" if item.answered else "red"),
            "" if item.latency_ms is None else f"{item.latency_ms:.0f}",
            Text(item.note),
        )
    console.print(table)
