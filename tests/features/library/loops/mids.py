"""Reference loops for features of the mid."""

from __future__ import annotations

import math
from functools import cache

from tests.features.library.loops.cells import (
    Cell,
    Rows,
    enough,
    mean_of,
    ratio_of,
    squares_of,
    window,
)


def mid_return(rows: Rows, s: int, t: int, bars: int) -> Cell:
    now, then = rows.mid(s, t), rows.mid(s, t - bars)
    if now is None or then is None or not enough(sum(rows.is_observed(s, i) for i in window(t, bars)), bars):
        return None
    return math.log(now) - math.log(then)


@cache
def _step(rows: Rows, s: int, t: int) -> Cell:
    now, then = rows.mid(s, t), rows.mid(s, t - 1)
    return None if now is None or then is None else math.log(now / then)


def _steps(rows: Rows, s: int, t: int, bars: int) -> list[Cell]:
    return [_step(rows, s, i) for i in window(t, bars)]


def mid_momentum(rows: Rows, s: int, t: int, bars: int) -> Cell:
    change, mean = mid_return(rows, s, t, bars), mean_of(squares_of(_steps(rows, s, t, bars)))
    return ratio_of(change, None if mean is None else math.sqrt(mean * bars))


def mid_volatility(rows: Rows, s: int, t: int, bars: int) -> Cell:
    mean = mean_of(squares_of(_steps(rows, s, t, bars)))
    return None if mean is None else math.sqrt(mean)


def mid_return_rank(rows: Rows, s: int, t: int, bars: int) -> Cell:
    every = [mid_return(rows, other, t, bars) for other in range(rows.n_instruments)]
    own, found = every[s], [cell for cell in every if cell is not None]
    if own is None or len(found) < 3:
        return None
    lower, equal = sum(cell < own for cell in found), sum(cell == own for cell in found) - 1
    return (lower + equal / 2.0) / (len(found) - 1) - 0.5


def mid_residual(rows: Rows, s: int, t: int, bars: int) -> Cell:
    every = [mid_return(rows, other, t, bars) for other in range(rows.n_instruments)]
    own, found = every[s], [cell for cell in every if cell is not None]
    return None if own is None or len(found) < 3 else own - math.fsum(found) / len(found)
