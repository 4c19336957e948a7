"""Dense panels of bars: every instrument at every step of one clock, point-in-time.

A step without a row has the status `unknown`. Of the rows of a bar that were known at its close plus the grace, each
bar holds the one that counts, completed from the others (`storage.lake.point_in_time`). Known are the rows that a live
system had (`served`), or those that the venue had published (`available`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from features.panel.asof_join import JOINED, Grid, join_columns
from storage.clock import US_NS, floor_ns, iso, width_ns
from storage.contracts.contract import ORIGINS
from storage.contracts.tables import SESSIONS, STATUSES
from storage.errors import ContractError, InstrumentError, RangeError
from storage.lake.point_in_time import Basis, is_known, known_bars

if TYPE_CHECKING:
    from storage.lake.lake import Lake

Nanoseconds: TypeAlias = npt.NDArray[np.int64]

PRICES: Final = ("open", "high", "low", "close", "vwap")
AMOUNTS: Final = ("volume", "buy_volume", "notional", "trades")
QUOTES: Final = ("bid", "ask", "bid_size", "ask_size")
CONTEXTS: Final = ("funding_rate", "open_interest", "oracle", "mark")
AGES: Final = ("quote_age_ms", "context_age_ms", "observed_ms")
ATTRIBUTES: Final = ("session", "trades_applicable")
_BAR_COLUMNS: Final = (*PRICES, *AMOUNTS, *QUOTES, *CONTEXTS, *AGES, *ATTRIBUTES)
COLUMNS: Final[tuple[str, ...]] = (*_BAR_COLUMNS, *JOINED)
"""Numeric columns of a panel: those of `bars` (`session` as its index in `SESSIONS`), and those joined as of the close
(features/panel/asof_join.py)."""

_CODES: Final = {status: code for code, status in enumerate(STATUSES)}
PRINTED: Final = _CODES["printed"]
QUIET: Final = _CODES["quiet"]
UNKNOWN: Final = _CODES["unknown"]

_MATCHES: Final = "width = ? AND ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?)"
_ORIGIN: Final = "list_contains(?, origin)"
_INSTRUMENT: Final = "(? OR list_contains(?, instrument))"


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """Bars of S instruments on T steps of one clock.

    Args:
        instruments: (S,) ids, sorted as by `load_panel`.
        width_ns: the width of a bar.
        ts_open_ns: (T,) int64, increasing by exactly `width_ns`.
        values: name -> (S, T) float64, NaN where null; names are those of `COLUMNS`. An absent column counts as all
            NaN.
        status: (S, T) uint8, index into `storage.contracts.tables.STATUSES`.

    Raises:
        ContractError: shapes, types or the clock are inconsistent.
    """

    instruments: tuple[str, ...]
    width_ns: int
    ts_open_ns: Nanoseconds
    values: dict[str, Tensor]
    status: Tensor

    def __post_init__(self) -> None:
        shape = (len(self.instruments), len(self.ts_open_ns))
        if tuple(self.status.shape) != shape or self.status.dtype != torch.uint8:
            raise ContractError(
                f"panel status is {tuple(self.status.shape)} {self.status.dtype}; it must be {shape} uint8"
            )
        for name, value in self.values.items():
            if name not in COLUMNS:
                raise ContractError(f"panel column {name!r} is none of {', '.join(COLUMNS)}")
            if tuple(value.shape) != shape or value.dtype != torch.float64:
                raise ContractError(
                    f"panel column {name!r} is {tuple(value.shape)} {value.dtype}; it must be {shape} float64"
                )
        if np.any(np.diff(self.ts_open_ns) != self.width_ns):
            raise ContractError(f"panel clock does not rise by {self.width_ns} ns at every step")

    @property
    def n_instruments(self) -> int:
        """Number of instruments, S."""
        return len(self.instruments)

    @property
    def n_steps(self) -> int:
        """Number of steps, T."""
        return len(self.ts_open_ns)

    @property
    def ts_close_ns(self) -> Nanoseconds:
        """(T,) exclusive end of each bar."""
        return self.ts_open_ns + self.width_ns

    @property
    def printed(self) -> Tensor:
        """(S, T) bool, true where the bar was watched throughout and has prints."""
        return self.status == PRINTED

    def column(self, name: str) -> Tensor:
        """Return a column as (S, T) float64; all NaN if the panel does not carry it."""
        if name not in COLUMNS:
            raise ContractError(f"panel column {name!r} is none of {', '.join(COLUMNS)}")
        if name in self.values:
            return self.values[name]
        missing = torch.full((), torch.nan, dtype=torch.float64, device=self.status.device)
        return missing.expand(self.status.shape)

    def steps(self, start: int | None = None, stop: int | None = None) -> Panel:
        """Return the steps `start` to `stop` by index, with the semantics of a Python slice; no data is copied."""
        cut = slice(start, stop)
        return Panel(
            instruments=self.instruments,
            width_ns=self.width_ns,
            ts_open_ns=self.ts_open_ns[cut],
            values={name: value[:, cut] for name, value in self.values.items()},
            status=self.status[:, cut],
        )

    def slice(self, start_ns: int, stop_ns: int) -> Panel:
        """Return the bars that open in `[start_ns, stop_ns)`; no data is copied."""
        start, stop = np.searchsorted(self.ts_open_ns, [start_ns, stop_ns])
        return self.steps(int(start), int(stop))

    def reindexed(self, instruments: Sequence[str]) -> Panel:
        """Return a panel of these instruments; every step of one that is absent here is unknown."""
        if tuple(instruments) == self.instruments:
            return self
        place = {name: row for row, name in enumerate(self.instruments)}
        rows = torch.tensor([row for row, name in enumerate(instruments) if name in place], dtype=torch.int64)
        found = torch.tensor([place[name] for name in instruments if name in place], dtype=torch.int64)
        status = torch.full((len(instruments), self.n_steps), UNKNOWN, dtype=torch.uint8)
        status[rows] = self.status[found]
        values = {}
        for name, value in self.values.items():
            values[name] = torch.full(status.shape, torch.nan, dtype=torch.float64)
            values[name].index_copy_(0, rows, value.index_select(0, found))
        return Panel(tuple(instruments), self.width_ns, self.ts_open_ns, values, status)

    def select(self, order: Sequence[int]) -> Panel:
        """Return a panel of the instruments at these indices, in this order."""
        index = torch.tensor(list(order), dtype=torch.int64)
        return Panel(
            instruments=tuple(self.instruments[i] for i in order),
            width_ns=self.width_ns,
            ts_open_ns=self.ts_open_ns,
            # Indexing with a tensor asks torch's threads for each column: 8 ms instead of 0.02 on two busy cores.
            values={name: value.index_select(0, index) for name, value in self.values.items()},
            status=self.status.index_select(0, index),
        )


def load_panel(
    lake: Lake,
    *,
    width: str,
    since_ns: int | None = None,
    until_ns: int | None = None,
    instruments: Sequence[str] | None = None,
    origins: Sequence[str] = ORIGINS,
    joined: Collection[str] = (),
    at: int | None = None,
    grace_ns: int,
    rows: Basis = "served",
) -> Panel:
    """Read the bars that open in `[since_ns, until_ns)`, each as it was known at its close plus the grace.

    Args:
        lake: the tables.
        width: bar width, such as `1m`.
        since_ns, until_ns: bounds of `ts_open` (default: the first and last bar).
        instruments: ids (default: every instrument with a bar in the range).
        origins: accepted origins of a row.
        joined: columns of other tables to join, names of `JOINED`, as a feature set needs (`features.sets.columns_of`).
        at: a snapshot of the lake (default: the newest).
        grace_ns: a row is used if it was known by this long after its bar's close.
        rows: whose clock says what was known.

    Raises:
        RangeError: no bar matches.
        InstrumentError: a requested instrument has no bar.
    """
    width_ns(width)  # an unknown width is an error of its own, not a range without bars
    wanted = sorted(set(instruments)) if instruments is not None else []
    bounds_us = open_bounds_us(since_ns, until_ns)
    params = (width, *bounds_us, grace_ns, list(origins), instruments is None, wanted)
    bars = lake.query(_select(rows), params, at=at)
    if bars.num_rows == 0:
        raise (
            missing_instrument_error(wanted[0])
            if wanted
            else no_bars_error(width, origins, since_ns, until_ns)
        )
    panel = panel_from_table(bars, width=width, since_ns=since_ns, until_ns=until_ns, instruments=instruments)
    return with_joined(panel, lake, joined, at=at)


def served_instruments(
    lake: Lake,
    *,
    width: str,
    since_ns: int | None = None,
    until_ns: int | None = None,
    origins: Sequence[str] = ORIGINS,
    at: int | None = None,
    grace_ns: int,
    rows: Basis = "served",
) -> list[str]:
    """Return the ids that `load_panel` would choose for the same arguments; a range without bars gives none."""
    params = (width, *open_bounds_us(since_ns, until_ns), grace_ns, list(origins))
    where = f"{_MATCHES} AND {is_known(rows)} AND {_ORIGIN}"
    sql = f"SELECT DISTINCT instrument FROM bars WHERE {where} ORDER BY instrument"
    names: list[str] = lake.query(sql, params, at=at).to_pydict()["instrument"]
    return names


@cache
def _select(rows: Basis) -> str:
    names = ("instrument", "ts_open", "status", *_BAR_COLUMNS)
    where = f"{_MATCHES} AND {is_known(rows)} AND {_ORIGIN} AND {_INSTRUMENT}"
    return f"SELECT {', '.join(names)} FROM ({known_bars(names, where=where, basis=rows)}) ORDER BY instrument, ts_open"


def open_bounds_us(since_ns: int | None, until_ns: int | None) -> tuple[int, int]:
    """Return bounds of `ts_open` in microseconds, the unit of the tables; an open bound lies beyond every bar."""
    first_us = -(2**62) // US_NS if since_ns is None else -(-since_ns // US_NS)
    last_us = 2**62 // US_NS if until_ns is None else -(-until_ns // US_NS)
    return first_us, last_us


def no_bars_error(
    width: str, origins: Sequence[str], since_ns: int | None, until_ns: int | None
) -> RangeError:
    """Return the error for a query that no bar matches."""
    of_origin = "" if set(origins) == set(ORIGINS) else f" of origin {' or '.join(origins)}"
    return RangeError(
        f"no {width} bar{of_origin} opens "
        f"from {_iso_or(since_ns, 'the beginning')} to {_iso_or(until_ns, 'the end')}",
        hint='see what the lake holds: tickwalk sql "SELECT width, origin, min(ts_open), max(ts_open), count(*) '
        'FROM bars GROUP BY ALL"',
    )


def missing_instrument_error(instrument: str) -> InstrumentError:
    """Return the error for a requested instrument without a matching bar."""
    return InstrumentError(
        f"{instrument} has no bar in the requested range",
        hint='list the instruments: tickwalk sql "SELECT DISTINCT instrument FROM bars"',
    )


def with_joined(panel: Panel, lake: Lake, joined: Collection[str], *, at: int | None) -> Panel:
    """Return a panel with columns joined from other tables (`features.panel.asof_join.join_columns`)."""
    grid = Grid(panel.instruments, panel.ts_close_ns, panel.width_ns)
    return replace(panel, values=panel.values | join_columns(lake, joined, grid, at=at))


def panel_from_table(
    bars: pa.Table,
    *,
    width: str,
    since_ns: int | None = None,
    until_ns: int | None = None,
    instruments: Sequence[str] | None = None,
) -> Panel:
    """Arrange rows on a dense grid; a step without a row is `unknown`, and its numbers are NaN.

    Args:
        bars: `instrument`, `ts_open`, `status` and any of `COLUMNS`; one row per bar, all within the bounds.
        since_ns, until_ns: bounds of the grid (default: the first and last row).

    Raises:
        ContractError: two rows for one bar, a row off the grid, or an unknown status.
        InstrumentError: a requested instrument has no row.
        RangeError: there are no rows, or the bounds contain no step.
    """
    if bars.num_rows == 0:
        raise RangeError("a panel cannot be made of an empty table of bars")
    step_ns = width_ns(width)
    opens_ns = bars["ts_open"].cast(pa.int64()).to_numpy() * US_NS
    names, row = _instrument_index(bars["instrument"], instruments)
    start_ns = _ceil_ns(since_ns, step_ns) if since_ns is not None else int(opens_ns.min())
    stop_ns = _ceil_ns(until_ns, step_ns) if until_ns is not None else int(opens_ns.max()) + step_ns
    if stop_ns <= start_ns:
        raise RangeError(f"no {width} step opens from {iso(start_ns)} to {iso(stop_ns)}")
    offset = opens_ns - start_ns
    if np.any(offset % step_ns) or floor_ns(start_ns, step_ns) != start_ns:
        raise ContractError(f"a bar does not open on the {width} grid")

    # Where each row lands in the flat (S * T) grid.
    n_steps = (stop_ns - start_ns) // step_ns
    if offset.min() < 0 or offset.max() >= n_steps * step_ns:
        raise ContractError(f"a bar opens outside {iso(start_ns)} to {iso(stop_ns)}")
    cell = row * n_steps + offset // step_ns
    status = np.full(len(names) * n_steps, UNKNOWN, dtype=np.uint8)
    if np.bincount(cell).max() > 1:
        raise ContractError("two rows stand for one bar; choose one revision per bar first")
    status[cell] = _status_codes(bars["status"])

    values = {}
    for name in COLUMNS:
        if name in bars.column_names:
            flat = np.full(len(names) * n_steps, np.nan)
            flat[cell] = _numbers(bars[name])
            values[name] = torch.from_numpy(flat.reshape(len(names), n_steps))
    return Panel(
        instruments=names,
        width_ns=step_ns,
        ts_open_ns=start_ns + step_ns * np.arange(n_steps, dtype=np.int64),
        values=values,
        status=torch.from_numpy(status.reshape(len(names), n_steps)),
    )


def content_hash(panel: Panel, rows: Basis = "served") -> str:
    """Return a hash of all rows of the panel, and of the basis by which they were read.

    Equal rows of one basis give equal hashes, whatever the lake and the day.
    """
    digest = hashlib.sha256(b"" if rows == "served" else rows.encode())
    digest.update(json.dumps([panel.instruments, panel.width_ns, COLUMNS, STATUSES]).encode())
    digest.update(np.ascontiguousarray(panel.ts_open_ns, dtype="<i8").data)
    digest.update(panel.status.cpu().contiguous().numpy().data)
    data: npt.NDArray[np.float64] = np.empty(panel.status.shape, dtype="<f8")
    is_nan = np.empty(panel.status.shape, dtype=np.bool_)
    for name in COLUMNS:
        if name in panel.values:
            np.copyto(data, panel.values[name].cpu().numpy())
            # The same bit pattern for every NaN.
            np.copyto(data, np.nan, where=np.isnan(data, out=is_nan))
        else:
            data.fill(np.nan)
        digest.update(data.data)
    return digest.hexdigest()


def _instrument_index(
    column: pa.ChunkedArray[Any], instruments: Sequence[str] | None
) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """Return the sorted ids, and for each row the index of its id."""
    coded: Any = column.cast(pa.string()).combine_chunks().dictionary_encode()
    found: list[str] = coded.dictionary.to_pylist()
    names = tuple(sorted(set(found) if instruments is None else set(instruments)))
    if absent := sorted(set(names) - set(found)):
        raise missing_instrument_error(absent[0])
    if extra := sorted(set(found) - set(names)):
        raise ContractError(f"the table has rows of {extra[0]}, which was not requested")
    place = np.array([names.index(name) for name in found], dtype=np.int64)
    return names, place[coded.indices.to_numpy(zero_copy_only=False)]


def _status_codes(column: pa.ChunkedArray[Any]) -> npt.NDArray[np.uint8]:
    codes = pc.index_in(column.cast(pa.string()), value_set=pa.array(STATUSES))
    if codes.null_count:
        strange = column.filter(pc.is_null(codes))[0].as_py()
        raise ContractError(f"bar status {strange!r} is none of {', '.join(STATUSES)}")
    return codes.to_numpy().astype(np.uint8)


def _numbers(column: pa.ChunkedArray[Any]) -> npt.NDArray[np.float64]:
    """Return a column as float64; the session, which is text, as its index in `SESSIONS`."""
    if pa.types.is_string(column.type):
        return pc.index_in(column, value_set=pa.array(SESSIONS)).cast(pa.float64()).to_numpy(False)
    return column.cast(pa.float64()).to_numpy()


def _ceil_ns(t_ns: int, step_ns: int) -> int:
    return floor_ns(t_ns + step_ns - 1, step_ns)


def _iso_or(t_ns: int | None, otherwise: str) -> str:
    return otherwise if t_ns is None else iso(t_ns)
