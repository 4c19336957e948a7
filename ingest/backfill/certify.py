"""Which bars in the lake do the candles in the lake agree with?

Bars that were watched are compared with the table `candles` (backfilled or imported), a day at a time. One that agrees
gets a revision that says `certified`, knowable from now on and with the same values; one that differs gets rows in
`discrepancies` and goes to the archive's queue. Bars that were derived from candles are left out: they would certify
themselves. So are the newest hours, which belong to the recorder: it may still revise them, and asks by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest.bars.builder import BLIND_NS
from ingest.bars.reconciliation import IMPORT, CandleFigures, Tolerance, differences, rows_of
from ingest.pipeline.certification import queued
from storage.clock import DAY_NS, NS, US_NS, TimeSource, WallTime
from storage.contracts.tables import BARS, DISCREPANCIES, REPAIRS
from storage.lake.lake import Lake
from storage.settings import Settings

# A bar this old is revised by no recorder any more: the recorder gives up on one two hours after its close.
LIVE_NS: Final = BLIND_NS + 3_600 * NS

_DAYS: Final = """
    SELECT DISTINCT epoch_us(ts_open) // 86400000000 AS day FROM candles
    WHERE ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?)
      AND (? IS NULL OR instrument = ? OR split_part(instrument, '|', 3) = ?)
    ORDER BY day
"""

# Where several files or requests have a candle, the one that came last holds.
_PAIRS: Final = """
    WITH newest AS (
        SELECT instrument, width, ts_open, open AS their_open, high AS their_high, low AS their_low,
               close AS their_close, volume AS their_volume, trades AS their_trades
        FROM candles WHERE ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?)
        QUALIFY row_number() OVER (
            PARTITION BY instrument, width, ts_open ORDER BY ts_ingested_ns DESC, source DESC) = 1
    ),
    whole AS (
        SELECT * FROM bars_latest
        WHERE ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?)
          AND (? IS NULL OR instrument = ? OR split_part(instrument, '|', 3) = ?)
          AND origin <> 'candle' AND status IN ('printed', 'quiet') AND trades_applicable AND NOT certified
    )
    SELECT * FROM whole JOIN newest USING (instrument, width, ts_open) ORDER BY instrument, width, ts_open
"""

_TOLD: Final = """
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
    told AS (SELECT DISTINCT instrument, width, ts_open, true AS is_told FROM discrepancies),
    candled AS (SELECT DISTINCT instrument, width, ts_open, true AS is_candled FROM candles)
    SELECT instrument, width, count(*) AS bars,
           count(*) FILTER (status NOT IN ('printed', 'quiet')) AS not_whole,
           count(*) FILTER (certified) AS certified,
           count(*) FILTER (NOT certified AND is_told AND status IN ('printed', 'quiet')) AS differ,
           count(*) FILTER (NOT certified AND is_told IS NULL AND is_candled IS NULL
                            AND status IN ('printed', 'quiet')) AS no_candle,
           round(count(*) FILTER (certified) / count(*), 4) AS share
    FROM judged LEFT JOIN told USING (instrument, width, ts_open)
                LEFT JOIN candled USING (instrument, width, ts_open)
    GROUP BY ALL ORDER BY instrument, width
"""


@dataclass(frozen=True, slots=True)
class CertifyResult:
    """What a run did.

    Args:
        compared: bars that had a candle and had not been certified.
        certified: bars of them that agree.
        differ: bars of them that do not.
        shares: a row for each instrument and width: bars, how many of them are not whole, certified, differ, or have
            no candle, and the share that is certified.
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
    """Compare the lake's bars with its candles, and commit what comes of it; a second run adds nothing.

    Args:
        lake: holds `bars` and `candles`.
        settings: `bars.candle_trades`.
        from_ns, to_ns: bars that open in this stretch; by default all but the newest three hours.
        instrument: an id, or the venue's own name; all by default.
        clock: says when the result is known.
    """
    now_ns = (clock or WallTime()).now_ns()
    to_ns = min(to_ns if to_ns is not None else now_ns, now_ns - LIVE_NS)
    who = [instrument] * 3
    reach = [from_ns // US_NS, max(to_ns, from_ns) // US_NS]
    compared = agreed = 0
    for row in lake.query(_DAYS, [*reach, *who]).to_pylist():
        day = int(row["day"])
        start_us = max(day * DAY_NS // US_NS, reach[0])
        stop_us = min((day + 1) * DAY_NS // US_NS, reach[1])
        found = _certify_stretch(lake, [start_us, stop_us], who, Tolerance.of(settings), now_ns)
        compared, agreed = compared + found[0], agreed + found[1]
    shares = lake.query(_SHARES, [*reach, *who])
    return CertifyResult(compared, agreed, compared - agreed, shares)


def _certify_stretch(
    lake: Lake, reach: list[int], who: list[str | None], tolerance: Tolerance, now_ns: int
) -> tuple[int, int]:
    """Compare one stretch; return how many bars were compared, and how many agree."""
    pairs = lake.query(_PAIRS, [*reach, *reach, *who])
    theirs = CandleFigures.of_table(pairs, "their_")
    differs = differences(CandleFigures.of_table(pairs), theirs, tolerance)
    is_unlike = np.asarray(differs.any(axis=0), np.bool_)
    agreeing = _revised(pairs.filter(pa.array(~is_unlike)), now_ns)
    told = {tuple(row.values()) for row in lake.query(_TOLD, reach).to_pylist()}
    rows, repairs = [], []
    unlike = pairs.filter(pa.array(is_unlike))
    for bar, at in zip(unlike.to_pylist(), np.flatnonzero(is_unlike).tolist(), strict=True):
        if (bar["instrument"], bar["width"], bar["ts_open"], bar["revision"]) not in told:
            candle = CandleFigures(theirs.values[:, [at]])
            rows += rows_of([bar], candle, differs[:, [at]], checked=IMPORT, now_ns=now_ns)
            repairs.append(queued(bar, candle.of("trades")[0], now_ns))
    if agreeing.num_rows or rows:
        tables = {
            "bars": agreeing,
            "discrepancies": DISCREPANCIES.rows(rows),
            "repairs": REPAIRS.rows(repairs),
        }
        lake.commit(
            tables,
            batch_id=f"certify:{_content(tables)}",
            inputs={"from_us": reach[0], "to_us": reach[1], "compared": pairs.num_rows},
        )
    return pairs.num_rows, agreeing.num_rows


def _revised(bars: pa.Table, now_ns: int) -> pa.Table:
    """Return the next revision of bars that are certified now."""
    count = bars.num_rows
    changes: dict[str, Any] = {
        "certified": pa.array([True] * count, pa.bool_()),
        "revision": pc.add(bars["revision"], pa.scalar(1, pa.int32())),
        "ts_knowable_ns": pa.array([now_ns] * count, pa.int64()),
    }
    columns = [changes.get(name, bars[name]) for name in BARS.schema.names]
    return pa.table(columns, names=BARS.schema.names)


def _content(tables: dict[str, pa.Table]) -> str:
    """Return a hash of what a batch is about, whenever it is made."""
    digest = sha256()
    for name, table in sorted(tables.items()):
        keys = [
            key
            for key in ("instrument", "width", "ts_open", "revision", "differs")
            if key in table.column_names
        ]
        digest.update(f"{name}{table.select(keys).to_pylist()}".encode())
    return digest.hexdigest()[:24]
