"""Backtest of the position rule: what predictions would have earned after all costs.

The rule decides when a bar becomes knowable. An instrument that is flat, or at the end of a holding period, takes a
long (short) position if the predicted move is above (below) `threshold` times the cost of a round trip in the decided
bar. The order is filled in the first priced bar that closes no earlier than the decision plus the delay; if none of
`expire_bars` bars has a price, it is cancelled and the rule decides anew. The position is held for `hold_bars`; then
the same rule renews, reverses or closes it. The predicted move is prediction times scale. The capital is shared by the
instruments that are listed at the decision.

The ledger uses shares of a fixed capital, without compounding. A fill pays the taker fee in force at that bar's close,
half the spread and its impact (training/evaluation/costs.py). A delisted position settles at the price of
training/evaluation/market.py, at no cost, and its orders are cancelled. Funding is paid on the position held when it
falls due, at the last price (the venue uses its oracle price). At the end of the window all positions are closed, at
cost.

Axes: S instruments, T steps of one window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from storage.errors import SettingsError
from training.evaluation.costs import BPS, Costs, impact_share
from training.evaluation.funding_charges import funding_charges


@dataclass(frozen=True, slots=True)
class PositionRule:
    """When to open a position, and how large.

    Args:
        threshold: predicted move that opens a position, as a multiple of the cost of a round trip.
        gross_share: capital in use when every listed instrument has a position; each gets an equal part.
        hold_bars: bars from fill to fill.
        capacity_share: largest position, as a share of the decided bar's notional; `None`: no limit.
        expire_bars: bars in which an order may be filled, counted from the first that closes after its delay.
        most_strange: largest share of a bar's known features that may lie outside of the training rows, at the clip of
            their normaliser (5 deviations); a bar with more opens no position. `None`: every bar may.
    """

    threshold: float
    hold_bars: int
    gross_share: float = 1.0
    capacity_share: float | None = None
    expire_bars: int = 3
    most_strange: float | None = None

    def __post_init__(self) -> None:
        if self.most_strange is not None and not 0 <= self.most_strange < 1:
            raise SettingsError(
                f"position.most_strange is {self.most_strange}",
                hint="it is a share from 0 and below 1, such as 0.1; leave it out for no limit",
            )
        if self.threshold < 0 or min(self.hold_bars, self.expire_bars) < 1 or self.gross_share <= 0:
            raise SettingsError(
                f"position rule {self} is out of range",
                hint="threshold from 0, gross_share above 0, hold_bars and expire_bars from 1",
            )


@dataclass(frozen=True, slots=True)
class MarketData:
    """Prices and costs in a window of time.

    Args:
        instruments: (S,) ids.
        ts_close_ns: (T,) int64.
        price: (S, T) float64, NaN where there is none.
        half_spread: (S, T) float64, share of the price, NaN where unquoted.
        notional: (S, T) float64, quote units traded in the bar, NaN where unknown.
        taker_fee_bps: (S, T) float64, in force at the close.
        scale: (S, T) float64, move per unit of prediction; NaN where unknown.
        funding_paid: (S, T) float64, rates due in (previous close, this close]; `None`: unknown, so the ledger leaves
            funding out and the report states that.
        delay_bars: bars from a decision to the bar that fills its order.
        estimated_half_spread: (S, T) float64, share of the price, for bars without a quote; NaN where there is no
            estimate. The larger of it and the assumed half spread counts. `None`: no estimates.
        is_listed: (S, T) bool; `None`: all are listed throughout.
        settlement: (S, T) float64, price at which a position settles, in the first step without a listing.
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
    estimated_half_spread: np.ndarray | None = None
    is_listed: np.ndarray | None = None
    settlement: np.ndarray | None = None

    def window(self, first: int, stop: int) -> MarketData:
        """Return the steps from `first` up to `stop`."""
        arrays: dict[str, Any] = {
            item.name: value[..., first:stop]
            for item in fields(self)
            if isinstance(value := getattr(self, item.name), np.ndarray)
        }
        return replace(self, **arrays)

    def charged_half_spread(self, assumed: float) -> np.ndarray:
        """Return the half spread that a fill pays, (S, T) float64: the quoted one, or else the larger estimate.

        Args:
            assumed: share of the price, the least for a bar without a quote.
        """
        unquoted = np.full(self.price.shape, assumed)
        if self.estimated_half_spread is not None:
            unquoted = np.fmax(unquoted, self.estimated_half_spread)
        charged: np.ndarray = np.where(np.isfinite(self.half_spread), self.half_spread, unquoted)
        return charged


@dataclass(frozen=True, slots=True)
class SimulatedTrade:
    """One fill; `change` is signed notional, and with the costs a share of the capital.

    `is_quoted` states that no spread was estimated or assumed: the bar had a quote, or the position settled.
    """

    instrument: int
    step: int
    price: float
    change: float
    fee: float
    spread: float
    impact: float
    is_quoted: bool


@dataclass(frozen=True, slots=True)
class PositionLedger:
    """Earnings of a rule, step by step, in shares of the capital; costs are positive.

    Args:
        gross, fee, spread, impact, funding: (T,) float64; funding received is negative.
        exposure: (S, T) float64, notional held after the step's fills.
        fills: sorted by time, then instrument.
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
        """(T,) float64, earnings of each step after costs."""
        total: np.ndarray = self.gross - self.fee - self.spread - self.impact - self.funding
        return total

    @property
    def quoted_share(self) -> float:
        """Share of the fills whose spread was quoted; 1 without a fill."""
        return float(np.mean([fill.is_quoted for fill in self.fills])) if self.fills else 1.0


def run_ledger(
    prediction: np.ndarray, market: MarketData, rule: PositionRule, costs: Costs
) -> PositionLedger:
    """Return the ledger of the rule applied to predictions.

    Args:
        prediction: (S, T) float, in units of `market.scale`; NaN where there is none, which opens no position.
        market: prices and costs of the same steps.
        rule: when to trade, and how much.
        costs: half spread without a quote, impact and capital.
    """
    fee = market.taker_fee_bps * BPS
    half = market.charged_half_spread(costs.half_spread_bps * BPS)
    target = _target_notional(prediction, market, rule, costs, fee + half)
    price = forward_fill(_with_settlements(market))

    # 1. The fills, and the units held after each step.
    fills: list[SimulatedTrade] = []
    units = np.zeros(prediction.shape)
    for i in range(len(prediction)):
        priced = np.isfinite(market.price[i])
        for first, last, settles in _listings(market, i):
            span = slice(first, last + 1)
            held = 0.0
            for at, notional in _orders(target[i, span], priced[span], rule, market.delay_bars):
                step = first + at
                change = notional - held * price[i, step]
                is_free = settles and step == last
                fills.append(
                    _make_fill(i, step, float(price[i, step]), change, market, costs, fee, half, is_free)
                )
                held = notional / price[i, step]
                units[i, step:] = held

    # 2. The earnings: units held into a step gain its price move and pay its funding.
    before = np.concatenate([np.zeros((len(units), 1)), units[:, :-1]], axis=1)
    moved = np.diff(price, axis=1, prepend=price[:, :1])
    paid = np.zeros(price.shape[1])
    if market.funding_paid is not None:
        paid = funding_charges(before, price, market.funding_paid)
    fills.sort(key=lambda fill: (fill.step, fill.instrument))
    return PositionLedger(
        gross=(before * np.nan_to_num(moved)).sum(axis=0),
        **{name: _by_step(fills, name, price.shape[1]) for name in ("fee", "spread", "impact")},
        funding=paid,
        exposure=units * np.nan_to_num(price),
        fills=tuple(fills),
    )


def _target_notional(
    prediction: np.ndarray, market: MarketData, rule: PositionRule, costs: Costs, fee_and_spread: np.ndarray
) -> np.ndarray:
    """Return the signed notional that the rule targets at each step, (S, T), as a share of the capital."""
    move = np.nan_to_num(prediction * market.scale)
    listed = np.ones(prediction.shape, dtype=bool) if market.is_listed is None else market.is_listed
    size = np.broadcast_to(rule.gross_share / np.maximum(listed.sum(axis=0), 1), prediction.shape)
    if rule.capacity_share is not None:
        limit = rule.capacity_share * np.nan_to_num(market.notional) / costs.capital_usd
        size = np.minimum(size, limit)
    round_trip = 2 * (fee_and_spread + impact_share(size, market.notional, costs))
    target: np.ndarray = np.where(
        listed & (np.abs(move) > rule.threshold * round_trip), np.sign(move) * size, 0.0
    )
    return target


def _listings(market: MarketData, i: int) -> Iterator[tuple[int, int, bool]]:
    """Yield an instrument's listings: first step, step of the last fill, and whether that is a settlement."""
    n_steps = market.price.shape[1]
    if market.is_listed is None:
        yield 0, n_steps - 1, False
        return
    edges = np.flatnonzero(np.diff(market.is_listed[i], prepend=False, append=False))
    for first, stop in edges.reshape(-1, 2).tolist():
        yield first, min(stop, n_steps - 1), stop < n_steps


def _with_settlements(market: MarketData) -> np.ndarray:
    """Return the price of each bar, (S, T), and in the first step without a listing that of the settlement."""
    if market.settlement is None:
        return market.price
    return np.where(np.isfinite(market.settlement), market.settlement, market.price)


def _orders(
    target: np.ndarray, priced: np.ndarray, rule: PositionRule, delay_bars: int
) -> Iterator[tuple[int, float]]:
    """Yield the fills of one listing as step and signed notional held afterwards; the last one closes.

    Args:
        target: (T,) signed notional that the rule targets at each step.
        priced: (T,) bool, steps at which an order can be filled.
        rule: its holding period, and how long an order waits.
        delay_bars: bars from a decision to the bar that fills its order.
    """
    last = len(target) - 1
    nonzero, fillable = np.flatnonzero(target), np.flatnonzero(priced)
    side, decision = 0.0, 0
    while True:
        if side == 0.0:
            place = np.searchsorted(nonzero, decision)
            decision = int(nonzero[place]) if place < len(nonzero) else last
        if decision >= last:
            break
        notional = float(target[decision])
        if np.sign(notional) == side:
            decision += rule.hold_bars
            continue
        place = np.searchsorted(fillable, decision + delay_bars)
        # A fill at the last step would be closed there anyway.
        if place == len(fillable) or fillable[place] >= last:
            break
        step = int(fillable[place])
        last_try = decision + delay_bars + rule.expire_bars - 1
        if step > last_try:
            decision = last_try
            continue
        yield step, notional
        side = float(np.sign(notional))
        # The period ends such that the next fill comes `hold_bars` after this one.
        decision = step + max(0, rule.hold_bars - delay_bars) if side else step
    if side:
        yield last, 0.0


def _make_fill(
    i: int,
    step: int,
    price: float,
    change: float,
    market: MarketData,
    costs: Costs,
    fee: np.ndarray,
    half: np.ndarray,
    is_free: bool,
) -> SimulatedTrade:
    size = abs(change)
    if is_free:
        return SimulatedTrade(i, step, price, change, 0.0, 0.0, 0.0, is_quoted=True)
    return SimulatedTrade(
        instrument=i,
        step=step,
        price=price,
        change=change,
        fee=size * float(fee[i, step]),
        spread=size * float(half[i, step]),
        impact=size * float(impact_share(np.array(size), market.notional[i, step], costs)),
        is_quoted=bool(np.isfinite(market.half_spread[i, step])),
    )


def _by_step(fills: list[SimulatedTrade], name: str, n_steps: int) -> np.ndarray:
    steps = np.array([fill.step for fill in fills], dtype=np.int64)
    amounts = np.array([getattr(fill, name) for fill in fills], dtype=np.float64)
    return np.bincount(steps, weights=amounts, minlength=n_steps)


def forward_fill(price: np.ndarray) -> np.ndarray:
    """Return the last known price at each step, NaN before the first."""
    seen = np.where(np.isfinite(price), np.arange(price.shape[1]), 0)
    filled: np.ndarray = np.take_along_axis(price, np.maximum.accumulate(seen, axis=1), axis=1)
    return filled
