"""As-of joins of books, funding payments and relay lags to the bars of a panel.

All joins in time use `asof_join`, so "knowable" has one meaning: each close gets the newest row with
`ts_knowable <= ts_close`, and the row's age is counted from its `ts_knowable`.
A row expires after a fixed time, so that no value depends on where a panel begins; features/inputs.py may apply
stricter limits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from storage.clock import MS_NS, NS

if TYPE_CHECKING:
    from storage.lake.lake import Lake

BOOK_COLUMNS: Final = ("bid_depth", "ask_depth", "book_age_ms", "book_cadence_ms")
PAID_COLUMNS: Final = ("paid_rate", "paid_age_ms")
RELAY_COLUMNS: Final = ("relay_lag_ms", "relay_age_ms")
JOINED: Final = (*BOOK_COLUMNS, *PAID_COLUMNS, *RELAY_COLUMNS)
"""Panel columns that are not columns of `bars`."""

DEPTH_LEVELS: Final = 5
"""Number of levels summed into a depth: as many as a fast book has."""
CADENCE_NS: Final = 60 * NS
"""Length of the window in which books are counted to find their cadence."""
_TABLES: Final = (BOOK_COLUMNS, PAID_COLUMNS, RELAY_COLUMNS)
_MODES: Final = ("fast", "slow", "relay")
PAID_NS: Final = 9 * 3_600 * NS
"""Expiry of a funding payment: payments used to come every 8 hours."""
RELAY_NS: Final = 300 * NS
"""Expiry of a relay lag."""
_RELAYS: Final = "gaiaex|"
_RELAY_CHANNEL: Final = "gaiaex relay"

Numbers: TypeAlias = npt.NDArray[np.float64]

# Of all books that became known within one step only the last can be the newest at a close; the rest is only counted.
_BOOKS: Final = f"""
WITH known AS (
    SELECT instrument, mode, ts_knowable_ns, ts_event, frame, bid_sz, ask_sz, is_stale,
           (ts_knowable_ns - 1 - $1) // $4 AS step
    FROM books
    WHERE list_contains($3, instrument)
      AND ts_knowable_ns > $1 AND ts_knowable_ns <= $2
), newest AS (
    SELECT instrument, mode, step, count(*) AS books,
           last({{'known_ns': ts_knowable_ns, 'bid': bid_sz[1:{DEPTH_LEVELS}], 'ask': ask_sz[1:{DEPTH_LEVELS}],
                 'is_stale': is_stale}} ORDER BY ts_knowable_ns, ts_event, frame) AS book
    FROM known GROUP BY ALL
)
SELECT instrument, mode, step, books, book.known_ns AS ts_knowable_ns,
       CASE WHEN NOT book.is_stale THEN list_sum(book.bid) END AS bid_depth,
       CASE WHEN NOT book.is_stale THEN list_sum(book.ask) END AS ask_depth
FROM newest ORDER BY mode, instrument, step
"""

_PAID: Final = """
SELECT instrument, ts_knowable_ns, funding_rate / interval_h AS paid_rate
FROM funding
WHERE list_contains($3, instrument) AND ts_knowable_ns > $1 AND ts_knowable_ns <= $2
ORDER BY instrument, ts_knowable_ns, ts_event
"""

_RELAY: Final = """
SELECT channel AS instrument, ts_knowable_ns, p50_ms AS relay_lag_ms
FROM lags
WHERE channel = $3 AND p50_ms IS NOT NULL AND ts_knowable_ns > $1 AND ts_knowable_ns <= $2
ORDER BY ts_knowable_ns, ts_from, journal
"""


@dataclass(frozen=True, slots=True)
class Grid:
    """Instruments and closes that rows are joined to.

    Args:
        instruments: (S,) ids.
        ts_close_ns: (T,) int64, increasing by `width_ns`; at least one.
        width_ns: the width of a bar.
    """

    instruments: tuple[str, ...]
    ts_close_ns: npt.NDArray[np.int64]
    width_ns: int

    def steps_in(self, span_ns: int) -> int:
        """Return the number of steps that cover a span, rounded up."""
        return -(-span_ns // self.width_ns)

    def window(self, span_ns: int) -> tuple[int, int]:
        """Return the range (after, until) of `ts_knowable` to read, from a span, in whole steps, before the grid."""
        first_open_ns = int(self.ts_close_ns[0]) - self.width_ns
        return first_open_ns - self.steps_in(span_ns) * self.width_ns, int(self.ts_close_ns[-1])


def joined_with(columns: Collection[str]) -> tuple[str, ...]:
    """Return the columns that `join_columns` returns for these: all columns of each table involved."""
    return tuple(name for names in _TABLES if set(names) & set(columns) for name in names)


def join_columns(lake: Lake, columns: Collection[str], grid: Grid, *, at: int | None) -> dict[str, Tensor]:
    """Return columns of other tables as of each close.

    Args:
        lake: the tables.
        columns: names of `JOINED`; a table is read if one of its columns is named.
        at: a snapshot of the lake (default: the newest).

    Returns:
        name -> (S, T) float64, NaN where nothing was known; all columns of each table that was read.
    """
    joined: dict[str, Numbers] = {}
    for names, join in zip(_TABLES, (_books, _paid, _relay_lag), strict=True):
        if set(names) & set(columns):
            joined |= join(lake, grid, at)
    return {name: torch.from_numpy(value) for name, value in joined.items()}


def asof_join(
    rows: pa.Table,
    columns: Sequence[str],
    *,
    instruments: Sequence[str],
    at_ns: npt.NDArray[np.int64],
    oldest_ns: int,
) -> tuple[dict[str, Numbers], Numbers]:
    """Return the newest row of each instrument that was knowable at each instant.

    Args:
        rows: `instrument`, `ts_knowable_ns` and `columns`, ordered by instrument and then by `ts_knowable_ns`;
            of rows with equal times the last one wins.
        columns: columns to return.
        instruments: (S,) ids.
        at_ns: (T,) int64, increasing.
        oldest_ns: a row expires once it has been knowable for this long.

    Returns:
        name -> (S, T) float64, NaN where no row was known or its value is null; and the age of the row in
        milliseconds, (S, T) float64, NaN where there is no row.
    """
    shape = (len(instruments), len(at_ns))
    found = {name: np.full(shape, np.nan) for name in columns}
    age_ms = np.full(shape, np.nan)
    values = {name: rows[name].cast(pa.float64()).to_numpy() for name in columns}
    known_ns = rows["ts_knowable_ns"].to_numpy()
    names, code = _coded(rows["instrument"])
    for place, name in enumerate(instruments):
        if name not in names:
            continue
        start, stop = np.searchsorted(code, [names[name], names[name] + 1]).tolist()
        newest = np.searchsorted(known_ns[start:stop], at_ns, side="right") - 1
        is_known = (newest >= 0) & (known_ns[start + np.maximum(newest, 0)] > at_ns - oldest_ns)
        row = start + newest[is_known]
        age_ms[place, is_known] = (at_ns[is_known] - known_ns[row]) / MS_NS
        for column, value in values.items():
            found[column][place, is_known] = value[row]
    return found, age_ms


def _books(lake: Lake, grid: Grid, at: int | None) -> dict[str, Numbers]:
    """Return depth, age and cadence of the most frequent kind of book; ties go to the first of `_MODES`."""
    rows = lake.query(_BOOKS, (*grid.window(CADENCE_NS), list(grid.instruments), grid.width_ns), at=at)
    span_ns = grid.steps_in(CADENCE_NS) * grid.width_ns
    joined, counts = [], []
    for mode in _MODES:
        part = rows.filter(pc.equal(rows["mode"], pa.scalar(mode)))
        joined.append(_joined(part, ("bid_depth", "ask_depth"), "book_age_ms", grid, span_ns))
        counts.append(_count_back(part, grid))
    count = np.stack(counts)
    often = np.argmax(count, axis=0)[None]
    chosen = {
        name: np.take_along_axis(np.stack([of_mode[name] for of_mode in joined]), often, axis=0)[0]
        for name in joined[0]
    }
    most = count.max(axis=0)
    return chosen | {"book_cadence_ms": np.where(most > 0, span_ns / MS_NS / np.maximum(most, 1), np.nan)}


def _count_back(rows: pa.Table, grid: Grid) -> npt.NDArray[np.int64]:
    """Return the number of books that became known within `CADENCE_NS` before each close, in whole steps, (S, T)."""
    back_steps = grid.steps_in(CADENCE_NS)
    names, code = _coded(rows["instrument"])
    places = np.array([grid.instruments.index(name) for name in names], dtype=np.int64)
    counted = np.zeros((len(grid.instruments), back_steps + len(grid.ts_close_ns)), dtype=np.int64)
    counted[places[code], rows["step"].to_numpy()] = rows["books"].to_numpy()
    # Integers: a running sum is exact wherever it begins.
    total = np.pad(counted.cumsum(axis=1), ((0, 0), (1, 0)))
    recent: npt.NDArray[np.int64] = total[:, 1 + back_steps :] - total[:, 1:-back_steps]
    return recent


def _paid(lake: Lake, grid: Grid, at: int | None) -> dict[str, Numbers]:
    """Return the last funding payment, per hour, and its age."""
    rows = lake.query(_PAID, (*grid.window(PAID_NS), list(grid.instruments)), at=at)
    return _joined(rows, ("paid_rate",), "paid_age_ms", grid, PAID_NS)


def _relay_lag(lake: Lake, grid: Grid, at: int | None) -> dict[str, Numbers]:
    """Return the lag over all relayed books, for relayed instruments; NaN for others."""
    rows = lake.query(_RELAY, (*grid.window(RELAY_NS), _RELAY_CHANNEL), at=at)
    whole = replace(grid, instruments=(_RELAY_CHANNEL,))
    found = _joined(rows, ("relay_lag_ms",), "relay_age_ms", whole, RELAY_NS)
    is_relay = np.array([name.startswith(_RELAYS) for name in grid.instruments])[:, None]
    return {name: np.where(is_relay, value, np.nan) for name, value in found.items()}


def _joined(
    rows: pa.Table, columns: Sequence[str], age: str, grid: Grid, oldest_ns: int
) -> dict[str, Numbers]:
    found, age_ms = asof_join(
        rows, columns, instruments=grid.instruments, at_ns=grid.ts_close_ns, oldest_ns=oldest_ns
    )
    return found | {age: age_ms}


def _coded(column: pa.ChunkedArray[Any]) -> tuple[dict[str, int], npt.NDArray[np.int64]]:
    """Dictionary-encode an ordered column; return the code of each id, and the ascending codes of the rows."""
    coded: Any = column.cast(pa.string()).combine_chunks().dictionary_encode()
    names = {name: code for code, name in enumerate(coded.dictionary.to_pylist())}
    return names, coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
