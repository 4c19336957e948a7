"""Certification of stored bars against stored candles.

Watched bars are compared with the table `candles` (backfilled or imported), a day at a time. A bar that agrees gets a
revision with `certified` set, with the same values, and stamped like other history: a recorded bar is known to be
certified from now on. One that differs gets rows in `discrepancies` and is queued for the archive; one without a print
whose candle has some becomes blind. Bars derived from candles are left out: they would certify themselves. So are the
newest hours, which belong to the recorder: it may still revise them, and requests their candles itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest.backfill.history import HistoryStamper
from ingest.bars.builder import BLIND_NS
from ingest.bars.reconciliation import (
    CONTRADICTED,
    IMPORT,
    CandleFigures,
    Tolerance,
    contradicted,
    differences,
    rows_of,
)
from ingest.pipeline.certification import queued
from storage.clock import DAY_NS, NS, US_NS, TimeSource, WallTime
from storage.contracts.availability import with_available
from storage.contracts.tables import BARS, DISCREPANCIES, REPAIRS
from storage.lake.lake import Lake
from storage.settings import Settings

# No recorder revises a bar this old: it gives up on a bar two hours after its close.
LIVE_NS: Final = BLIND_NS + 3_600 * NS

_DAYS: Final = """
    SELECT DISTINCT epoch_us(ts_open) // 86400000000 AS day FROM candles
    WHERE ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?)
      AND (? IS NULL OR instrument = ? OR split_part(instrument, '|', 3) = ?)
    ORDER BY day
"""

# If several files or requests have a candle, the latest one counts.
_PAIRS: Final = """
    WITH newest AS (
        SELECT instrument, width, ts_open, open AS their_open, high AS their_high, low AS their_low,
               close AS their_close, volume AS their_volume, trades AS their_trades
        FROM candles WHERE ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?)
        QUALIFY row_number() OVER (
            PARTITION BY instrument, width, ts_open ORDER BY ts_ingested_ns DESC, source DESC) = 1
    ),
    counting AS (
        SELECT instrument, width, ts_open, revision FROM bars_latest
        WHERE ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?)
          AND (? IS NULL OR instrument = ? OR split_part(instrument, '|', 3) = ?)
          AND origin <> 'candle' AND status IN ('printed', 'quiet') AND trades_applicable AND NOT certified
    ),
    whole AS (  -- as written: what other sources complete is not the row's own
        SELECT bars.* FROM bars JOIN counting USING (instrument, width, ts_open, revision)
        WHERE ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?)
    )
    SELECT * FROM whole JOIN newest USING (instrument, width, ts_open) ORDER BY instrument, width, ts_open
"""

_REPORTED: Final = """
    SELECT DISTINCT instrument, width, ts_open, revision FROM discrepancies
    WHERE checked = 'import' AND ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?)
"""

_SHARES: Final = """
    WITH judged AS (
        SELECT instrument, width, ts_open, status, certified FROM bars_latest
        WHERE ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?)
          AND (? IS NULL OR instrument = ? OR split_part(instrument, '|', 3) = ?)
          AND origin <> 'candle' AND trades_applicable
    ),
    reported AS (SELECT DISTINCT instrument, width, ts_open, true AS is_reported FROM discrepancies),
    candled AS (SELECT DISTINCT instrument, width, ts_open, true AS is_candled FROM candles)
    SELECT instrument, width, count(*) AS bars,
           count(*) FILTER (status NOT IN ('printed', 'quiet')) AS not_whole,
           count(*) FILTER (certified) AS certified,
           count(*) FILTER (NOT certified AND is_reported AND status IN ('printed', 'quiet')) AS differ,
           count(*) FILTER (NOT certified AND is_reported IS NULL AND is_candled IS NULL
                            AND status IN ('printed', 'quiet')) AS no_candle,
           round(count(*) FILTER (certified) / count(*), 4) AS share
    FROM judged LEFT JOIN reported USING (instrument, width, ts_open)
                LEFT JOIN candled USING (instrument, width, ts_open)
    GROUP BY ALL ORDER BY instrument, width
"""


@dataclass(frozen=True, slots=True)
class CertifyResult:
    """Outcome of a certification run.

    Args:
        compared: number of uncertified bars with a candle.
        certified: number of these that agree.
        differ: number of these that differ.
        shares: one row per instrument and width: number of bars, of those not fully observed, certified, different and
            without a candle, and the certified share.
    """

    compared: int
    certified: int
    differ: int
    shares: pa.Table


def certify(
    lake: Lake,
    settings: Settings,
    *,
    from_ns: int = 0,
    to_ns: int | None = None,
    instrument: str | None = None,
    clock: TimeSource | None = None,
) -> CertifyResult:
    """Compare the bars of the lake with its candles, and commit the results; a second run adds nothing.

    Args:
        lake: holds `bars` and `candles`.
        settings: with `bars.candle_trades`.
        from_ns, to_ns: range of bar opens (default: all but the newest three hours).
        instrument: an id or the venue's name (default: all).
        clock: stamps the results (default: wall clock).
    """
    now_ns = (clock or WallTime()).now_ns()
    to_ns = min(to_ns if to_ns is not None else now_ns, now_ns - LIVE_NS)
    instrument_filter = [instrument] * 3
    reach = [from_ns // US_NS, max(to_ns, from_ns) // US_NS]
    stamper = HistoryStamper(lake, settings)
    compared = agreed = 0
    for row in lake.query(_DAYS, [*reach, *instrument_filter]).to_pylist():
        day = int(row["day"])
        start_us = max(day * DAY_NS // US_NS, reach[0])
        stop_us = min((day + 1) * DAY_NS // US_NS, reach[1])
        found = _certify_range(
            lake, [start_us, stop_us], instrument_filter, Tolerance.of(settings), now_ns, stamper
        )
        compared, agreed = compared + found[0], agreed + found[1]
    shares = lake.query(_SHARES, [*reach, *instrument_filter])
    return CertifyResult(compared, agreed, compared - agreed, shares)


def _certify_range(
    lake: Lake,
    reach: list[int],
    instrument_filter: list[str | None],
    tolerance: Tolerance,
    now_ns: int,
    stamper: HistoryStamper,
) -> tuple[int, int]:
    """Compare one range; return the numbers of compared and of agreeing bars."""
    pairs = lake.query(_PAIRS, [*reach, *reach, *instrument_filter, *reach])
    theirs = CandleFigures.of_table(pairs, "their_")
    ours = CandleFigures.of_table(pairs)
    differs = differences(ours, theirs, tolerance)
    is_unlike = np.asarray(differs.any(axis=0), np.bool_)
    agreeing = _revision(pairs.filter(pa.array(~is_unlike)), lake.history_lag_ns, certified=True)
    is_missing = contradicted(ours, theirs)
    missing = _revision(pairs.filter(pa.array(is_missing)), lake.history_lag_ns, **CONTRADICTED)
    reported = {tuple(row.values()) for row in lake.query(_REPORTED, reach).to_pylist()}
    rows, repairs = [], []
    unlike = pairs.filter(pa.array(is_unlike))
    for bar, at in zip(unlike.to_pylist(), np.flatnonzero(is_unlike).tolist(), strict=True):
        if (bar["instrument"], bar["width"], bar["ts_open"], bar["revision"]) not in reported:
            candle = CandleFigures(theirs.values[:, [at]])
            rows += rows_of([bar], candle, differs[:, [at]], checked=IMPORT, now_ns=now_ns)
            repairs.append(queued(bar, candle.of("trades")[0], now_ns))
    if agreeing.num_rows or missing.num_rows or rows:
        tables = {
            "bars": pa.concat_tables([agreeing, missing]),
            "discrepancies": DISCREPANCIES.rows(rows),
            "repairs": REPAIRS.rows(repairs),
        }
        batch_id = f"certify:{_content(tables)}"
        about = {"from_us": reach[0], "to_us": reach[1], "compared": pairs.num_rows}
        stamped, inputs = stamper.stamp(batch_id, tables, about, now_ns)
        # A row from the socket is available when it is knowable.
        bars = with_available(stamped["bars"], lake.history_lag_ns)
        lake.commit({**stamped, "bars": bars}, batch_id=batch_id, inputs=inputs)
    return pairs.num_rows, agreeing.num_rows


def _revision(bars: pa.Table, lag_ns: int, **values: Any) -> pa.Table:
    """Return the next revision of bars with other values in some columns, knowable a lag after their close."""
    count, closes_us = bars.num_rows, bars["ts_close"].cast(pa.int64())
    changes: dict[str, Any] = {
        **{name: pa.repeat(pa.scalar(value), count) for name, value in values.items()},
        "revision": pc.add(bars["revision"], pa.scalar(1, pa.int32())),
        "ts_knowable_ns": pc.add(pc.multiply(closes_us, pa.scalar(US_NS)), pa.scalar(lag_ns)),
    }
    columns = [changes.get(name, bars[name]) for name in BARS.schema.names]
    return pa.table(columns, names=BARS.schema.names)


def _content(tables: dict[str, pa.Table]) -> str:
    """Return a hash of the keys of a batch, independent of the time it is made."""
    digest = sha256()
    for name, table in sorted(tables.items()):
        keys = [
            key
            for key in ("instrument", "width", "ts_open", "revision", "differs")
            if key in table.column_names
        ]
        digest.update(f"{name}{table.select(keys).to_pylist()}".encode())
    return digest.hexdigest()[:24]
