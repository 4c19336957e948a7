"""Progress bars on standard error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from serving.cli.context import notes


@contextlib.contextmanager
def byte_progress(label: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show a bar of bytes; yield the function that advances it."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=notes, transient=True) as progress:
        task = progress.add_task(label, total=total_bytes)
        yield lambda size: progress.advance(task, size)


@contextlib.contextmanager
def row_progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar of rows; yield the function that advances it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=notes, transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda rows: progress.advance(task, rows)


@contextlib.contextmanager
def growing_progress(label: str) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """Show a bar of rows whose number is not known yet; yield the functions that set it and that advance the bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=notes, transient=True) as progress:
        task = progress.add_task(label, total=None)
        yield lambda total: progress.update(task, total=total), lambda rows: progress.advance(task, rows)


@contextlib.contextmanager
def step_progress(label: str, total: int) -> Iterator[Callable[[str], None]]:
    """Show a bar of steps; yield the function that completes a step and names the next."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=notes, transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda name: progress.update(task, advance=1, description=name)


class _RowsPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Render the number of rows so far and the rows per second."""
        rows = int(task.fields["rows"])
        pace = f", {rows / task.elapsed:,.0f} rows/s" if rows and task.elapsed else ""
        return Text(f"{rows:,} rows{pace}", style="dim")


@contextlib.contextmanager
def day_progress(label: str) -> Iterator[Callable[[int, int, int], None]]:
    """Show a bar of days with rows, pace and time left; yield a function of (done, total, rows)."""
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
        """Render the recent pace."""
        return Text(f"{task.speed * 60:,.0f} steps/min" if task.speed else "", style="dim")


@contextlib.contextmanager
def paced_progress(label: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show a bar of steps with pace and time left; yield a function of (done, total, name)."""
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


@contextlib.contextmanager
def rebuild_progress(
    total_bytes: int, steps: int
) -> Iterator[tuple[Callable[[int], None], Callable[[str], None]]]:
    """Show bytes of sources read and the last source or table finished; yield the functions that advance both."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=notes, transient=True) as progress:
        read = progress.add_task(f"reading {total_bytes / 1e6:,.1f} MB of sources", total=total_bytes)
        step = progress.add_task("building and comparing", total=steps)
        yield (
            lambda size: progress.advance(read, size),
            lambda name: progress.update(step, advance=1, description=f"done: {name}"),
        )


@contextlib.contextmanager
def night_progress(label: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show a bar of nights with time left; yield a function of (done, total, what is done now)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("nights"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # The first night trains all folds, so the pace of the newest nights counts.
    with Progress(*columns, console=notes, transient=True, speed_estimate_period=600) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total, name: progress.update(task, completed=done, total=total, description=name)
