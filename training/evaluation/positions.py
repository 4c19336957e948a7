"""What would the predictions have earned, after every cost? One rule for gate, report and paper ledger.

The rule: a decision is taken when a bar is knowable. Flat, or at the end of a holding period, an instrument wants
a long (short) position when the predicted move is above (below) `threshold` times what going in and out would cost
in the decided bar. The order meets the first bar that closes no earlier than the decision plus the delay and that
has a price; it is held for `hold_bars`, then renewed, turned or closed by the same rule. The predicted move is
prediction times scale.

The ledger works in shares of a fixed capital, without compounding. A fill pays the taker fee in force that day,
half the spread and its impact (training/evaluation/costs.py). Funding is paid on what is held when it falls due,
at the last price (the venue takes its oracle). At the window's end everything is closed, at cost.

Axes: S instruments, T steps of one window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from storage.errors import SettingsError
from training.evaluation.costs import BPS, Costs, impact_share


@dataclass(frozen=True, slots=True)
class PositionRule:
    """When a position is wanted, and how large.

    Args:
        threshold: predicted move, as a multiple of the round trip's cost, that opens a position.
        gross_share: capital at work when every instrument has a position; each gets an equal part.
        hold_bars: bars from fill to fill.
        capacity_share: largest share of the decided bar's notional that a position may be; `None`: no limit.
    """

    threshold: float
    hold_bars: int
    gross_share: float = 1.0
    capacity_share: float | None = None

    def __post_init__(self) -> None:
        if self.threshold < 0 or self.hold_bars < 1 or self.gross_share <= 0:
            raise SettingsError(
                f"position rule {self} is out of range", hint="threshold from 0, hold_bars from 1"
            )


@dataclass(frozen=True, slots=True)
class MarketData:
    """What a window of time offered.

    Args:
        instruments: (S,) ids.
        ts_close_ns: (T,) int64.
        price: (S, T) float64, NaN where none.
        half_spread: (S, T) float64, share of the price, NaN where unquoted.
        notional: (S, T) float64, quote units traded in the bar, NaN where unknown.
        taker_fee_bps: (S, T) float64, in force at the close.
        scale: (S, T) float64, what a prediction is multiplied by to become a move; NaN where unknown.
        funding_paid: (S, T) float64, rates that fell due in (previous close, this close]; `None`: not known,
            so funding is left out of the ledger and the report says so.
        delay_bars: bars from a decision to the bar that its order meets.
    """

    instruments: tuple[str, ...]
    ts_close_ns: np.ndarray
    price: np.ndarray
    half_spread: np.ndarray
    notional: np.ndarray
    taker_fee_bps: np.ndarray
    scale: np.ndarray
    funding_paid: np.ndarray | None
    delay_bars: int

    def window(self, first: int, stop: int) -> MarketData:
        """Return the steps from `first` up to `stop`."""
        part = slice(first, stop)
        return MarketData(
            self.instruments,
            self.ts_close_ns[part],
            self.price[:, part],
            self.half_spread[:, part],
            self.notional[:, part],
            self.taker_fee_bps[:, part],
            self.scale[:, part],
            None if self.funding_paid is None else self.funding_paid[:, part],
            self.delay_bars,
        )


@dataclass(frozen=True, slots=True)
class SimulatedTrade:
    """One fill; `change` is signed notional, and with the costs a share of the capital."""

    instrument: int
    step: int
    price: float
    change: float
    fee: float
    spread: float
    impact: float


@dataclass(frozen=True, slots=True)
class PositionLedger:
    """What a rule earned, step by step, in shares of the capital; costs are positive.

    Args:
        gross, fee, spread, impact, funding: (T,) float64; funding received is negative.
        exposure: (S, T) float64, notional held after the step's fills.
        fills: in order of time, then instrument.
    """

    gross: np.ndarray
    fee: np.ndarray
    spread: np.ndarray
    impact: np.ndarray
    funding: np.ndarray
    exposure: np.ndarray
    fills: tuple[SimulatedTrade, ...]

    @property
    def net(self) -> np.ndarray:
        """(T,) float64, what each step earned after costs."""
        total: np.ndarray = self.gross - self.fee - self.spread - self.impact - self.funding
        return total


def run_ledger(
    prediction: np.ndarray, market: MarketData, rule: PositionRule, costs: Costs
) -> PositionLedger:
    """Return what acting on predictions by the rule would have earned.

    Args:
        prediction: (S, T) float, in units of `market.scale`; NaN where there is none, which wants no position.
        market: prices and costs of the same steps.
        rule: when and how much.
        costs: half spread without a quote, impact and capital.
    """
    fee = market.taker_fee_bps * BPS
    half = np.where(np.isfinite(market.half_spread), market.half_spread, costs.half_spread_bps * BPS)
    wanted = _wanted(prediction, market, rule, costs, fee + half)
    price = _carried(market.price)

    # 1. What is held after each step, and by which fills.
    fills: list[SimulatedTrade] = []
    units = np.zeros(prediction.shape)
    for i in range(len(prediction)):
        held = 0.0
        for step, target in _orders(wanted[i], np.isfinite(market.price[i]), rule, market.delay_bars):
            change = target - held * price[i, step]
            fills.append(_filled(i, step, float(price[i, step]), change, market, costs, fee, half))
            held = target / price[i, step]
            units[i, step:] = held

    # 2. What that earned: what was held into a step moves with its price and pays its funding.
    before = np.concatenate([np.zeros((len(units), 1)), units[:, :-1]], axis=1)
    moved = np.diff(price, axis=1, prepend=price[:, :1])
    paid = np.zeros(price.shape[1])
    if market.funding_paid is not None:
        paid = (before * np.nan_to_num(price) * market.funding_paid).sum(axis=0)
    fills.sort(key=lambda fill: (fill.step, fill.instrument))
    return PositionLedger(
        gross=(before * np.nan_to_num(moved)).sum(axis=0),
        **{name: _by_step(fills, name, price.shape[1]) for name in ("fee", "spread", "impact")},
        funding=paid,
        exposure=units * np.nan_to_num(price),
        fills=tuple(fills),
    )


def _wanted(
    prediction: np.ndarray, market: MarketData, rule: PositionRule, costs: Costs, fee_and_spread: np.ndarray
) -> np.ndarray:
    """Return the signed notional that the rule wants at each step, (S, T), as a share of the capital."""
    move = np.nan_to_num(prediction * market.scale)
    size = np.full(prediction.shape, rule.gross_share / len(prediction))
    if rule.capacity_share is not None:
        limit = rule.capacity_share * np.nan_to_num(market.notional) / costs.capital_usd
        size = np.minimum(size, limit)
    round_trip = 2 * (fee_and_spread + impact_share(size, market.notional, costs))
    found: np.ndarray = np.where(np.abs(move) > rule.threshold * round_trip, np.sign(move) * size, 0.0)
    return found


def _orders(
    wanted: np.ndarray, priced: np.ndarray, rule: PositionRule, delay_bars: int
) -> Iterator[tuple[int, float]]:
    """Yield one instrument's fills as step and signed notional held from then on; the last one closes.

    Args:
        wanted: (T,) signed notional that the rule wants at each step.
        priced: (T,) bool, an order can be filled there.
        rule: its holding period.
        delay_bars: bars from a decision to the bar that its order meets.
    """
    last = len(wanted) - 1
    wants, fillable = np.flatnonzero(wanted), np.flatnonzero(priced)
    side, decides = 0.0, 0
    while True:
        if side == 0.0:
            place = np.searchsorted(wants, decides)
            decides = int(wants[place]) if place < len(wants) else last
        if decides >= last:
            break
        target = float(wanted[decides])
        if np.sign(target) == side:
            decides += rule.hold_bars
            continue
        place = np.searchsorted(fillable, decides + delay_bars)
        # Whatever would be filled at the last step is closed there anyway.
        if place == len(fillable) or fillable[place] >= last:
            break
        step = int(fillable[place])
        yield step, target
        side = float(np.sign(target))
        # A period ends so that the next fill falls `hold_bars` after this one.
        decides = step + max(0, rule.hold_bars - delay_bars) if side else step
    if side:
        yield last, 0.0


def _filled(
    i: int,
    step: int,
    price: float,
    change: float,
    market: MarketData,
    costs: Costs,
    fee: np.ndarray,
    half: np.ndarray,
) -> SimulatedTrade:
    size = abs(change)
    return SimulatedTrade(
        instrument=i,
        step=step,
        price=price,
        change=change,
        fee=size * float(fee[i, step]),
        spread=size * float(half[i, step]),
        impact=size * float(impact_share(np.array(size), market.notional[i, step], costs)),
    )


def _by_step(fills: list[SimulatedTrade], name: str, n_steps: int) -> np.ndarray:
    steps = np.array([fill.step for fill in fills], dtype=np.int64)
    amounts = np.array([getattr(fill, name) for fill in fills], dtype=np.float64)
    return np.bincount(steps, weights=amounts, minlength=n_steps)


def _carried(price: np.ndarray) -> np.ndarray:
    """Return the last price seen at each step, NaN before the first."""
    seen = np.where(np.isfinite(price), np.arange(price.shape[1]), 0)
    found: np.ndarray = np.take_along_axis(price, np.maximum.accumulate(seen, axis=1), axis=1)
    return found
