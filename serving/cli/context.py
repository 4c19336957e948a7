"""Shared parts of all commands: settings, consoles, signal handling and table output."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import typer
from rich.console import Console

if TYPE_CHECKING:
    import asyncio

    import pyarrow as pa

    from storage.settings import Settings

Format = Literal["table", "csv", "json"]

console: Final = Console()
notes: Final = Console(stderr=True)
"""Progress and remarks, so that standard output carries only results."""


@dataclass(frozen=True, slots=True)
class CommandContext:
    """Value that the top-level callback passes to every command."""

    settings: Settings


def settings_of(context: typer.Context) -> Settings:
    """Return the settings in force."""
    chosen: CommandContext = context.obj
    return chosen.settings


def run_until_stopped(work: Callable[[asyncio.Event], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine with an event that Ctrl-C and SIGTERM set, so that it can shut down in order."""
    import asyncio
    import signal

    async def with_signals() -> Any:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        return await work(stop)

    return asyncio.run(with_signals())


def print_table(rows: pa.Table, form: Format) -> None:
    """Print rows as a table for people, as CSV, or as one JSON object per line."""
    import pyarrow as pa

    numeric = {
        field.name
        for field in rows.schema
        if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
    }
    print_rows(rows.to_pylist(), form, columns=rows.column_names, numeric=numeric)


def print_rows(
    rows: Sequence[Mapping[str, object]], form: Format, *, columns: Sequence[str], numeric: Set[str]
) -> None:
    """Print rows as `print_table` does; it is for rows that are not in Arrow, since `pa.array` imports pandas."""
    import csv
    import io
    import json
    import sys

    if form == "json":
        for row in rows:
            sys.stdout.write(
                json.dumps({name: _plain(value) for name, value in row.items()}, default=str) + "\n"
            )
        return
    if form == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_plain(value) for value in row.values()] for row in rows)
        sys.stdout.write(text.getvalue())
        return

    from rich.table import Table
    from rich.text import Text

    table = Table(show_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if value is None else str(_plain(value))) for value in row.values()))
    console.print(table)
    console.print(f"{len(rows):,} row{'' if len(rows) == 1 else 's'}", style="dim", highlight=False)


def _plain(value: object) -> object:
    """Convert a value that JSON or a terminal cannot show."""
    import math
    from decimal import Decimal

    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no NaN
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value
