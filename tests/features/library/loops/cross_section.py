"""Reference loops for cross-sectional and lead-lag features."""

from __future__ import annotations

import math
from collections.abc import Callable

from tests.features.library.loops.cells import (
    Cell,
    Rows,
    mean_of,
    moments_of,
    ratio_of,
    squares_of,
    step_return,
    steps_of,
    window,
)
from tests.features.library.loops.prices import log_return


def return_rank(rows: Rows, s: int, t: int, bars: int) -> Cell:
    return _rank([log_return(rows, other, t, bars) for other in range(rows.n_instruments)], s)


def market_residual(rows: Rows, s: int, t: int, bars: int) -> Cell:
    own, mean = log_return(rows, s, t, bars), _market(rows, t, bars)
    return None if own is None or mean is None else own - mean


def _over(every: list[Cell]) -> Cell:
    found = [cell for cell in every if cell is not None]
    return math.fsum(found) / len(found) if len(found) >= 3 else None


def _rank(every: list[Cell], s: int) -> Cell:
    own, found = every[s], [cell for cell in every if cell is not None]
    if own is None or len(found) < 3:
        return None
    lower, equal = sum(cell < own for cell in found), sum(cell == own for cell in found) - 1
    return (lower + equal / 2.0) / (len(found) - 1) - 0.5


def market_return(rows: Rows, s: int, t: int, bars: int) -> Cell:
    mean = _market(rows, t, bars)
    return mean if rows.is_observed(s, t) else None


def _market(rows: Rows, t: int, bars: int) -> Cell:
    return _over([log_return(rows, other, t, bars) for other in range(rows.n_instruments)])


def market_dispersion(rows: Rows, s: int, t: int, bars: int) -> Cell:
    every = [log_return(rows, other, t, bars) for other in range(rows.n_instruments)]
    mean = _over(every)
    if mean is None or not rows.is_observed(s, t):
        return None
    return _over([None if cell is None else abs(cell - mean) for cell in every])


def volatility_rank(rows: Rows, s: int, t: int, bars: int) -> Cell:
    return _rank(
        [mean_of(squares_of(steps_of(rows, other, t, bars))) for other in range(rows.n_instruments)], s
    )


def volume_rank(rows: Rows, s: int, t: int, bars: int) -> Cell:
    every = []
    for other in range(rows.n_instruments):
        usual = mean_of([rows.amount("volume", other, i) for i in range(t - bars, t)])
        every.append(ratio_of(rows.amount("volume", other, t), usual))
    return _rank(every, s)


def _of_leader(loop: Callable[..., Cell], rows: Rows, symbol: str, s: int, t: int, *args: int) -> Cell:
    leader = rows.leader(symbol, s)
    return None if leader is None else loop(rows, leader, t, *args)


def btc_return(rows: Rows, s: int, t: int, bars: int) -> Cell:
    return _of_leader(log_return, rows, "BTC", s, t, bars) if rows.is_observed(s, t) else None


def eth_return(rows: Rows, s: int, t: int, bars: int) -> Cell:
    return _of_leader(log_return, rows, "ETH", s, t, bars) if rows.is_observed(s, t) else None


def _lead(rows: Rows, symbol: str, s: int, t: int, bars: int) -> Cell:
    moments = moments_of(
        [
            (step_return(rows, s, i), _of_leader(step_return, rows, symbol, s, i - 1))
            for i in window(t, bars - 1)
        ]
    )
    return None if moments is None else ratio_of(moments[0], math.sqrt(moments[1] * moments[2]))


def btc_lead(rows: Rows, s: int, t: int, bars: int) -> Cell:
    return _lead(rows, "BTC", s, t, bars)


def eth_lead(rows: Rows, s: int, t: int, bars: int) -> Cell:
    return _lead(rows, "ETH", s, t, bars)


def _beside_btc(rows: Rows, s: int, t: int, bars: int) -> tuple[float, float, float] | None:
    return moments_of(
        [(step_return(rows, s, i), _of_leader(step_return, rows, "BTC", s, i)) for i in window(t, bars)]
    )


def btc_beta(rows: Rows, s: int, t: int, bars: int) -> Cell:
    moments = _beside_btc(rows, s, t, bars)
    return None if moments is None or moments[1] == 0.0 else ratio_of(moments[0], moments[2])


def btc_residual(rows: Rows, s: int, t: int, bars: int) -> Cell:
    own, led = log_return(rows, s, t, bars), _of_leader(log_return, rows, "BTC", s, t, bars)
    moments = _beside_btc(rows, s, t, 120)
    beta = None if moments is None else ratio_of(moments[0], moments[2])
    return None if own is None or led is None or beta is None else own - beta * led
