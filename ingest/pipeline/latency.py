"""Latency distribution of frames, by channel and minute.

The time at which history counts as knowable depends on this distribution (`bars.history_lag_ms`), so it is stored in
the table `lags`. A lag is receipt time minus the venue's own time, in milliseconds. It goes into a histogram whose
buckets grow by 8 %, so that a percentile is within 4 % of the true one at any size, from 10 us to three hours.
Negative lags mean that one of the two clocks is off; they are counted separately and enter no percentile.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from storage.clock import NS, US_NS

MINUTE_NS: Final = 60 * NS

_LEAST_MS: Final = 0.01
_GROWTH: Final = 1.08
_BUCKETS: Final = 270  # up to 0.01 ms * 1.08^270, about 2.9 hours
_EDGES: Final[NDArray[np.float64]] = _LEAST_MS * _GROWTH ** np.arange(_BUCKETS + 1, dtype=np.float64)
# The same numbers for `bisect`: one frame and many frames must fall into the same buckets, to the last bit.
_EDGE_LIST: Final = _EDGES.tolist()
# The value of a bucket; below the first edge and above the last one, the edge itself.
_MIDDLES: Final = np.concatenate(([_LEAST_MS], np.sqrt(_EDGES[:-1] * _EDGES[1:]), [_EDGES[-1]]))
_SHARES: Final = {"p50_ms": 0.50, "p90_ms": 0.90, "p99_ms": 0.99}


class _Minute:
    """The lags of one channel in one minute of receipt."""

    __slots__ = ("counts", "frames", "least_ms", "most_ms", "negative")

    def __init__(self) -> None:
        self.counts = [0] * (_BUCKETS + 2)
        self.frames = 0
        self.negative = 0
        self.least_ms = float("inf")
        self.most_ms = float("-inf")


@dataclass(frozen=True, slots=True)
class CurrentLag:
    """A channel's lag in the newest minutes.

    Args:
        p50_ms, p99_ms: percentiles of the lags that are not negative; None where there are none.
        least_ms: the shortest, which bounds how far our clock can be ahead of the venue's.
    """

    frames: int
    p50_ms: float | None
    p99_ms: float | None
    least_ms: float


class LatencyTracker:
    """Counts lags; the result does not depend on how frames are batched."""

    def __init__(self, journal: str) -> None:
        """Start empty; `journal` names the recording in every row."""
        self._journal = journal
        self._minutes: dict[tuple[int, str], _Minute] = {}
        self._newest: dict[str, CurrentLag] = {}

    def note(self, channel: str, lag_ms: float, recv_ns: int) -> None:
        """Count one frame.

        Leave out what the venue resends on purpose (the first batch after a subscription): its age is no lag.

        Args:
            channel: the venue's name of it.
            lag_ms: receipt time minus venue time.
            recv_ns: receipt time.
        """
        minute = self._minute(channel, recv_ns - recv_ns % MINUTE_NS)
        minute.frames += 1
        minute.least_ms = min(minute.least_ms, lag_ms)
        if lag_ms < 0.0:
            minute.negative += 1
            return
        minute.counts[bisect_right(_EDGE_LIST, lag_ms)] += 1
        minute.most_ms = max(minute.most_ms, lag_ms)

    def note_many(self, channel: str, lag_ms: NDArray[np.float64], recv_ns: NDArray[np.int64]) -> None:
        """Count many frames of one channel; the result is that of `note` on each.

        Args:
            lag_ms: (N,) float64.
            recv_ns: (N,) int64, in any order.
        """
        opens = recv_ns - recv_ns % MINUTE_NS
        if opens.size and opens[0] == opens[-1] and bool((opens == opens[0]).all()):
            self._add(channel, int(opens[0]), lag_ms)
            return
        for open_ns in np.unique(opens):
            self._add(channel, int(open_ns), lag_ms[opens == open_ns])

    def take_rows(self, before_ns: int) -> list[dict[str, Any]]:
        """Return the rows of `lags` for minutes that ended by `before_ns`, and forget them."""
        due = [key for key in self._minutes if key[0] + MINUTE_NS <= before_ns]
        return [self._take(key, key[0] + MINUTE_NS) for key in sorted(due)]

    def settle(self, now_ns: int) -> list[dict[str, Any]]:
        """Return the rows that are left when a recording ends at `now_ns`, including the unfinished minute."""
        return [self._take(key, min(key[0] + MINUTE_NS, now_ns)) for key in sorted(self._minutes)]

    def now(self) -> dict[str, CurrentLag]:
        """Return the lag of every channel: of the running minute, or of the last one while that has few frames."""
        shown = dict(self._newest)
        for (_, channel), minute in sorted(self._minutes.items()):
            running = _lag_now(minute)
            if channel not in shown or minute.frames >= shown[channel].frames // 10:
                shown[channel] = running
        return shown

    def _minute(self, channel: str, open_ns: int) -> _Minute:
        key = (open_ns, channel)
        found = self._minutes.get(key)
        if found is None:
            found = self._minutes[key] = _Minute()
        return found

    def _add(self, channel: str, open_ns: int, lag_ms: NDArray[np.float64]) -> None:
        minute = self._minute(channel, open_ns)
        minute.frames += lag_ms.size
        minute.least_ms = min(minute.least_ms, float(lag_ms.min()))
        known = lag_ms[lag_ms >= 0.0]
        minute.negative += lag_ms.size - known.size
        if not known.size:
            return
        minute.most_ms = max(minute.most_ms, float(known.max()))
        buckets, counts = np.unique(np.searchsorted(_EDGES, known, side="right"), return_counts=True)
        for bucket, count in zip(buckets.tolist(), counts.tolist(), strict=True):
            minute.counts[bucket] += count

    def _take(self, key: tuple[int, str], knowable_ns: int) -> dict[str, Any]:
        minute = self._minutes.pop(key)
        self._newest[key[1]] = _lag_now(minute)
        is_known = minute.frames > minute.negative
        return {
            "journal": self._journal,
            "channel": key[1],
            "ts_from": key[0] // US_NS,
            "frames": minute.frames,
            **{name: _percentile(minute, share) for name, share in _SHARES.items()},
            "max_ms": minute.most_ms if is_known else None,
            "negative": minute.negative,
            "ts_knowable_ns": knowable_ns,
        }


def _lag_now(minute: _Minute) -> CurrentLag:
    return CurrentLag(minute.frames, _percentile(minute, 0.50), _percentile(minute, 0.99), minute.least_ms)


def _percentile(minute: _Minute, share: float) -> float | None:
    """Return the value of the bucket with the nearest-rank percentile, at most the longest lag."""
    known = minute.frames - minute.negative
    if known == 0:
        return None
    rank = max(1, int(np.ceil(share * known)))
    bucket = int(np.searchsorted(np.cumsum(minute.counts), rank))
    return min(float(_MIDDLES[bucket]), minute.most_ms)
