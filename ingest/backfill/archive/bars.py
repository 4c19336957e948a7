"""Bars from an hour of archived trades, and their merge with stored bars.

An archived bar is as reliable as a watched one if fills of any coins lie close enough together on both sides of it,
which proves that the archive was being written. Without that it is `blind`. A coin without a trade in the whole hour
gets no bar: an archive does not state what is listed. Watched bars in the lake stay; a bar that was not watched keeps
the recorder's quotes and context, and gets the archive's trades as its next revision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ingest.backfill.archive.fill_pairing import Fills
from ingest.backfill.archive.refused_fills import FILLS_REFUSED, RefusedSpan, refused_bars
from ingest.bars.aggregate import Folded, fold
from ingest.bars.bar_status import statuses_of
from ingest.instruments.trading_calendar import session_at
from storage.clock import MS_NS, US_NS, width_ns
from storage.contracts.tables import BARS
from storage.lake.connection import connect_in_memory

Array = NDArray[Any]

ARCHIVE_SILENT: Final = "archive silent"
"""Cause of a bar without proof that the archive was being written."""

_LARGEST_PRICE: Final = 1e12
_LARGEST_SIZE: Final = 1e15
_MARKET: Final = (
    "bid", "ask", "bid_size", "ask_size", "quote_age_ms",
    "funding_rate", "open_interest", "oracle", "mark", "context_age_ms",
)  # fmt: skip


def proven_spans(beats_ms: Array, silence_ms: int) -> Array:
    """Return (k, 2) spans in which the archive was being written, in milliseconds.

    Args:
        beats_ms: (n,) rising times of written fills.
        silence_ms: a longer gap between two of them is not proven.

    >>> proven_spans(np.array([0, 20, 50, 200, 210]), 60).tolist()
    [[0, 50], [200, 210]]
    """
    if not len(beats_ms):
        return np.empty((0, 2), np.int64)
    breaks = np.flatnonzero(np.diff(beats_ms) > silence_ms)
    starts, ends = np.append(0, breaks + 1), np.append(breaks, len(beats_ms) - 1)
    return np.column_stack((beats_ms[starts], beats_ms[ends]))


def make_bars(
    prints: Fills,
    instruments: Sequence[str],
    parts_ms: Array,
    width: str,
    *,
    from_ms: int,
    to_ms: int,
    lag_ms: int,
    coins: Sequence[str] = (),
    refused: Sequence[RefusedSpan] = (),
) -> pa.Table:
    """Return the bars of an hour for the instruments that traded in it.

    Args:
        prints: trades in the order in which they were written.
        instruments: ids by code of the coin.
        parts_ms: (k, 2) see `proven_spans`.
        width: of the bars; divides the range.
        from_ms, to_ms: the range.
        lag_ms: time from the close of a bar until it is knowable.
        coins: names by code, of which spans name some.
        refused: times in which trades were refused; bars that contain one are blind.
    """
    step_ms = width_ns(width) // MS_NS
    steps = (to_ms - from_ms) // step_ms
    # Rows that the lake refuses must make no bar either.
    sound = (prints["price"] > 0) & (prints["price"] <= _LARGEST_PRICE) & (prints["size"] <= _LARGEST_SIZE)
    sound &= prints["size"] > 0
    present = np.unique(prints["coin"][sound])
    codes = prints["coin"][~sound].tolist()
    unsound = [
        RefusedSpan(instruments[code], time_ms, time_ms)
        for code, time_ms in zip(codes, prints["time_ms"][~sound].tolist(), strict=True)
    ]
    prints = prints.at(sound)
    bar = np.searchsorted(present, prints["coin"]) * steps + (prints["time_ms"] - from_ms) // step_ms
    order = np.lexsort((prints["time_ms"], bar))
    columns = (np.ascontiguousarray(prints[name][order]) for name in ("price", "size", "side"))
    folded = fold(bar[order], *columns, bars=len(present) * steps)
    opens = from_ms + step_ms * np.arange(steps)
    names = [instruments[code] for code in present.tolist()]
    lacking = refused_bars(unsound, names, opens, step_ms)
    lacking |= refused_bars(
        refused, [coins[code] for code in present.tolist()] if refused else names, opens, step_ms
    )
    return _table(folded, names, opens, step_ms, parts_ms, width, lag_ms, lacking.ravel())


def _table(
    folded: Folded,
    names: list[str],
    opens: Array,
    step_ms: int,
    parts_ms: Array,
    width: str,
    lag_ms: int,
    lacking: Array,
) -> pa.Table:
    count, each = len(names) * len(opens), len(names)
    open_ms = np.tile(opens, each)
    observed = np.tile(_observed(opens, opens + step_ms, parts_ms), each)
    is_whole, is_printed = observed == step_ms, folded.trades > 0
    status = statuses_of(count, is_missing=~is_whole | lacking, is_printed=is_printed)
    empty = ~is_printed
    texts = {
        "instrument": np.repeat(np.array(names, dtype=object), len(opens)),
        "status": status,
        "cause": np.where(lacking, FILLS_REFUSED, np.where(is_whole, "", ARCHIVE_SILENT)),
        "session": [session_at(name, ms * MS_NS) for name in names for ms in opens.tolist()],
    }
    stamps = {"ts_open": open_ms * 1_000, "ts_close": (open_ms + step_ms) * 1_000}
    with np.errstate(invalid="ignore"):
        vwap = folded.notional / folded.volume
    columns: dict[str, Any] = {
        **texts,
        **stamps,
        "width": pa.repeat(pa.scalar(width), count),
        "revision": np.zeros(count, np.int32),
        "origin": pa.repeat(pa.scalar("archive"), count),
        "observed_ms": observed,
        "repaired": np.zeros(count, np.bool_),
        "certified": np.zeros(count, np.bool_),
        **{name: pa.array(getattr(folded, name), mask=empty) for name in ("open", "high", "low", "close")},
        "volume": folded.volume,
        "buy_volume": pa.array(folded.buy_volume, mask=~folded.is_side_known),
        "notional": folded.notional,
        "vwap": pa.array(vwap, mask=empty),
        "trades": folded.trades,
        "trades_applicable": np.ones(count, np.bool_),
        "ts_knowable_ns": (open_ms + step_ms + lag_ms) * MS_NS,
        "ts_available_ns": (open_ms + step_ms + lag_ms) * MS_NS,
    }
    arrays = [
        pa.nulls(count, item.type) if item.name in _MARKET else pa.array(columns[item.name]).cast(item.type)
        for item in BARS.schema
    ]
    return pa.Table.from_arrays(arrays, schema=BARS.schema)


def _observed(opens: Array, closes: Array, parts_ms: Array) -> Array:
    """Return (n,) the proven milliseconds of each bar."""
    seen = np.zeros(len(opens), np.int64)
    for start, end in parts_ms.tolist():
        seen += np.clip(np.minimum(closes, end) - np.maximum(opens, start), 0, None)
    return seen


EXISTING_BARS: Final = """
    SELECT * FROM bars_latest
    WHERE width = ? AND ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?) AND origin <> 'candle'
"""
"""Bars of a width and a range (microseconds) from a recorder or an archive."""


def select_improved(bars: pa.Table, existing: pa.Table) -> pa.Table:
    """Return the bars that improve on existing ones, with the quotes and context of those.

    Args:
        bars: made from an archive.
        existing: newest revisions in the lake, of the same range.
    """
    if not existing.num_rows:
        return bars
    run = connect_in_memory()
    run.register("made", bars.append_column("row_at", pa.array(range(bars.num_rows), pa.int64())))
    run.register("existing", existing)
    market = ", ".join(f"e.{name} AS {name}" for name in _MARKET)
    rows = run.execute(
        f"""SELECT m.* REPLACE ({market}) FROM made m LEFT JOIN existing e USING (instrument, width, ts_open)
            WHERE e.status IS NULL
               OR (e.status IN ('blind', 'unknown') AND m.observed_ms >= e.observed_ms AND m.status <> 'blind')
            ORDER BY m.row_at"""
    ).to_arrow_table()
    return rows.select(BARS.schema.names).cast(BARS.schema)


def span_us(from_ms: int, to_ms: int) -> tuple[int, int]:
    """Return a range in microseconds, as the parameters of `EXISTING_BARS`."""
    return from_ms * MS_NS // US_NS, to_ms * MS_NS // US_NS
