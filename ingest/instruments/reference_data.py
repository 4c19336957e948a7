"""Point-in-time reference data: fees, listings and the universe by volume.

Every query uses only rows that were knowable at its date, so that a row written later changes no earlier answer: a
correction of an old fee counts from the day on which it became known. A caller that wants today's knowledge of an old
date passes `known_ns`. A fee has no end unless one was announced with it: the next row ends it. An instrument that
was delisted later is in the universe of the days on which it was listed.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from storage.clock import DAY_NS, US_NS, iso
from storage.errors import RangeError
from storage.lake.lake import Lake
from storage.lake.point_in_time import known_bars

_FEES_AT: Final = """
    SELECT venue, kind, dex, tier, role, bps, ts_from AS since, source FROM fees
    WHERE epoch_us(ts_from) <= ? AND ts_knowable_ns <= ? AND (ts_to IS NULL OR epoch_us(ts_to) > ?)
    QUALIFY row_number() OVER (
        PARTITION BY venue, kind, dex, tier, role ORDER BY ts_from DESC, ts_knowable_ns DESC) = 1
    ORDER BY venue, kind, dex, tier, role
"""

_INSTRUMENTS_AT: Final = """
    SELECT instrument, coalesce(state, if(is_delisted, 'delisted', 'listed')) AS state, venue, kind, symbol, dex,
           size_decimals, quote, max_leverage, session, make_timestamptz(valid_from_ns // 1000) AS since
    FROM instruments_valid
    WHERE valid_from_ns <= ? AND (valid_to_ns IS NULL OR valid_to_ns > ?)
    ORDER BY instrument
"""

# The same trades may be in bars and in candles, of several widths: the largest sum of an instrument counts.
_TRADED: Final = ("instrument", "width", "ts_open", "notional", "volume", "close")
_BY_THEN: Final = "ts_open >= make_timestamptz(?) AND ts_close <= make_timestamptz(?) AND ts_knowable_ns <= ?"
_UNIVERSE: Final = f"""
    WITH bars_by_then AS (
        SELECT instrument, width, ts_open, coalesce(notional, volume * close) AS notional
        FROM ({known_bars(_TRADED, where=_BY_THEN)})
    ),
    venue_candles AS (
        SELECT instrument, width, ts_open, volume * close AS notional FROM candles
        WHERE ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?) AND ts_knowable_ns <= ?
        QUALIFY row_number() OVER (PARTITION BY instrument, width, ts_open ORDER BY ts_knowable_ns DESC, source) = 1
    ),
    sums AS (
        SELECT instrument, sum(notional) AS notional FROM bars_by_then GROUP BY instrument, width
        UNION ALL SELECT instrument, sum(notional) FROM venue_candles GROUP BY instrument, width
    ),
    traded AS (
        SELECT instrument, max(notional) AS notional FROM sums GROUP BY instrument HAVING max(notional) > 0
    ),
    listed AS (
        SELECT instrument, coalesce(state, if(is_delisted, 'delisted', 'listed')) AS state FROM instruments
        WHERE ts_knowable_ns <= ?
        QUALIFY row_number() OVER (PARTITION BY instrument ORDER BY ts_knowable_ns DESC) = 1
    )
    SELECT row_number() OVER (ORDER BY notional DESC, instrument) AS rank, instrument, round(notional, 2) AS notional,
           coalesce(state, 'not said') AS state
    FROM traded LEFT JOIN listed USING (instrument)
    WHERE coalesce(state, 'listed') = 'listed'
    ORDER BY rank LIMIT ?
"""


def fees_at(lake: Lake, at_ns: int, *, known_ns: int | None = None) -> pa.Table:
    """Return the fees in force at an instant, one row a venue, kind, dex, tier and role.

    Args:
        lake: holds the table `fees`.
        at_ns: the instant.
        known_ns: use what was known by then (default: at the instant itself).
    """
    return lake.query(_FEES_AT, [at_ns // US_NS, at_ns if known_ns is None else known_ns, at_ns // US_NS])


def instruments_at(lake: Lake, at_ns: int) -> pa.Table:
    """Return listed and delisted instruments at an instant, one row each."""
    return lake.query(_INSTRUMENTS_AT, [at_ns, at_ns])


def universe(lake: Lake, at_ns: int, *, days: int, top: int) -> pa.Table:
    """Return the instruments that traded most in the days before an instant, by what was known then.

    Instruments delisted by then are left out; those delisted later are included. `state` says where the lake has no
    listing of that time.

    Args:
        lake: holds `bars`, `candles` and `instruments`.
        at_ns: the instant.
        days: length of the look-back, at least 1.
        top: largest number of instruments.

    Raises:
        RangeError: nothing was known to have traded.
    """
    if days < 1 or top < 1:
        raise RangeError(
            f"{days} days and the top {top} are no universe", hint="ask for one of each at least"
        )
    reach = [(at_ns - days * DAY_NS) // US_NS, at_ns // US_NS, at_ns]
    rows = lake.query(_UNIVERSE, [*reach, *reach, at_ns, top])
    if rows.num_rows == 0:
        raise RangeError(
            f"nothing was known at {iso(at_ns)} to have traded in the {days} days before",
            hint="bring history in with: tickwalk import candles FILE, or tickwalk replay FILE",
        )
    return rows
