"""Candles of a file that can be used: on the grid, ended by now, and without a hole that no market has."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.clock import US_NS, iso, width_ns
from storage.contracts.tables import CANDLES, QUARANTINE
from storage.errors import CaptureError, RangeError
from storage.lake.connection import connect_in_memory

Opens = Literal["first-trade", "previous-close"]

_WIDTHS: Final = ("1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "8h", "12h", "1d")
# A longer hole within one instrument's candles, in a year of minutes, is a wrong time: its bars would fill the memory.
_HOLE_STEPS: Final = 525_600
_MOST_REFUSED: Final = 100_000


@dataclass(frozen=True, slots=True)
class DatedCandles:
    """The candles of a file by the present.

    Args:
        width: of the candles.
        ended: those that have ended, as `read_candle_file` returns them.
        future: those that open after the present.
        notes: about those that are left out, in sentences.
    """

    width: str
    ended: pa.Table
    future: pa.Table
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClosedCandles:
    """Candles that have ended.

    Args:
        rows: with `instrument`; in the order of key and file.
        unusable: `instrument` and `ts_open` of candles without an open, which is no rule of the table.
        unusable_rows: the same candles as they are in the file.
        spans: `instrument`, and `first_ns` and `last_ns`: the opens of its first and its last candle, refused or not.
    """

    rows: pa.Table
    unusable: pa.Table
    unusable_rows: pa.Table
    spans: pa.Table


def split_by_time(rows: pa.Table, file: str, width: str | None, now_ns: int) -> DatedCandles:
    """Return the candles of a file that have ended, and those of the future.

    Args:
        rows: of `read_candle_file`.
        file: its name, for messages.
        width: of the candles (default: the most frequent step between two of one symbol).
        now_ns: the present.

    Raises:
        CaptureError: the width is not known, candles are off its grid, or too many lie in the future.
        RangeError: no candle has ended.
    """
    width = width or _guess_width(rows)
    step_ns = width_ns(width)
    t_ns = rows["t_ns"].to_numpy()
    if off_grid := int((t_ns % step_ns != 0).sum()):
        raise CaptureError(
            f"{file} has {off_grid} candles that do not open on the grid of {width}",
            hint="say the right width with --width, or mend the file",
        )
    is_future, has_ended = t_ns > now_ns, t_ns + step_ns <= now_ns
    notes = []
    if still_open := int((~is_future & ~has_ended).sum()):
        notes.append(
            f"{still_open:,} {'candle is' if still_open == 1 else 'candles are'} still open at {iso(now_ns)}: left out"
        )
    future = int(is_future.sum())
    where = f"the first at {iso(int(t_ns[is_future].min()))}; it is {iso(now_ns)}" if future else ""
    if not has_ended.any():
        raise RangeError(
            f"{file} holds no candle that has ended: {future or still_open} of {t_ns.size} lie in the future"
            f"{', ' + where if where else ''}",
            hint="times are UTC; --timezone names the zone of times without one",
        )
    if future > _MOST_REFUSED:
        raise CaptureError(
            f"{file}: {future:,} of {t_ns.size:,} candles lie in the future, {where}", hint="mend their times"
        )
    if future:
        lies = "1 candle lies" if future == 1 else f"{future:,} candles lie"
        notes.append(f"{lies} in the future, {where}: quarantined")
    return DatedCandles(
        width, rows.filter(pa.array(has_ended)), rows.filter(pa.array(is_future)), tuple(notes)
    )


def closed_candles(
    dated: DatedCandles, file: str, *, venue: str, kind: str, opens: Opens = "first-trade"
) -> ClosedCandles:
    """Return the candles that have ended, in the order of key and file.

    Args:
        dated: of `split_by_time`.
        file: its name, for messages.
        venue, kind: first and second part of the instrument ids.
        opens: meaning of the open.

    Raises:
        CaptureError: two candles of an instrument are 525,600 steps apart, a year of minutes.
    """
    with connect_in_memory() as run:
        run.register("ended", dated.ended)
        rows = run.execute(
            """SELECT concat_ws('|', ?, ?, symbol) AS instrument, * FROM ended
               ORDER BY instrument, t_ns, row_at""",
            [venue, kind],
        ).to_arrow_table()
        run.register("sorted", rows)
        spans = run.execute(
            """SELECT instrument, min(t_ns) AS first_ns, max(t_ns) AS last_ns FROM sorted
               GROUP BY instrument ORDER BY instrument"""
        ).to_arrow_table()
    _refuse_holes(rows, file, width_ns(dated.width))
    if opens == "previous-close":
        at = rows.column_names.index("open")
        unusable = rows.slice(0, 0)
        rows = rows.set_column(at, "open", pa.nulls(rows.num_rows, pa.float64()))
    else:
        is_missing = pc.is_null(rows["open"])
        unusable = rows.filter(is_missing)
        rows = rows.filter(pc.invert(is_missing)) if unusable.num_rows else rows
    openings = pa.array(unusable["t_ns"].to_numpy() // US_NS, CANDLES.schema.field("ts_open").type)
    keys = pa.Table.from_arrays(
        [unusable["instrument"], pa.chunked_array([openings])], names=["instrument", "ts_open"]
    )
    return ClosedCandles(rows, keys, unusable, spans)


def refused_rows(
    dated: DatedCandles, closed: ClosedCandles, *, venue: str, kind: str, source: str, now_ns: int
) -> pa.Table:
    """Return rows of `quarantine` for what breaks no contract of the table: the future, and a missing open.

    They have no knowable time, so a retry leaves them.
    """
    reasons: list[tuple[pa.Table, str]] = [
        (dated.future, f"it opens after {iso(now_ns)}"),
        (closed.unusable_rows, "open is null: not_nullable"),
    ]
    found: list[dict[str, Any]] = []
    for rows, reason in reasons:
        for row in rows.to_pylist():
            number, t_ns = row.pop("row_at"), row.pop("t_ns")
            name = f"{venue}|{kind}|{row.pop('symbol')}"
            raw = {"instrument": name, "width": dated.width, "ts_open": iso(t_ns), **row, "source": source}
            found.append(
                {
                    "table_name": "candles",
                    "reason": reason,
                    "raw": json.dumps(raw, default=str).encode(),
                    "source": f"{source}:row {number + 1}",
                    "ts_knowable_ns": now_ns,
                }
            )
    return QUARANTINE.rows(found)


def _guess_width(rows: pa.Table) -> str:
    """Return the most frequent step between two candles of one symbol; of equally frequent ones the least."""
    with connect_in_memory() as run:
        run.register("candles", rows)
        found = run.execute(
            """WITH steps AS (
                   SELECT t_ns - lag(t_ns) OVER (PARTITION BY symbol ORDER BY t_ns) AS step_ns FROM candles
               )
               SELECT step_ns FROM steps WHERE step_ns > 0
               GROUP BY step_ns ORDER BY count(*) DESC, step_ns LIMIT 1"""
        ).fetchone()
    for width in _WIDTHS:
        if found and found[0] == width_ns(width):
            return width
    raise CaptureError(
        "the width of the candles cannot be derived from their times", hint="say it: --width 5m"
    )


def _refuse_holes(rows: pa.Table, file: str, step_ns: int) -> None:
    """Refuse candles of one instrument that are so far apart that one of them has a wrong time."""
    t_ns = rows["t_ns"].to_numpy()
    same: Any = pc.equal(rows["instrument"][1:], rows["instrument"][:-1])
    holes = np.where(same.to_numpy(), np.diff(t_ns), 0)
    if holes.size and holes.max() > _HOLE_STEPS * step_ns:
        at = int(np.argmax(holes))
        before, after = iso(int(t_ns[at])), iso(int(t_ns[at + 1]))
        raise CaptureError(
            f"{file}: {rows['instrument'][at].as_py()} has no candle between {before} and {after}, which are "
            f"{holes[at] // step_ns:,} steps",
            hint="mend the wrong time, or import what lies before and after as two files",
        )
