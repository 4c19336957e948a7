"""What do all commands share: the settings in force, progress bars and the ways to print a table?"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import math
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal

import pyarrow as pa
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from storage.settings import Settings

Format = Literal["table", "csv", "json"]

console: Final = Console()
notes: Final = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class CommandContext:
    """What the callback hands every command."""

    settings: Settings


def settings_of(context: typer.Context) -> Settings:
    """Return the settings in force."""
    held: CommandContext = context.obj
    return held.settings


@contextlib.contextmanager
def byte_progress(label: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show a bar of bytes on standard error; yield the function that advances it."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=notes, transient=True) as progress:
        task = progress.add_task(label, total=total_bytes)
        yield lambda size: progress.advance(task, size)


@contextlib.contextmanager
def row_progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar of rows on standard error; yield the function that advances it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=notes, transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda rows: progress.advance(task, rows)


@contextlib.contextmanager
def step_progress(label: str, total: int) -> Iterator[Callable[[str], None]]:
    """Show a bar of steps on standard error; yield the function that ends a step and names the next."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=notes, transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda name: progress.update(task, advance=1, description=name)


class _RowsPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Show how many rows there are by now, and how many a second."""
        rows = int(task.fields["rows"])
        pace = f", {rows / task.elapsed:,.0f} rows/s" if rows and task.elapsed else ""
        return Text(f"{rows:,} rows{pace}", style="dim")


@contextlib.contextmanager
def day_progress(label: str) -> Iterator[Callable[[int, int, int], None]]:
    """Show a bar of days with rows, pace and time left on standard error; yield what takes (done, total, rows)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("days"),
        _RowsPerSecond(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=notes, transient=True, speed_estimate_period=120) as progress:
        task = progress.add_task(label, total=None, rows=0)
        yield lambda done, total, rows: progress.update(task, completed=done, total=total, rows=rows)


class _StepsPerMinute(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Show the pace of late."""
        return Text(f"{task.speed * 60:,.0f} steps/min" if task.speed else "", style="dim")


@contextlib.contextmanager
def paced_progress(label: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show a bar of steps with pace and time left on standard error; yield what takes (done, total, name)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _StepsPerMinute(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=notes, transient=True, speed_estimate_period=120) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total, name: progress.update(task, completed=done, total=total, description=name)


def run_until_stopped(work: Callable[[asyncio.Event], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine with an event that Ctrl-C and SIGTERM set, so that it can end in order."""

    async def with_signals() -> Any:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        return await work(stop)

    return asyncio.run(with_signals())


def print_table(rows: pa.Table, form: Format) -> None:
    """Print rows for a person, a spreadsheet or a program."""
    if form == "json":
        for row in rows.to_pylist():
            sys.stdout.write(
                json.dumps({name: _plain(value) for name, value in row.items()}, default=str) + "\n"
            )
        return
    if form == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(rows.column_names)
        writer.writerows([_plain(value) for value in row.values()] for row in rows.to_pylist())
        sys.stdout.write(text.getvalue())
        return
    table = Table(show_edge=False, header_style="bold")
    for field in rows.schema:
        is_number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        table.add_column(field.name, justify="right" if is_number else "left", overflow="fold")
    for row in rows.to_pylist():
        table.add_row(*(Text("" if value is None else str(_plain(value))) for value in row.values()))
    console.print(table)
    console.print(f"{rows.num_rows:,} row{'' if rows.num_rows == 1 else 's'}", style="dim", highlight=False)


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no NaN
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value
