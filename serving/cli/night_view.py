"""The live view of a night on standard error: a table of its fits on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from serving.cli.context import notes

if TYPE_CHECKING:
    from serving.fit_view import FitPoint

_COLUMNS: Final = ("fold", "model", "epoch", "train loss", "valid loss", "IC", "rows/s", "best epoch")
_ROWS: Final = 8
_LINE_EVERY_S: Final = 10.0
"""Least seconds between two plain lines of one step."""


class NightView:
    """The newest step of a night, and its newest fits.

    Args:
        console: where it is shown.
        clock: returns seconds.
    """

    def __init__(self, console: Console = notes, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._step, self._line_s = "opening the night", -_LINE_EVERY_S
        self._fits: dict[tuple[int, str], FitPoint] = {}
        self._live: Live | None = None

    @contextlib.contextmanager
    def shown(self) -> Iterator[NightView]:
        """Show it until the block ends."""
        if not self._console.is_terminal:
            yield self
            return
        with Live(self._table(), console=self._console, transient=True, refresh_per_second=4) as self._live:
            yield self

    def step(self, text: str) -> None:
        """Show a step, with the time left where that is estimated."""
        self._step = text
        if self._live is not None:
            self._live.update(self._table())
            return
        # A fit has many points, and only some need a line; every other step has one.
        now_s = self._clock()
        if ", epoch " not in text or now_s - self._line_s >= _LINE_EVERY_S:
            self._line_s = now_s
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def fit(self, point: FitPoint) -> None:
        """Show a fit at a validation point."""
        key = (point.fold, point.model)
        self._fits.pop(key, None)
        self._fits[key] = point
        while len(self._fits) > _ROWS:
            del self._fits[next(iter(self._fits))]
        if self._live is not None:
            self._live.update(self._table())

    def _table(self) -> Group:
        step = Text(self._step)
        if not self._fits:
            return Group(step)
        table = Table(box=None, padding=(0, 2, 0, 0))
        for place, name in enumerate(_COLUMNS):
            table.add_column(name, justify="left" if place < 2 else "right", style="dim" if place > 6 else "")
        for point in self._fits.values():
            table.add_row(*point.cells)
        return Group(table, step)
