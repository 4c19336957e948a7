"""Net return by complete UTC day (or hour), and the risk that the positions of each carried.

The risk of a day is found by replaying its positions on earlier prices: the same holdings, step by step, over every
stretch of a day's length that was known when the day began, at each quarter of a day. It shows losses that the strategy
has not met yet and the market already has.

Axes: S instruments, T steps, P periods.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from training.evaluation.positions import MarketData, PositionLedger, forward_fill

_SHIFTS: Final = 4


@dataclass(frozen=True, slots=True)
class PeriodNet:
    """Net return of one path by complete period.

    Args:
        period_ns: length of a period, a UTC day or hour.
        start_ns: (P,) int64, ascending.
        net: (P,) float64, in shares of the capital, after all costs.
        volatility: (P,) float64, of the positions held, from earlier prices; 0 where there are none.
        worst_loss: (P,) float64, largest loss of the same positions on earlier prices; at least 0.
        is_quoted: (P,) bool, every fill was at a quote.
    """

    period_ns: int
    start_ns: np.ndarray
    net: np.ndarray
    volatility: np.ndarray
    worst_loss: np.ndarray
    is_quoted: np.ndarray

    def __len__(self) -> int:
        return len(self.start_ns)


def complete_periods(ts_close_ns: np.ndarray, *, width_ns: int, period_ns: int) -> tuple[np.ndarray, int]:
    """Return the first step of each complete period, (P,) int64, and the steps of a period.

    Args:
        ts_close_ns: (T,) int64, closes of consecutive bars.
        width_ns: width of a bar; must divide the period.
        period_ns: length of a period, counted from the UTC epoch.

    Raises:
        ValueError: a period is no whole number of bars.
    """
    if period_ns % width_ns:
        raise ValueError(f"a period of {period_ns} ns is no whole number of bars of {width_ns} ns")
    bars = period_ns // width_ns
    opens = ts_close_ns - width_ns
    first = np.flatnonzero(opens % period_ns == 0)
    return first[first + bars <= len(opens)], bars


def net_by_period(net: np.ndarray, first: np.ndarray, bars: int) -> np.ndarray:
    """Return the sums of (T,) step returns over periods that begin at steps `first`, (P,)."""
    sums = np.concatenate([[0.0], net.cumsum()])
    total: np.ndarray = sums[first + bars] - sums[first]
    return total


def measure_path(
    ledger: PositionLedger, market: MarketData, *, offset: int, width_ns: int, period_ns: int
) -> PeriodNet:
    """Return net and risk of a ledger by complete period.

    Args:
        ledger: of consecutive steps, the first of which is step `offset` of the market.
        market: prices of these and all earlier steps.
        offset: steps of the market before the ledger.
        width_ns: width of a bar.
        period_ns: length of a period.
    """
    steps = len(ledger.net)
    closes = market.ts_close_ns[offset : offset + steps]
    first, bars = complete_periods(closes, width_ns=width_ns, period_ns=period_ns)
    volatility, worst_loss = replay_risk(ledger.exposure, market.price, first, bars, offset=offset)
    quoted = np.ones(steps, dtype=bool)
    half_spread = market.half_spread[:, offset : offset + steps]
    for fill in ledger.fills:
        quoted[fill.step] &= fill.is_quoted
    # A period without a fill is quoted where the market has any quote in it.
    is_quoted = [
        bool(quoted[at : at + bars].all() and np.isfinite(half_spread[:, at : at + bars]).any())
        for at in first.tolist()
    ]
    return PeriodNet(
        period_ns=period_ns,
        start_ns=closes[first] - width_ns,
        net=net_by_period(ledger.net, first, bars),
        volatility=volatility,
        worst_loss=worst_loss,
        is_quoted=np.array(is_quoted, dtype=bool),
    )


def replay_risk(
    exposure: np.ndarray, price: np.ndarray, first: np.ndarray, bars: int, *, offset: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return volatility and worst loss of each period's positions on all earlier stretches of a period's length.

    Args:
        exposure: (S, T) notional held after each step.
        price: (S, T'), with `offset` steps before the first of `exposure`; NaN where there is none.
        first: (P,) first steps of the periods within `exposure`, each a whole number of periods after the other.
        bars: steps of a period.
        offset: steps before.
    """
    shifts = _SHIFTS if bars % _SHIFTS == 0 else 1
    part, count = bars // shifts, len(exposure)
    nothing = np.zeros(len(first))
    if not len(first):
        return nothing, nothing
    # 1. Returns of earlier steps, in stretches of a quarter of a period that end where periods end.
    origin = int(first[0] + offset) % part
    moves = _returns(price)[:, origin:]
    stretches = moves.shape[1] // part
    by_instrument = moves[:, : stretches * part].reshape(count, stretches, part)
    table = by_instrument.transpose(1, 0, 2).reshape(stretches, count * part)
    # 2. Notional held into each step of the periods, in the same stretches.
    into = np.concatenate([np.zeros((count, 1)), exposure[:, :-1]], axis=1)
    by_period = np.stack([into[:, at : at + bars] for at in first.tolist()])
    held = by_period.reshape(len(first), count, shifts, part).transpose(2, 0, 1, 3)
    # 3. Earnings of each period's holdings in each stretch of a period's length, (windows, P).
    windows = stretches - shifts + 1
    earned = np.zeros((max(windows, 0), len(first)))
    for j in range(shifts):
        earned += table[j : j + len(earned)] @ held[j].reshape(len(first), -1).T
    volatility, worst_loss = nothing.copy(), nothing.copy()
    for p, at in enumerate(first.tolist()):
        known = (at + offset - origin) // part - shifts + 1
        if known >= 2:
            volatility[p] = earned[:known, p].std(ddof=1)
            worst_loss[p] = max(0.0, -earned[:known, p].min())
    return volatility, worst_loss


def _returns(price: np.ndarray) -> np.ndarray:
    """Return simple returns against the last known price, (S, T); 0 where there is none."""
    filled = forward_fill(price)
    with np.errstate(invalid="ignore", divide="ignore"):
        moves = filled[:, 1:] / filled[:, :-1] - 1
    returns: np.ndarray = np.concatenate([np.zeros((len(price), 1)), np.nan_to_num(moves)], axis=1)
    return returns
