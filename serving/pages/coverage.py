"""Coverage of instruments by day, as one letter per cell, and the details of a cell."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

import pyarrow as pa

from storage.contracts.coverage_days import DAY_STATES
from storage.lake.lake import Lake

LETTERS: Final = dict(zip(DAY_STATES, "crpm", strict=True))
NONE: Final = "."
"""A day without a row: the instrument was not listed, or the day was not sealed."""

_CELLS: Final = "SELECT instrument, day, state FROM coverage_days_latest"
_CELL: Final = """
    SELECT instrument, day, state, covered_h, missing_h, repairable_h, causes
    FROM coverage_days_latest WHERE instrument = ? AND day = ?
"""


@dataclass(frozen=True, slots=True)
class CoverageGrid:
    """States of instruments by day.

    Args:
        first, last: the first and the last day; empty without rows.
        days: number of days.
        instruments: ids, sorted.
        rows: one text per instrument, a letter of `LETTERS` or `NONE` per day.
    """

    first: str
    last: str
    days: int
    instruments: tuple[str, ...]
    rows: tuple[str, ...]


def read_grid(lake: Lake) -> CoverageGrid:
    """Return the grid of all sealed days."""
    return make_grid(lake.query(_CELLS))


def make_grid(cells: pa.Table) -> CoverageGrid:
    """Return the grid of rows with instrument, day and state."""
    if not cells.num_rows:
        return CoverageGrid("", "", 0, (), ())
    columns = [cells[name].to_pylist() for name in ("instrument", "day", "state")]
    sealed = [str(day) for day in columns[1]]
    first, last = date.fromisoformat(min(sealed)), date.fromisoformat(max(sealed))
    count = (last - first).days + 1
    place = {str(first + timedelta(days=n)): n for n in range(count)}
    grid: dict[str, bytearray] = {}
    for instrument, day, state in zip(*columns, strict=True):
        row = grid.setdefault(instrument, bytearray(NONE.encode() * count))
        row[place[day]] = ord(LETTERS[state])
    names = tuple(sorted(grid))
    return CoverageGrid(str(first), str(last), count, names, tuple(grid[name].decode() for name in names))


def read_cell(lake: Lake, instrument: str, day: str) -> dict[str, Any] | None:
    """Return hours and causes of a day of an instrument, and the command that fills it; `None` without a row."""
    rows = lake.query(_CELL, (instrument, day)).to_pylist()
    if not rows:
        return None
    row = rows[0]
    causes = [part.split("=") for part in row["causes"].split(",") if part]
    coin = instrument.rpartition("|")[2]
    until = date.fromisoformat(day) + timedelta(days=1)
    return row | {
        "causes": [{"cause": name.replace("_", " "), "hours": float(hours)} for name, hours in causes],
        "command": f"tickwalk backfill candles --coin {coin} --from {day} --to {until}"
        if row["missing_h"]
        else "",
    }
