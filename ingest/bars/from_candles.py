"""Bars from candles, and detection of venue-wide halts.

One path for files and for REST answers. A candle without volume states that nothing printed; a candle that is absent
is `unknown`, unless the import declares that this source leaves silent bars out.

An interval in which no coin of the venue printed is a halt of the venue, not quiet. The rule: no candle of the interval
has volume, in each of its steps at least `HALT_COINS` coins are stated to be silent, and at least `HALT_COINS` coins
printed in each of the `HALT_EDGE` steps before it and after it. Illiquid coins that happen to be silent together do not
print six times out of six around it. An interval at the edge of the data is not judged. An absent candle states that
its coin is silent only where the import declares so.
"""

from __future__ import annotations

from typing import Final, Literal

import pyarrow as pa

from storage.clock import US_NS
from storage.contracts.tables import BARS
from storage.lake.connection import connect_in_memory

Absent = Literal["unknown", "quiet"]

HALT_COINS: Final = 3
HALT_EDGE: Final = 3
VENUE_HALT: Final = "venue halt: no coin printed"

_SOUND: Final = """
    CREATE OR REPLACE TEMP TABLE sound AS
    SELECT instrument, split_part(instrument, '|', 1) AS venue, epoch_us(ts_open) * 1000 AS t_ns,
           open, high, low, close, volume, trades, volume > 0 OR coalesce(trades, 0) > 0 AS is_printed
    FROM good
"""

_DENSE: Final = """
    CREATE OR REPLACE TEMP TABLE dense AS
    WITH grid AS (
        SELECT instrument, unnest(generate_series(first_ns, last_ns, $step)) AS t_ns FROM spans
    )
    SELECT g.instrument, split_part(g.instrument, '|', 1) AS venue, g.t_ns,
           c.open, c.high, c.low, c.close, c.volume, c.trades,
           c.t_ns IS NULL AS is_absent, coalesce(c.is_printed, false) AS is_printed
    FROM grid g LEFT JOIN sound c USING (instrument, t_ns)
"""

_HALTS: Final = """
    CREATE OR REPLACE TEMP TABLE halts AS
    WITH stated AS (
        SELECT venue, t_ns, is_printed FROM sound
        UNION ALL SELECT venue, t_ns, false FROM dense WHERE is_absent AND $absent = 'quiet'
    ),
    steps AS (
        SELECT venue, t_ns FROM stated GROUP BY venue, t_ns HAVING NOT bool_or(is_printed) AND count(*) >= $coins
    ),
    islands AS (
        SELECT *, t_ns - $step * row_number() OVER (PARTITION BY venue ORDER BY t_ns) AS island FROM steps
    ),
    stretches AS (
        SELECT venue, min(t_ns) AS first_ns, max(t_ns) AS last_ns FROM islands GROUP BY venue, island
    ),
    busy AS (
        SELECT s.venue, s.first_ns, s.last_ns, p.instrument
        FROM stretches s JOIN sound p ON p.venue = s.venue AND p.is_printed
             AND p.t_ns BETWEEN s.first_ns - $edge * $step AND s.last_ns + $edge * $step
        GROUP BY ALL HAVING count(*) = 2 * $edge
    )
    SELECT venue, first_ns, last_ns FROM busy GROUP BY ALL HAVING count(*) >= $coins
"""

_BARS: Final = f"""
    WITH judged AS (
        SELECT d.*, is_absent AND $absent = 'unknown' AS is_unknown,
               NOT is_printed AND NOT (is_absent AND $absent = 'unknown') AND h.venue IS NOT NULL AS is_halted
        FROM dense d LEFT JOIN halts h
             ON h.venue = d.venue AND d.t_ns BETWEEN h.first_ns AND h.last_ns
    )
    SELECT instrument, $width AS width,
           make_timestamptz(t_ns // {US_NS}) AS ts_open,
           make_timestamptz((t_ns + $step) // {US_NS}) AS ts_close,
           CAST(0 AS INTEGER) AS revision,
           CASE WHEN is_printed THEN 'printed' WHEN is_unknown THEN 'unknown' WHEN is_halted THEN 'halted'
                ELSE 'quiet' END AS status,
           CASE WHEN is_unknown THEN 'candle absent' WHEN is_halted THEN $halt ELSE '' END AS cause,
           'always' AS session, 'candle' AS origin,
           CAST(0 AS BIGINT) AS observed_ms, false AS repaired, false AS certified,
           CASE WHEN is_printed THEN open END AS open, CASE WHEN is_printed THEN high END AS high,
           CASE WHEN is_printed THEN low END AS low, CASE WHEN is_printed THEN close END AS close,
           CASE WHEN is_unknown THEN NULL ELSE coalesce(volume, 0) END AS volume,
           CAST(NULL AS DOUBLE) AS buy_volume, CAST(NULL AS DOUBLE) AS notional, CAST(NULL AS DOUBLE) AS vwap,
           CASE WHEN is_printed OR is_unknown THEN trades ELSE 0 END AS trades,
           true AS trades_applicable,
           CAST(NULL AS DOUBLE) AS bid, CAST(NULL AS DOUBLE) AS ask, CAST(NULL AS DOUBLE) AS bid_size,
           CAST(NULL AS DOUBLE) AS ask_size, CAST(NULL AS BIGINT) AS quote_age_ms,
           CAST(NULL AS DOUBLE) AS funding_rate, CAST(NULL AS DOUBLE) AS open_interest,
           CAST(NULL AS DOUBLE) AS oracle, CAST(NULL AS DOUBLE) AS mark, CAST(NULL AS BIGINT) AS context_age_ms,
           t_ns + $step + $lag AS ts_knowable_ns, t_ns + $step + $lag AS ts_available_ns
    FROM judged ORDER BY instrument, t_ns
"""


def bars_of(
    good: pa.Table,
    spans: pa.Table,
    *,
    width: str,
    step_ns: int,
    lag_ns: int,
    absent: Absent = "unknown",
) -> pa.Table:
    """Return one bar per instrument and grid step of its span.

    Args:
        good: rows of `candles` that fit their contract, one a bar; those outside of the spans help to detect halts.
        spans: `instrument`, and `first_ns` and `last_ns`: the opens of its first and its last bar.
        width: the candles' width.
        step_ns: the same in nanoseconds.
        lag_ns: a bar is knowable this long after its close.
        absent: the meaning of a missing candle.
    """
    with connect_in_memory() as run:
        run.register("good", good)
        run.register("spans", spans)
        run.execute(_SOUND)
        run.execute(_DENSE, {"step": step_ns})
        run.execute(_HALTS, {"coins": HALT_COINS, "edge": HALT_EDGE, "step": step_ns, "absent": absent})
        rows = run.execute(
            _BARS,
            {"step": step_ns, "width": width, "lag": lag_ns, "absent": absent, "halt": VENUE_HALT},
        ).to_arrow_table()
    return rows.select(BARS.schema.names)
