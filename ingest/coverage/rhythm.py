"""Rhythm of each stream of prints: its recent gaps, its rate, and the silence that they allow.

A gap is the venue time from the newest print to the next, in order of arrival: a print older than the newest closes a
gap of zero. Only gaps that were watched count, so the sum of gaps is the time watched. Gaps are kept by hours of venue
time for a day, and the last 20 of them without a limit of age, for a coin that prints twice a day.

Each print updates a few numbers (compiled), with the same result however prints are cut into batches.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from storage.clock import NS
from storage.jit import compiled

LEAST_GAPS: Final = 20
"""Fewer gaps make no rhythm."""
LEAST_NS: Final = 60 * NS
"""No shorter silence is doubted."""
GAP_FACTOR: Final = 3
RATE_FACTOR: Final = 14
"""A silence of so many mean gaps; of a Poisson process one gap in a million is as long."""
LONG_NS: Final = 10 * NS
"""Shorter gaps are learnt without a question."""
HOUR_NS: Final = 3_600 * NS
HOURS: Final = 24
NEVER: Final = 1 << 62

Ints = NDArray[np.int64]
_FIRST: Final = 64
# Positions in the arrays of `_fresh`.
_HELD_AT, _LAST_AT, _HOURS_AT = 3, 5, 6


class PrintRhythm:
    """Rhythm of every stream, by its code."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self.instruments: list[str] = []
        """By code."""
        self._arrays = _fresh(_FIRST)

    @property
    def newest_ns(self) -> Ints:
        """(n,) venue time of the newest print; -1 for none."""
        return self._arrays[0]

    @property
    def arrived_ns(self) -> Ints:
        """(n,) receipt of the last print; -1 for none."""
        return self._arrays[1]

    @property
    def known_ns(self) -> Ints:
        """(n,) venue time of the print from which on the rhythm is known."""
        return self._arrays[2]

    def code(self, instrument: str) -> int:
        """Return the code of a stream, new or known."""
        code = self._codes.setdefault(instrument, len(self._codes))
        if code == len(self.instruments):
            self.instruments.append(instrument)
            if code >= self.newest_ns.size:
                pairs = zip(self._arrays, _fresh(code), strict=True)
                self._arrays = tuple(np.concatenate(pair) for pair in pairs)
        return code

    def learn(self, codes: Ints, ts_ns: Ints, recv_ns: Ints, start: int) -> int:
        """Learn prints in order of arrival; return the first that needs a decision, or their number.

        A decision is needed after a long gap, and for a stream that is held: `close_gap` or `skip_gap` applies it.

        Args:
            codes, ts_ns, recv_ns: (m,) stream, venue time and receipt of each print.
            start: index of the first print to learn.
        """
        return int(_learn(start, codes, ts_ns, recv_ns, self._arrays))

    def close_gap(self, code: int, ts_ns: int, recv_ns: int) -> None:
        """Learn the gap that a print closes."""
        self.add_gap(code, int(self.newest_ns[code]), ts_ns)
        self.skip_gap(code, ts_ns, recv_ns)

    def skip_gap(self, code: int, ts_ns: int, recv_ns: int) -> None:
        """Continue with a print whose gap is not part of the rhythm: it was not watched, or is not proven."""
        self.newest_ns[code] = max(self.newest_ns[code], ts_ns)
        self.arrived_ns[code] = max(self.arrived_ns[code], recv_ns)

    def add_gap(self, code: int, from_ns: int, to_ns: int) -> None:
        """Add a gap; the newest print stays as it is."""
        _add(code, to_ns, max(0, to_ns - from_ns), self._arrays)

    def restore(self, code: int, *, newest_ns: int, recv_ns: int) -> None:
        """Set the newest print of an earlier recording; a restored rhythm counts as known since then."""
        if self.known_ns[code] != NEVER:
            self.known_ns[code] = newest_ns
        self.newest_ns[code] = max(self.newest_ns[code], newest_ns)
        self.arrived_ns[code] = max(self.arrived_ns[code], recv_ns)

    def restore_hour(self, code: int, hour: int, gaps: int, total_ns: int, longest_ns: int) -> None:
        """Set what an earlier recording knew of one hour."""
        self._arrays[_HOURS_AT][code, hour % HOURS] = (hour, gaps, total_ns, longest_ns)

    def hold(self, code: int, *, is_held: bool) -> None:
        """Have every newer print of a stream decided by the caller of `learn`."""
        self._arrays[_HELD_AT][code] = is_held

    def allowed_ns(self, code: int) -> int | None:
        """Return the silence after the newest print that the rhythm allows; None while it is not known."""
        if self.known_ns[code] == NEVER:
            return None
        last, hours = self._arrays[_LAST_AT][code], self._arrays[_HOURS_AT][code]
        hours = hours[hours[:, 0] > self.newest_ns[code] // HOUR_NS - HOURS]
        gaps, total_ns = int(hours[:, 1].sum()), int(hours[:, 2].sum())
        longest_ns = int(hours[:, 3].max(initial=0))
        if gaps < LEAST_GAPS:
            gaps, total_ns = LEAST_GAPS, sum(last.tolist())
            longest_ns = max(longest_ns, int(last.max()))
        return max(LEAST_NS, GAP_FACTOR * longest_ns, RATE_FACTOR * total_ns // gaps)

    def silent_codes(self, now_ns: int) -> list[int]:
        """Return the streams whose newest print is older than any silence that is never doubted."""
        newest_ns = self.newest_ns[: len(self.instruments)]
        codes: list[int] = np.flatnonzero((newest_ns >= 0) & (newest_ns < now_ns - LEAST_NS)).tolist()
        return codes


def warm_up() -> None:
    """Load the compiled functions before prints wait for them."""
    rhythm, ones = PrintRhythm(), np.ones(2, np.int64)
    rhythm.learn(np.full(2, rhythm.code("")), ones, ones, 0)
    rhythm.add_gap(0, 0, 1)


def _fresh(streams: int) -> tuple[NDArray[Any], ...]:
    """Return arrays of streams of which nothing is known.

    Newest print, last receipt, known since (n,); whether it is held (n,); number of gaps (n,); the last of them
    (n, 20); by hour (n, 24, 4): its number, the gaps that ended in it, their sum and the longest.
    """
    hours = np.zeros((streams, HOURS, 4), np.int64)
    hours[:, :, 0] = -NEVER
    return (
        np.full(streams, -1, np.int64),
        np.full(streams, -1, np.int64),
        np.full(streams, NEVER, np.int64),
        np.zeros(streams, np.bool_),
        np.zeros(streams, np.int64),
        np.zeros((streams, LEAST_GAPS), np.int64),
        hours,
    )


_jit: Any = compiled()


@_jit
def _add(code, at_ns, gap_ns, arrays):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Add a gap that ended at an instant."""
    _, _, known_ns, _, gaps, last, hours = arrays
    last[code, gaps[code] % LEAST_GAPS] = gap_ns
    gaps[code] += 1
    if gaps[code] == LEAST_GAPS:
        known_ns[code] = at_ns
    hour = at_ns // HOUR_NS
    row = hours[code, hour % HOURS]
    if row[0] < hour:
        row[0], row[1], row[2], row[3] = hour, 0, 0, 0
    row[1] += 1
    row[2] += gap_ns
    row[3] = max(row[3], gap_ns)


@_jit
def _learn(start, codes, ts_ns, recv_ns, arrays):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Learn prints from `start` on; return where it stopped for a decision."""
    newest_ns, arrived_ns, _, is_held, _, _, _ = arrays
    for i in range(start, codes.size):
        code, at_ns = codes[i], ts_ns[i]
        newest = newest_ns[code]
        if newest >= 0:
            is_long = at_ns - newest > LONG_NS or recv_ns[i] - arrived_ns[code] > LONG_NS
            if is_long or (is_held[code] and at_ns > newest):
                return i
            _add(code, max(at_ns, newest), max(0, at_ns - newest), arrays)
        newest_ns[code] = max(at_ns, newest)
        arrived_ns[code] = max(recv_ns[i], arrived_ns[code])
    return codes.size
