"""Reference loops for returns, volatility and regimes."""

from __future__ import annotations

import math
from itertools import pairwise

from tests.features.library.loops.cells import (
    Cell,
    Rows,
    enough,
    mean_of,
    ratio_of,
    squares_of,
    step_return,
    steps_of,
    window,
)


def log_return(rows: Rows, s: int, t: int, bars: int) -> Cell:
    now, then = rows.last(s, t), rows.last(s, t - bars)
    if now is None or then is None or not enough(sum(rows.is_observed(s, i) for i in window(t, bars)), bars):
        return None
    return math.log(now[0]) - math.log(then[0])


def momentum(rows: Rows, s: int, t: int, bars: int) -> Cell:
    change, mean = log_return(rows, s, t, bars), mean_of(squares_of(steps_of(rows, s, t, bars)))
    return ratio_of(change, None if mean is None else math.sqrt(mean) * math.sqrt(bars))


def range_position(rows: Rows, s: int, t: int, bars: int) -> Cell:
    last = rows.last(s, t)
    highs = [cell for i in window(t, bars) if (cell := rows.price("high", s, i)) is not None]
    lows = [cell for i in window(t, bars) if (cell := rows.price("low", s, i)) is not None]
    if last is None or not highs or not lows or max(highs) <= min(lows):
        return None
    if not enough(sum(rows.is_observed(s, i) for i in window(t, bars)), bars):
        return None
    return math.log(last[0] / min(lows)) / math.log(max(highs) / min(lows))


def variance_ratio(rows: Rows, s: int, t: int, bars: int) -> Cell:
    ends: list[Cell] = []
    for i in window(t, bars - 4):
        now, then = rows.last(s, i), rows.last(s, i - 5)
        ends.append(None if now is None or then is None else math.log(now[0] / then[0]) ** 2)
    ratio = ratio_of(mean_of(ends), mean_of(squares_of(steps_of(rows, s, t, bars))))
    return None if ratio is None else ratio / 5.0 - 1.0


def _bipower(rows: Rows, s: int, t: int, bars: int) -> Cell:
    steps = steps_of(rows, s, t, bars)
    pairs = [None if a is None or b is None else abs(a) * abs(b) for a, b in pairwise(steps)]
    mean = mean_of(pairs)
    return None if mean is None else mean * math.pi / 2.0


def bipower_volatility(rows: Rows, s: int, t: int, bars: int) -> Cell:
    variance = _bipower(rows, s, t, bars)
    return None if variance is None else math.sqrt(variance)


def jump_share(rows: Rows, s: int, t: int, bars: int) -> Cell:
    whole, smooth = mean_of(squares_of(steps_of(rows, s, t, bars))), _bipower(rows, s, t, bars)
    return None if smooth is None or not whole else max(whole - smooth, 0.0) / whole


def jump_balance(rows: Rows, s: int, t: int, bars: int) -> Cell:
    signs: list[Cell] = []
    for i in window(t, bars):
        change, usual = step_return(rows, s, i), _bipower(rows, s, i - 1, 60)
        if change is None or usual is None:
            signs.append(None)
        else:
            signs.append(math.copysign(1.0, change) if abs(change) > 4.0 * math.sqrt(usual) else 0.0)
    mean = mean_of(signs)
    return None if mean is None else bars * mean


def semivariance_balance(rows: Rows, s: int, t: int, bars: int) -> Cell:
    steps = [cell for cell in steps_of(rows, s, t, bars) if cell is not None]
    whole = math.fsum(cell**2 for cell in steps)
    if not enough(len(steps), bars) or whole == 0.0:
        return None
    return math.fsum(math.copysign(cell**2, cell) for cell in steps) / whole


def realised_volatility(rows: Rows, s: int, t: int, bars: int) -> Cell:
    changes: list[Cell] = []
    for i in window(t, bars):
        change = log_return(rows, s, i, 1)
        changes.append(None if change is None else change**2)
    mean = mean_of(changes)
    return None if mean is None else math.sqrt(mean)


def parkinson_volatility(rows: Rows, s: int, t: int, bars: int) -> Cell:
    ranges: list[Cell] = []
    for i in window(t, bars):
        high, low = rows.price("high", s, i), rows.price("low", s, i)
        if rows.status(s, i) == "quiet":
            ranges.append(0.0)
        else:
            ranges.append(None if high is None or low is None else math.log(high / low) ** 2)
    mean = mean_of(ranges)
    return None if mean is None else math.sqrt(mean / (4.0 * math.log(2.0)))


def price_age(rows: Rows, s: int, t: int) -> Cell:
    last = rows.last(s, t)
    return None if last is None else float(last[1])


def _decayed(cells: list[Cell], half_life: float) -> Cell:
    """Return the weighted mean; the newest cell is the last."""
    weights = [2.0 ** (-age / half_life) for age in reversed(range(len(cells)))]
    known = [(cell, weight) for cell, weight in zip(cells, weights, strict=True) if cell is not None]
    weight = math.fsum(weight for _, weight in known)
    if weight < 0.8 * math.fsum(weights) - 1e-9:
        return None
    return math.fsum(cell * weight for cell, weight in known) / weight


def volatility_regime(rows: Rows, s: int, t: int, bars: int) -> Cell:
    squares = squares_of(steps_of(rows, s, t, bars))
    ratio = ratio_of(_decayed(squares, 8.0), _decayed(squares, 40.0))
    return math.log(ratio) / 2.0 if ratio else None


def illiquidity_regime(rows: Rows, s: int, t: int, bars: int) -> Cell:
    sizes: list[Cell] = []
    traded: list[Cell] = []
    for i in window(t, bars):
        change, last, volume = step_return(rows, s, i), rows.last(s, i), rows.amount("volume", s, i)
        is_known = change is not None and last is not None and volume is not None
        sizes.append(abs(change) if is_known and change is not None else None)
        traded.append(last[0] * volume if is_known and last is not None and volume is not None else None)
    short = ratio_of(_decayed(sizes, 8.0), _decayed(traded, 8.0))
    ratio = ratio_of(short, ratio_of(_decayed(sizes, 40.0), _decayed(traded, 40.0)))
    return math.log(ratio) if ratio else None


def _state(ratio: Cell) -> Cell:
    return None if ratio is None else float((ratio > math.log(1.25)) - (ratio < -math.log(1.25)))


def volatility_state(rows: Rows, s: int, t: int, bars: int) -> Cell:
    return _state(volatility_regime(rows, s, t, bars))


def illiquidity_state(rows: Rows, s: int, t: int, bars: int) -> Cell:
    return _state(illiquidity_regime(rows, s, t, bars))
