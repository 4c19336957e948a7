"""Rule of `ts_available_ns`: when a venue had published what a bar's row says, whether or not we received it then.

A row of history, a repaired one and any other that did not come over the socket was available a fixed lag after its
bar's close (`bars.history_lag_ms`). A row from the socket was available when it was knowable.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

_US_NS: Final = 1_000
_COLUMN: Final = "ts_available_ns"


def available_ns(*, origin: str, repaired: bool, close_ns: int, knowable_ns: int, lag_ns: int) -> int:
    """Return the `ts_available_ns` of a row of `bars`; all times are nanoseconds.

    Args:
        origin, repaired: columns of the row.
        close_ns: of its bar.
        knowable_ns: its `ts_knowable_ns`.
        lag_ns: `bars.history_lag_ms`.

    >>> available_ns(origin="candle", repaired=False, close_ns=60, knowable_ns=900, lag_ns=1)
    61
    >>> available_ns(origin="live", repaired=False, close_ns=60, knowable_ns=900, lag_ns=1)
    900
    """
    return knowable_ns if origin == "live" and not repaired else close_ns + lag_ns


def available_sql(lag_ns: int) -> str:
    """Return the same as an expression of SQL over the columns of `bars`."""
    return (
        f"CASE WHEN origin = 'live' AND NOT repaired THEN ts_knowable_ns "
        f"ELSE epoch_us(ts_close) * {_US_NS} + {int(lag_ns)} END"
    )


def with_available(bars: pa.Table, lag_ns: int) -> pa.Table:
    """Return rows of `bars` with their `ts_available_ns`, in place of the one that they may have.

    Args:
        bars: with the other columns of the contract.
        lag_ns: `bars.history_lag_ms` in nanoseconds.
    """
    is_socket = pc.and_(pc.equal(bars["origin"], pa.scalar("live")), pc.invert(bars["repaired"]))
    closes_ns = pc.multiply(bars["ts_close"].cast(pa.int64()), pa.scalar(_US_NS))
    column = pc.if_else(is_socket, bars["ts_knowable_ns"], pc.add(closes_ns, pa.scalar(lag_ns)))
    if _COLUMN in bars.column_names:
        return bars.set_column(bars.column_names.index(_COLUMN), _COLUMN, column)
    return bars.append_column(_COLUMN, column)
