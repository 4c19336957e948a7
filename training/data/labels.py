"""Labels: the volatility-scaled return after each decision. The only module of tickwalk that looks forward.

The decision about bar `t` is taken when the bar is knowable, `ts_close[t] + grace`, and no feature uses data after
`ts_close[t]`. The entry price is the close of bar `e = t + k`, the first bar that closes no earlier than the decision
plus the order's delay (`k` is 1 wherever grace and delay fit in one bar). The exit price is the close of bar
`x = e + horizon_bars`. So the label is

    y[t] = ln(price[x] / price[e]) / (volatility[t] * sqrt(horizon_bars))

before all costs. The price is the mid where the bar has a quote, else its last print; a label never mixes the two.

With the target `excess` the return is less that of the market: the plain mean, over all instruments of the panel whose
label at `t` is observed, of their returns over the same span, so every instrument has beta 1 and equal weight. That
mean uses prices at the span's own two ends only. At least `LEAST_MARKET` instruments make a market; with fewer there is
no label. The volatility stays that of the instrument's whole return.

`volatility[t]` is the root mean square of the one-bar returns of the last `volatility_bars` bars up to and
including `t`; its bits do not depend on where the panel starts, once the panel has those bars. Where the price is a
last print, that print may be up to one grace older than the decision, but it is still later than all data of the
features.

Axes: S instruments, T steps. One row of the panel is one listing (a recycled name is a new instrument), and a span
with an `unlisted` step is masked, so no return spans two listings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch

from features.inputs import QUOTE_LIMIT_MS
from features.ops.rolling import count_over, sum_over
from features.panel.panel import Panel
from storage.contracts.tables import STATUSES
from storage.errors import SettingsError

BASIS_NONE: Final = 0
BASIS_MID: Final = 1
BASIS_PRINT: Final = 2
LabelTarget = Literal["return", "excess"]
LABEL_TARGETS: Final[tuple[LabelTarget, ...]] = ("return", "excess")
RowWeights = Literal["equal", "uniqueness"]
ROW_WEIGHTS: Final[tuple[RowWeights, ...]] = ("equal", "uniqueness")
LEAST_MARKET: Final = 3
"""Instruments with an observed label that make a market."""
BASES: Final = ("none", "mid", "print")

_OBSERVED: Final = tuple(STATUSES.index(name) for name in ("printed", "quiet"))
_HOLES: Final = tuple(STATUSES.index(name) for name in ("blind", "unknown"))
_UNLISTED: Final = STATUSES.index("unlisted")
_LEAST_VOLATILITY: Final = 1e-7


@dataclass(frozen=True, slots=True)
class LabelRule:
    """Definition of a label.

    Args:
        horizon_bars: bars from entry to exit.
        volatility_bars: bars of the trailing volatility; half of their returns must be observed.
        delay_ms: from the decision to the order's arrival.
        max_hole_bars: longest run of unobserved bars that a span may contain.
        target: `return`, or `excess`: the return less the mean return of all instruments over the same span.
        weights: of rows in losses and baselines: `equal`, or `uniqueness`: less for a row whose label shares its bars
            with many others (Lopez de Prado).
    """

    horizon_bars: int
    volatility_bars: int = 60
    delay_ms: int = 200
    max_hole_bars: int = 0
    target: LabelTarget = "return"
    weights: RowWeights = "equal"

    def __post_init__(self) -> None:
        if self.horizon_bars < 1 or self.volatility_bars < 2 or self.delay_ms < 0 or self.max_hole_bars < 0:
            raise SettingsError(
                f"label rule {self} is out of range",
                hint="horizon_bars from 1, volatility_bars from 2, delay_ms and max_hole_bars from 0",
            )
        if self.target not in LABEL_TARGETS:
            raise SettingsError(
                f"label.target is {self.target!r}", hint=f"use one of: {', '.join(LABEL_TARGETS)}"
            )
        if self.weights not in ROW_WEIGHTS:
            raise SettingsError(
                f"label.weights is {self.weights!r}", hint=f"use one of: {', '.join(ROW_WEIGHTS)}"
            )


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices at the close of each bar.

    Args:
        price: (S, T) float64, NaN where no observed bar has one.
        basis: (S, T) uint8, index into `BASES`.
    """

    price: torch.Tensor
    basis: torch.Tensor


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of a panel, with the times that purging needs.

    Args:
        label: (S, T) float32, in units of trailing volatility; 0 where masked.
        mask: (S, T) bool, both ends and the bars between them were observed sufficiently.
        basis: (S, T) uint8, index into `BASES`: kind of price; `none` where masked.
        scale: (S, T) float64, the trailing volatility of one horizon, known at the decision; NaN where unknown.
        decidable: (S, T) bool, the bar was observed and its scale is known, so a live system would have decided;
            it depends on nothing later than the bar.
        ts_decided_ns: (T,) int64, time of a row's decision.
        ts_span_start_ns, ts_span_end_ns: (T,) int64, times of entry and exit, one per step since all instruments
            share the clock; steps whose exit lies beyond the panel have them too, and are masked.
    """

    label: torch.Tensor
    mask: torch.Tensor
    basis: torch.Tensor
    scale: torch.Tensor
    decidable: torch.Tensor
    ts_decided_ns: np.ndarray
    ts_span_start_ns: np.ndarray
    ts_span_end_ns: np.ndarray


def delay_bars(width_ns: int, *, grace_ns: int, delay_ms: int) -> int:
    """Return the number of bars from the decided bar to the bar that fills its order.

    >>> delay_bars(60_000_000_000, grace_ns=2_000_000_000, delay_ms=200)
    1
    >>> delay_bars(1_000_000_000, grace_ns=2_000_000_000, delay_ms=200)
    3
    """
    wait_ns = grace_ns + delay_ms * 1_000_000
    return max(1, -(-wait_ns // width_ns))


def prices_at_close(panel: Panel) -> Prices:
    """Return the mid of each observed bar's closing quote, or its last print if it has no fresh quote."""
    watched = torch.isin(panel.status, torch.tensor(_OBSERVED, dtype=panel.status.dtype))
    mid = (panel.column("bid") + panel.column("ask")) / 2
    last = panel.column("close")
    has_mid = watched & torch.isfinite(mid) & ~(panel.column("quote_age_ms") > QUOTE_LIMIT_MS)
    has_print = watched & torch.isfinite(last) & ~has_mid
    price = torch.where(has_mid, mid, torch.where(has_print, last, torch.nan))
    basis = has_mid.to(torch.uint8) * BASIS_MID + has_print.to(torch.uint8) * BASIS_PRINT
    return Prices(price, basis)


def trailing_return(prices: Prices, bars: int) -> torch.Tensor:
    """Return ln(price[t] / price[t - bars]) as (S, T) float64; NaN where an end is missing or the basis differs."""
    past = torch.full_like(prices.price, torch.nan)
    if bars < prices.price.shape[1]:
        change = torch.log(prices.price[:, bars:] / prices.price[:, :-bars])
        same = prices.basis[:, bars:] == prices.basis[:, :-bars]
        past[:, bars:] = torch.where(same, change, torch.nan)
    return past


def trailing_scale(prices: Prices, rule: LabelRule) -> torch.Tensor:
    """Return the volatility of one horizon as known at each bar, (S, T) float64; NaN with too few returns.

    The sums are those of features (features/ops/rolling.py). A running sum carried rounding from the first bar of the
    panel into every later scale, so a panel cut at its start gave other labels.
    """
    returns = trailing_return(prices, 1)
    seen = torch.isfinite(returns)
    squares = torch.where(seen, returns**2, 0.0)
    count = count_over(seen, rule.volatility_bars)
    volatility = torch.sqrt(sum_over(squares, rule.volatility_bars) / count.clamp(min=1))
    enough = (count >= rule.volatility_bars / 2) & (volatility > _LEAST_VOLATILITY)
    return torch.where(enough, volatility * rule.horizon_bars**0.5, torch.nan)


def make_labels(panel: Panel, rule: LabelRule, *, grace_ns: int) -> Labels:
    """Compute the labels of every instrument and step of a panel.

    Args:
        panel: bars as they were known.
        rule: horizon, scale, delay and holes.
        grace_ns: from a bar's close until it is knowable.
    """
    n_steps = panel.status.shape[1]
    enter = delay_bars(panel.width_ns, grace_ns=grace_ns, delay_ms=rule.delay_ms)
    leave = enter + rule.horizon_bars
    prices = prices_at_close(panel)
    scale = trailing_scale(prices, rule)
    decidable = torch.isfinite(scale) & torch.isin(
        panel.status, torch.tensor(_OBSERVED, dtype=panel.status.dtype)
    )
    label = torch.zeros(panel.status.shape, dtype=torch.float64)
    mask = torch.zeros(panel.status.shape, dtype=torch.bool)
    basis = torch.zeros(panel.status.shape, dtype=torch.uint8)
    complete = n_steps - leave
    if complete > 0:
        entry, entry_basis = (
            prices.price[:, enter : enter + complete],
            prices.basis[:, enter : enter + complete],
        )
        ahead = torch.log(prices.price[:, leave:] / entry)
        observed = (
            (entry_basis == prices.basis[:, leave:])
            & torch.isfinite(ahead)
            & decidable[:, :complete]
            & _unbroken(panel.status, enter, leave, rule.max_hole_bars)
        )
        if rule.target == "excess":
            ahead, observed = less_market(ahead, observed)
        label[:, :complete] = torch.where(observed, ahead / scale[:, :complete], 0.0)
        mask[:, :complete] = observed
        basis[:, :complete] = torch.where(observed, entry_basis, BASIS_NONE)
    close_ns = panel.ts_open_ns + panel.width_ns
    return Labels(
        label=label.to(torch.float32),
        mask=mask,
        basis=basis,
        scale=scale,
        decidable=decidable,
        ts_decided_ns=close_ns + grace_ns,
        ts_span_start_ns=close_ns + enter * panel.width_ns,
        ts_span_end_ns=close_ns + leave * panel.width_ns,
    )


def less_market(returns: torch.Tensor, observed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return returns less their mean over instruments at each step, and which of them are observed.

    Args:
        returns: (S, T) float64, over spans that are the same for all instruments.
        observed: (S, T) bool, the returns that make the market.

    Returns:
        (S, T) float64, and (S, T) bool: those of steps with at least `LEAST_MARKET` observed returns.
    """
    count = observed.sum(dim=0)
    market = torch.where(observed, returns, 0.0).sum(dim=0) / count.clamp(min=1)
    return returns - market, observed & (count >= LEAST_MARKET)


def _unbroken(status: torch.Tensor, enter: int, leave: int, max_hole_bars: int) -> torch.Tensor:
    """Return for each step whether its span has no hole longer than allowed and no unlisted step."""
    is_hole = torch.isin(status, torch.tensor(_HOLES, dtype=status.dtype))
    step = torch.arange(status.shape[1]).expand(status.shape)
    last_seen = torch.cummax(torch.where(is_hole, -1, step), dim=1).values
    run = (step - last_seen).to(torch.float32)
    run = torch.where(status == _UNLISTED, torch.inf, run)
    # A span starts at an observed bar, so the longest run within it is the largest running count.
    longest = torch.nn.functional.max_pool1d(run[:, None, enter:], leave - enter + 1, stride=1)[:, 0]
    return longest <= max_hole_bars
