"""Bars from candles, with the status of the silent ones.

One path for files and for REST answers. A candle without volume states that nothing printed; a candle that is absent
is `unknown`, unless the import declares that this source leaves silent bars out; a candle that was refused is there
and cannot be used, so its bar is `unknown` too.

A silence is believed as far as the rhythm of the coins explains it (`ingest.bars.halt_detection`). Where the coins of
the venue fell silent together it is a halt; where only two did, or a coin was silent for far longer than it ever is,
the status is `unknown`. An absent candle states that its coin is silent only where the import declares so.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any, Final, Literal

import duckdb
import numpy as np
import pyarrow as pa

from ingest.bars.bar_status import status_sql
from ingest.bars.halt_detection import CoinSteps, find_silences
from storage.clock import US_NS
from storage.contracts.tables import BARS
from storage.lake.connection import connect_in_memory

Absent = Literal["unknown", "quiet"]

CANDLE_ABSENT: Final = "candle absent"
CANDLE_REFUSED: Final = "candle refused"
VENUE_HALT: Final = "venue halt: no coin printed"
POSSIBLE_HALT: Final = "possible venue halt: too few coins to tell"
LONG_SILENCE: Final = "silent for longer than its rhythm explains"

_SOUND: Final = """
    CREATE OR REPLACE TEMP TABLE sound AS
    SELECT instrument, epoch_us(ts_open) * 1000 AS t_ns,
           open, high, low, close, volume, trades, volume > 0 OR coalesce(trades, 0) > 0 AS is_printed
    FROM good
"""

# A refused candle counts only where no other source has a sound one.
_UNUSABLE: Final = """
    CREATE OR REPLACE TEMP TABLE unusable AS
    SELECT DISTINCT instrument, t_ns FROM refused ANTI JOIN sound USING (instrument, t_ns)
"""

_DENSE: Final = """
    CREATE OR REPLACE TEMP TABLE dense AS
    WITH grid AS (
        SELECT instrument, unnest(generate_series(first_ns, last_ns, $step)) AS t_ns FROM spans
    )
    SELECT g.instrument, split_part(g.instrument, '|', 1) AS venue, g.t_ns,
           c.open, c.high, c.low, c.close, c.volume, c.trades,
           c.t_ns IS NULL AS is_absent, coalesce(c.is_printed, false) AS is_printed, r.t_ns IS NOT NULL AS is_refused
    FROM grid g LEFT JOIN sound c USING (instrument, t_ns) LEFT JOIN unusable r USING (instrument, t_ns)
"""

_STATED: Final = """
    WITH edges AS (
        SELECT instrument, min(t_ns) AS first_ns, max(t_ns) AS last_ns FROM sound GROUP BY instrument
        UNION ALL FROM spans
    )
    SELECT instrument, split_part(instrument, '|', 1) AS venue,
           min(first_ns) // $step AS first, max(last_ns) // $step AS last
    FROM edges GROUP BY instrument ORDER BY venue, instrument
"""

_STATUS: Final = status_sql(
    is_printed="is_printed", is_halted=f"cause = '{VENUE_HALT}'", is_doubtful="cause <> ''"
)

_BARS: Final = f"""
    WITH known AS (
        SELECT d.*, CASE WHEN is_printed THEN ''
                         WHEN is_refused THEN '{CANDLE_REFUSED}'
                         WHEN is_absent AND $absent = 'unknown' THEN '{CANDLE_ABSENT}'
                         ELSE coalesce(v.cause, c.cause, '') END AS cause
        FROM dense d
        LEFT JOIN venue_silences v ON v.venue = d.venue AND d.t_ns BETWEEN v.first_ns AND v.last_ns
        LEFT JOIN coin_silences c ON c.instrument = d.instrument AND d.t_ns BETWEEN c.first_ns AND c.last_ns
    ),
    judged AS (
        SELECT *, {_STATUS} AS status FROM known
    )
    SELECT instrument, $width AS width,
           make_timestamptz(t_ns // {US_NS}) AS ts_open,
           make_timestamptz((t_ns + $step) // {US_NS}) AS ts_close,
           CAST(0 AS INTEGER) AS revision,
           status, cause,
           'always' AS session, 'candle' AS origin,
           CAST(0 AS BIGINT) AS observed_ms, false AS repaired, false AS certified,
           CASE WHEN is_printed THEN open END AS open, CASE WHEN is_printed THEN high END AS high,
           CASE WHEN is_printed THEN low END AS low, CASE WHEN is_printed THEN close END AS close,
           CASE WHEN status <> 'unknown' THEN coalesce(volume, 0) END AS volume,
           CAST(NULL AS DOUBLE) AS buy_volume, CAST(NULL AS DOUBLE) AS notional, CAST(NULL AS DOUBLE) AS vwap,
           CASE WHEN is_printed THEN trades WHEN status <> 'unknown' THEN 0 END AS trades,
           true AS trades_applicable,
           CAST(NULL AS DOUBLE) AS bid, CAST(NULL AS DOUBLE) AS ask, CAST(NULL AS DOUBLE) AS bid_size,
           CAST(NULL AS DOUBLE) AS ask_size, CAST(NULL AS BIGINT) AS quote_age_ms,
           CAST(NULL AS DOUBLE) AS funding_rate, CAST(NULL AS DOUBLE) AS open_interest,
           CAST(NULL AS DOUBLE) AS oracle, CAST(NULL AS DOUBLE) AS mark, CAST(NULL AS BIGINT) AS context_age_ms,
           t_ns + $step + $lag AS ts_knowable_ns, t_ns + $step + $lag AS ts_available_ns
    FROM judged ORDER BY instrument, t_ns
"""

NONE_REFUSED: Final = pa.table({"instrument": pa.array([], pa.string()), "t_ns": pa.array([], pa.int64())})


def bars_of(
    good: pa.Table,
    spans: pa.Table,
    *,
    width: str,
    step_ns: int,
    lag_ns: int,
    absent: Absent = "unknown",
    refused: pa.Table = NONE_REFUSED,
) -> pa.Table:
    """Return one bar per instrument and grid step of its span.

    Args:
        good: rows of `candles` that fit their contract, one a bar; those outside of the spans measure the rhythm.
        spans: `instrument`, and `first_ns` and `last_ns`: the opens of its first and its last bar.
        width: the candles' width.
        step_ns: the same in nanoseconds.
        lag_ns: a bar is knowable this long after its close.
        absent: the meaning of a missing candle.
        refused: `instrument` and `t_ns`, the open, of candles that do not fit their contract.
    """
    with connect_in_memory() as run:
        run.register("good", good)
        run.register("spans", spans)
        run.register("refused", refused)
        run.execute(_SOUND)
        run.execute(_UNUSABLE)
        run.execute(_DENSE, {"step": step_ns})
        venues, coins = _silences(run, step_ns, absent)
        run.register("venue_silences", venues)
        run.register("coin_silences", coins)
        rows = run.execute(
            _BARS, {"step": step_ns, "width": width, "lag": lag_ns, "absent": absent}
        ).to_arrow_table()
    return rows.select(BARS.schema.names)


def _silences(run: duckdb.DuckDBPyConnection, step_ns: int, absent: Absent) -> tuple[pa.Table, pa.Table]:
    """Return the stretches of improbable silence of venues and of coins, with their causes."""
    venues: list[tuple[str, int, int, str]] = []
    coins: list[tuple[str, int, int, str]] = []
    for venue, group in groupby(_coins(run, step_ns, absent), key=lambda coin: coin[0].partition("|")[0]):
        names, stated = zip(*group, strict=True)
        found = find_silences(stated)
        venues += [(venue, *stretch, VENUE_HALT) for stretch in found.halts]
        venues += [(venue, *stretch, POSSIBLE_HALT) for stretch in found.possible_halts]
        for name, own in zip(names, found.of_coins, strict=True):
            coins += [(name, *stretch, LONG_SILENCE) for stretch in own]
    return _stretch_table("venue", venues, step_ns), _stretch_table("instrument", coins, step_ns)


def _coins(run: duckdb.DuckDBPyConnection, step_ns: int, absent: Absent) -> Iterator[tuple[str, CoinSteps]]:
    """Yield what the candles of each instrument state, by venue."""
    edges = run.execute(_STATED, {"step": step_ns}).fetchall()
    for name, _, first, last in edges:
        found = run.execute(
            "SELECT t_ns // $step AS step, is_printed FROM sound WHERE instrument = $name ORDER BY t_ns",
            {"step": step_ns, "name": name},
        ).fetchnumpy()
        steps, is_printed = np.asarray(found["step"], np.int64), np.asarray(found["is_printed"], np.bool_)
        if absent == "quiet":
            left_out = run.execute(
                "SELECT t_ns // $step AS step FROM unusable"
                " WHERE instrument = $name AND t_ns // $step BETWEEN $a AND $b",
                {"step": step_ns, "name": name, "a": first, "b": last},
            ).fetchnumpy()["step"]
            prints = np.zeros(last - first + 1, np.bool_)
            prints[steps - first] = is_printed
            is_stated = np.ones(prints.size, np.bool_)
            is_stated[np.asarray(left_out, np.int64) - first] = False
            steps, is_printed = np.flatnonzero(is_stated) + first, prints[is_stated]
        yield name, CoinSteps(steps, is_printed)


def _stretch_table(name: str, rows: list[tuple[str, int, int, str]], step_ns: int) -> pa.Table:
    columns: list[Any] = list(zip(*rows, strict=True)) or [(), (), (), ()]
    return pa.table(
        {
            name: pa.array(columns[0], pa.string()),
            "first_ns": pa.array([step * step_ns for step in columns[1]], pa.int64()),
            "last_ns": pa.array([step * step_ns for step in columns[2]], pa.int64()),
            "cause": pa.array(columns[3], pa.string()),
        }
    )
