"""Share of steps in which a coin prints, measured around each of its silences and outside of it.

It is the least of four measures, so that neither bursts nor a change of pace make a natural silence look improbable:
the pace of the nearest 240 gaps before the silence, and of those after it; the plain share over a day of minutes
(`REACH` steps) on the busier side; and the share that would allow a silence of three times the third longest one
within that reach. The longest two are left out, since another halt, or a stray print within this one, must not
become the rhythm.

Of a coin that prints in less than a tenth of its steps, these windows hold too few pauses between bursts. Its pace is
measured over a week of minutes (`WIDE_REACH`), and only where the gaps there vary no more than 20 equal ones would.

Four simulated bursty coins and the recorded minutes of Bitfinex chose the measures (2026-11-30): without the last one,
up to 18 % of the silent bars of a coin with ten prints a burst were doubtful, with it 0.4 %. Ten bursty coins chose the
wide reach (2026-12-01, docs/adr/0031).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from storage.jit import compiled

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

REACH: Final = 1_440
"""A rhythm is measured over at most so many steps on either side of a silence."""
WIDE_REACH: Final = 10_080
"""That of a coin that prints in less than a tenth of them."""
WAITS_ALLOWED: Final = 14.0
"""A silence of so many mean waits has a probability of one in a million."""
_LONGEST_ALLOWED: Final = 3.0
_GAPS: Final = 240
# Fewer steps do not measure a rhythm.
_LEAST_STEPS: Final = 60
# A coin that prints in less of its steps is measured over `WIDE_REACH` too.
_THIN_SHARE: Final = 0.1
# Fewer gaps of equal length do not measure the rhythm of such a coin.
_LEAST_GAPS: Final = 20.0
# A longer gap, in mean waits, counts as so long.
_CLIP_WAITS: Final = 6.0
_CLIP_ROUNDS: Final = 3


def print_shares(prints: Ints, steps: int) -> Floats:
    """Return the share of steps in which a coin prints around each silence; 0 where it is not known.

    A silence at the edge of the data is measured from one side.

    Args:
        prints: (m,) indices of the steps with prints, ascending.
        steps: number of steps.

    Returns:
        (m + 1,): before the first print, between each two, and after the last one.
    """
    if not prints.size:
        return np.zeros(1)
    low, high = _windows(prints)
    before, after = _waits(prints, low, high)
    at = np.arange(prints.size)
    pace = _slower(at - low, before, prints - prints[low], high - at, after, prints[high] - prints)
    share = np.minimum(pace, _day_shares(prints, steps))
    share = np.minimum(share, WAITS_ALLOWED / (_LONGEST_ALLOWED * _third_longest(prints, REACH)))
    is_thin = np.minimum(share, _whole_shares(prints, steps)) < _THIN_SHARE
    found: Floats = np.where(is_thin, np.minimum(share, _wide_shares(prints, is_thin)), share)
    return found


def _slower(gaps_b: Ints, wait_b: Floats, span_b: Ints, gaps_a: Ints, wait_a: Floats, span_a: Ints) -> Floats:
    """Return the lesser pace of both sides of each silence; of one side where the other is too short.

    Args:
        gaps_b, wait_b, span_b: (m,) number of gaps, mean wait and steps before each print.
        gaps_a, wait_a, span_a: (m,) the same after each print.
    """
    count_b, count_a = np.append(0, gaps_b), np.append(gaps_a, 0)
    time_b, time_a = np.append(0.0, gaps_b * wait_b), np.append(gaps_a * wait_a, 0.0)
    share_b = np.where(np.append(0, span_b) >= _LEAST_STEPS, _least_share(count_b, time_b), np.nan)
    share_a = np.where(np.append(span_a, 0) >= _LEAST_STEPS, _least_share(count_a, time_a), np.nan)
    lesser = np.fmin(share_b, share_a)
    return np.where(np.isnan(lesser), _least_share(count_b + count_a, time_b + time_a), lesser)


def _day_shares(prints: Ints, steps: int) -> Floats:
    """Return the share of steps with prints within `REACH` of each silence, on the busier side."""
    at = np.arange(prints.size)
    first, last = np.maximum(prints - REACH, -1), np.minimum(prints + REACH, steps)
    before = _least_share(at + 1 - np.searchsorted(prints, first, "right"), prints - first)
    after = _least_share(np.searchsorted(prints, last) - at, last - prints)
    busier: Floats = np.maximum(np.append(0.0, before), np.append(after, 0.0))
    return busier


def _whole_shares(prints: Ints, steps: int) -> Floats:
    """Return the share of steps with prints within `WIDE_REACH` on both sides of each silence together."""
    at = np.arange(prints.size)
    first, last = np.maximum(prints - WIDE_REACH, -1), np.minimum(prints + WIDE_REACH, steps)
    count = np.append(0, at + 1 - np.searchsorted(prints, first, "right"))
    count += np.append(np.searchsorted(prints, last) - at, 0)
    whole: Floats = count / np.maximum(np.append(0, prints - first) + np.append(last - prints, 0), 1)
    return whole


def _least_share(prints: Ints, steps: Ints | Floats) -> Floats:
    """Return the lower bound of a share at one standard error (Wilson 1927), over 60 steps at least."""
    n = np.maximum(steps, _LEAST_STEPS).astype(np.float64)
    share = np.minimum(prints / n, 1.0)
    lower = (share + 0.5 / n - np.sqrt(share * (1.0 - share) / n + 0.25 / n**2)) / (1.0 + 1.0 / n)
    return np.where(prints > 0, lower, 0.0)


def _windows(prints: Ints) -> tuple[Ints, Ints]:
    """Return, for each print, the first and the last print of the windows before and after it."""
    at = np.arange(prints.size)
    low = np.maximum(at - _GAPS, np.searchsorted(prints, prints - REACH))
    high = np.minimum(at + _GAPS, np.searchsorted(prints, prints + REACH, "right") - 1)
    return low, high


def _waits(prints: Ints, low: Ints, high: Ints) -> tuple[Floats, Floats]:
    """Return the mean wait for the next print in the windows before and after each print, in steps; 1 without a gap.

    From every step of a gap of n steps, the wait is n, n - 1, ..., 1. Bursts make the mean wait longer than the mean
    gap; for geometric gaps both are 1 / share. A gap counts as six waits at most.
    """
    gaps = np.diff(prints)
    before, after = _mean_waits(gaps, np.ones_like(gaps), low, high)  # mean gaps
    for _ in range(_CLIP_ROUNDS):
        longest = np.ceil(_CLIP_WAITS * np.fmin(before[:-1], after[1:]))
        clipped = np.where(longest < gaps, longest, gaps).astype(np.int64)
        before, after = _mean_waits(clipped * (clipped + 1) // 2, clipped, low, high)
    return np.where(np.isnan(before), 1.0, before), np.where(np.isnan(after), 1.0, after)


_jit: Any = compiled()


@_jit
def _mean_waits(waits, weights, low, high):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the sum of waits over that of weights in the windows before and after each print; NaN without a gap."""
    prints = low.size
    sums = np.zeros(prints, np.int64)
    over = np.zeros(prints, np.int64)
    for i in range(prints - 1):
        sums[i + 1], over[i + 1] = sums[i] + waits[i], over[i] + weights[i]
    before = np.full(prints, np.nan)
    after = np.full(prints, np.nan)
    for i in range(prints):
        if low[i] < i:
            before[i] = (sums[i] - sums[low[i]]) / (over[i] - over[low[i]])
        if high[i] > i:
            after[i] = (sums[high[i]] - sums[i]) / (over[high[i]] - over[i])
    return before, after


@_jit
def _third_longest(prints, reach):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the third longest gap within reach of each silence, without the silence itself; 1 at the edges."""
    found = np.ones(prints.size + 1)
    long_ones = np.empty(prints.size, np.int64)
    count = 0
    for i in range(prints.size - 1):
        if prints[i + 1] - prints[i] > 1:
            long_ones[count] = i
            count += 1
    low = high = 0
    for i in range(count):
        begin, end = prints[long_ones[i]], prints[long_ones[i] + 1]
        while prints[long_ones[low]] < begin - reach:
            low += 1
        while high < count and prints[long_ones[high] + 1] <= end + reach:
            high += 1
        first = second = third = 1
        for k in range(low, high):
            gap = prints[long_ones[k] + 1] - prints[long_ones[k]] if k != i else 0
            if gap > first:
                first, second, third = gap, first, second
            elif gap > second:
                second, third = gap, second
            elif gap > third:
                third = gap
        found[long_ones[i] + 1] = third
    return found


@_jit
def _wide_shares(prints, wanted):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the wanted shares of steps with prints within `WIDE_REACH`, on the slower side; 0 where not known.

    The pace of a side is one over the mean wait (`_waits`), without the two longest gaps and less one standard error.
    The gaps of a side count as many as there are equal ones with the same ratio of the mean square to the squared mean
    (Kish 1965): half as many for geometric ones, and as many as there are pauses for bursts.
    """
    shares = np.zeros(prints.size + 1)
    gaps = np.diff(prints)
    for i in range(prints.size + 1):
        if not wanted[i]:
            continue
        third = np.ones(3, np.int64)  # the three longest of both sides, ascending
        slower = np.inf
        for is_after in (False, True):
            longest = np.ones(2, np.int64)  # of this side, ascending
            count = total = weighted = squared = 0
            k = i if is_after else i - 2
            while 0 <= k < gaps.size:
                edge = prints[k + 1] - prints[i] if is_after else prints[i - 1] - prints[k]
                if edge > WIDE_REACH:
                    break
                gap = gaps[k]
                count += 1
                total += gap
                weighted += gap * (gap + 1) // 2
                squared += gap * gap
                if gap > longest[0]:
                    longest[0] = gap
                    longest.sort()
                if gap > third[0]:
                    third[0] = gap
                    third.sort()
                k += 1 if is_after else -1
            if count < _LEAST_GAPS:
                continue
            total -= longest.sum()
            equal_gaps = total * total / (squared - (longest * longest).sum())
            if equal_gaps >= _LEAST_GAPS:
                mean_wait = (weighted - (longest * (longest + 1) // 2).sum()) / total
                slower = min(slower, (1.0 - 1.0 / np.sqrt(2.0 * equal_gaps)) / mean_wait)
        if slower < np.inf:
            shares[i] = min(slower, WAITS_ALLOWED / (_LONGEST_ALLOWED * third[0]))
    return shares
