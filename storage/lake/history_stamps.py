"""Stamps of history: the time from which a live system could have known the bars of an import, archive or backfill.

Whoever recorded an instrument knew what the recording says, and nothing else until history arrived. So a bar of history
is knowable from its arrival on where a recording listed its instrument during the 24 h before the bar's close. Where
none did, nobody's knowledge is overwritten, and the bar is knowable `bars.history_lag_ms` after its close.

The decision of a batch is stored in its `inputs`. A rebuild of the lake reuses it, since recordings that were
registered later must not change stamps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.clock import DAY_NS, US_NS

HISTORY: Final = "history"
"""Key of the decision in the `inputs` of a batch."""
_FOREVER_NS: Final = (1 << 63) - 1
_LISTINGS: Final = """
    WITH newest AS (
        SELECT instruments, ts_started_ns AS from_ns, coalesce(ts_last_ns, ?) AS to_ns FROM recordings
        QUALIFY row_number() OVER (PARTITION BY home, recording ORDER BY ts_knowable_ns DESC) = 1
    ),
    listed AS (
        SELECT unnest(from_json(instruments, '["VARCHAR"]')) AS instrument, from_ns, to_ns FROM newest
        WHERE from_ns < ? AND to_ns >= ?
    )
    SELECT DISTINCT instrument, from_ns, to_ns FROM listed WHERE list_contains(?, instrument)
    ORDER BY instrument, from_ns, to_ns
"""

Query = Callable[[str, Sequence[object]], pa.Table]
Spans = tuple[tuple[int, int], ...]
"""Rising (from, to) in nanoseconds, both inclusive, more than 24 h apart."""


@dataclass(frozen=True, slots=True)
class HistoryStamps:
    """Decision about the bars of one batch.

    Args:
        arrived_ns: when the data arrived.
        listed: when recordings listed the instruments, as far as it concerns these bars.
    """

    arrived_ns: int
    listed: Mapping[str, Spans] = field(default_factory=dict)

    @classmethod
    def from_inputs(cls, inputs: Mapping[str, Any]) -> Self | None:
        """Return the decision stored in the inputs of a batch; None if there is none."""
        stored = inputs.get(HISTORY)
        if stored is None:
            return None
        listed = {name: tuple((a, b) for a, b in spans) for name, spans in stored["listed"].items()}
        return cls(int(stored["arrived_ns"]), listed)

    def to_inputs(self) -> dict[str, object]:
        """Return the inputs of a batch that store the decision."""
        listed = {name: [list(span) for span in spans] for name, spans in self.listed.items()}
        return {HISTORY: {"arrived_ns": self.arrived_ns, "listed": listed}}

    def apply(self, bars: pa.Table) -> pa.Table:
        """Return bars with `ts_knowable_ns` replaced by the arrival where a recording listed the instrument.

        Args:
            bars: with the columns of `bars`; their `ts_knowable_ns` is the close plus the lag.
        """
        if not self.listed or not bars.num_rows:
            return bars
        closes_ns = np.asarray(bars["ts_close"].cast(pa.int64())) * US_NS
        is_listed = self._is_listed(bars["instrument"], closes_ns)
        arrived = np.maximum(closes_ns, self.arrived_ns)  # by whichever clock, not before its close
        stamps = np.where(is_listed, arrived, np.asarray(bars["ts_knowable_ns"]))
        at = bars.column_names.index("ts_knowable_ns")
        return bars.set_column(at, bars.field(at), pa.array(stamps, pa.int64()))

    def _is_listed(self, instruments: pa.ChunkedArray[Any], closes_ns: np.ndarray[Any, Any]) -> Any:
        """Return (n,) bool: whether a recording listed the instrument during the 24 h before the close."""
        names: Any = pc.dictionary_encode(instruments).combine_chunks()
        codes, found = np.asarray(names.indices), np.zeros(len(closes_ns), np.bool_)
        for code, name in enumerate(names.dictionary.to_pylist()):
            if not (spans := self.listed.get(name)):
                continue
            rows = np.flatnonzero(codes == code)
            starts, ends = np.array(spans, np.int64).T
            # The last span that began before the close ends last, too.
            before = np.searchsorted(starts, closes_ns[rows], "left") - 1
            found[rows] = (before >= 0) & (ends[before] >= closes_ns[rows] - DAY_NS)
        return found


def decide(query: Query, bars: pa.Table, arrived_ns: int) -> HistoryStamps:
    """Return the decision about bars of history, by the recordings that the lake knows now.

    Args:
        query: of the lake, with the table `recordings`.
        bars: with the columns `instrument` and `ts_close`.
        arrived_ns: when the data arrived.
    """
    if not bars.num_rows:
        return HistoryStamps(arrived_ns)
    span: Any = pc.min_max(bars["ts_close"].cast(pa.int64())).as_py()
    first_ns, last_ns = span["min"] * US_NS, span["max"] * US_NS
    names = pc.unique(bars["instrument"]).to_pylist()
    # A recording that has not ended lists until now, and no bar of history closes later.
    rows = query(_LISTINGS, [_FOREVER_NS, last_ns, first_ns - DAY_NS, names]).to_pylist()
    listed: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        listed.setdefault(row["instrument"], []).append((row["from_ns"], min(row["to_ns"], last_ns)))
    return HistoryStamps(arrived_ns, {name: merged(spans) for name, spans in listed.items()})


def merged(spans: Sequence[tuple[int, int]]) -> Spans:
    """Return spans in order, joined where at most 24 h lie between them, as any close in between is that near to one.

    >>> merged([(0, 10), (5, 20), (20 + 86_400 * 10**9 + 1, 10**15)])
    ((0, 20), (86400000000021, 1000000000000000))
    """
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1] + DAY_NS:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return tuple(found)
