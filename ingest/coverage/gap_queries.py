"""Queries for gaps in coverage, and for bars that differ from the venue's candles."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from storage.clock import US_NS
from storage.lake.lake import Lake

# A statement of the venue (a candle that agrees, or its archive) covers a gap wholly or in part.
_GAPS: Final = """
    WITH newest AS (
        SELECT * FROM coverage
        QUALIFY row_number() OVER (
            PARTITION BY journal, connection, channel, instrument, ts_from, kind ORDER BY revision DESC) = 1
    ),
    stated AS (
        SELECT instrument, channel, ts_from, ts_to, evidence = 'venue_statement' AND (kind = 'watched' OR bridged)
               AS is_stated, kind, cause, evidence, bridged, journal FROM newest
    ),
    islands AS (
        SELECT *, coalesce(ts_from > max(ts_to) OVER (
            PARTITION BY instrument, channel ORDER BY ts_from, ts_to
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), true) AS is_first
        FROM stated WHERE is_stated
    ),
    proven AS (
        SELECT instrument, channel, min(ts_from) AS ts_from, max(ts_to) AS ts_to FROM (
            SELECT *, count(*) FILTER (is_first) OVER (
                PARTITION BY instrument, channel ORDER BY ts_from, ts_to) AS island FROM islands)
        GROUP BY instrument, channel, island
    ),
    holes AS (FROM stated WHERE kind = 'gap' AND NOT is_stated),
    judged AS (
        SELECT holes.*, coalesce((
            SELECT sum(epoch_us(least(p.ts_to, holes.ts_to)) - epoch_us(greatest(p.ts_from, holes.ts_from)))
            FROM proven AS p
            WHERE p.instrument = holes.instrument AND p.channel = holes.channel
              AND p.ts_from < holes.ts_to AND p.ts_to > holes.ts_from
        ), 0) AS counted_us FROM holes
    )
    SELECT instrument, channel, ts_from AS "from", ts_to AS "to",
           round((epoch_us(ts_to) - epoch_us(ts_from)) / 1e6, 3) AS seconds, cause,
           CASE WHEN bridged THEN 'yes: ' || evidence
                WHEN counted_us >= epoch_us(ts_to) - epoch_us(ts_from) THEN 'yes: venue_statement'
                WHEN counted_us > 0 THEN 'in part: venue_statement'
                ELSE 'no' END AS repaired,
           journal AS recording
    FROM judged
    WHERE (? IS NULL OR instrument = ? OR split_part(instrument, '|', 3) = ?)
      AND (? = '*' OR channel = ? OR channel = '*')
      AND epoch_us(ts_to) >= ?
    ORDER BY ts_from, instrument, channel
"""


_DISCREPANCIES: Final = """
    SELECT d.instrument, d.width, d.ts_open AS "bar", d.differs, d.ours, d.theirs, d.checked,
           strftime(make_timestamp(d.ts_knowable_ns // 1000), '%Y-%m-%d %H:%M:%S') AS found,
           CASE WHEN b.certified THEN 'yes: certified since' ELSE 'no' END AS repaired
    FROM discrepancies AS d LEFT JOIN bars_latest AS b USING (instrument, width, ts_open)
    WHERE (? IS NULL OR d.instrument = ? OR split_part(d.instrument, '|', 3) = ?) AND epoch_us(d.ts_open) >= ?
    ORDER BY d.ts_open, d.instrument, d.width, d.ts_knowable_ns, d.differs
"""


def list_gaps(
    lake: Lake,
    *,
    instrument: str | None = None,
    since_ns: int = 0,
    channel: str = "trades",
    open_only: bool = False,
) -> pa.Table:
    """Return gaps, one a row, by time.

    Args:
        lake: holds the table `coverage`.
        instrument: an id, or the venue's own name; all by default.
        since_ns: gaps that ended before are left out.
        channel: `*` for every channel; a halt of a whole venue belongs to no channel and is always included.
        open_only: leave out what is fully repaired.
    """
    params = [instrument, instrument, instrument, channel, channel, since_ns // US_NS]
    rows = lake.query(_GAPS, params)
    if open_only:
        repaired = rows["repaired"].to_pylist()
        rows = rows.filter(pa.array([not str(text).startswith("yes") for text in repaired], pa.bool_()))
    return rows


def list_discrepancies(
    lake: Lake, *, instrument: str | None = None, since_ns: int = 0, open_only: bool = False
) -> pa.Table:
    """Return the figures in which complete bars differ from the venue's candles, one a row, by time.

    Args:
        lake: holds the table `discrepancies`.
        instrument: an id, or the venue's own name; all by default.
        since_ns: bars that opened before are left out.
        open_only: leave out bars that a later comparison certified.
    """
    params = [instrument, instrument, instrument, since_ns // US_NS]
    rows = lake.query(_DISCREPANCIES, params)
    if open_only:
        rows = rows.filter(pa.array([text == "no" for text in rows["repaired"].to_pylist()], pa.bool_()))
    return rows
