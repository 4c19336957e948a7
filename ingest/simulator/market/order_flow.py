"""Order flow of the simulated market: taker orders with minutes, sides, trades and sizes.

Axes: E taker orders, P trades; an order sweeps one or more trades. Flow is independent of prices, so that
prices may follow from it (`ingest.simulator.market.generator`).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ingest.simulator.market.spec import CoinSpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MINUTE_MS: Final = 60_000
SIZE_SPREAD: Final = 1.2
_SWEEP_STOP: Final = 0.6  # chance that an order ends at each print; the recording has 63 % single prints
_SKEW: Final = 1.2


class OrderFlow:
    """Taker orders and their trades over some minutes.

    Args:
        rng: for all draws.
        coin: sizes depend on its start price, so that volume does not depend on the price path.
        prints_per_minute: (minutes,) mean prints.
    """

    def __init__(self, rng: np.random.Generator, coin: CoinSpec, prints_per_minute: Floats) -> None:
        self._minutes = len(prints_per_minute)
        orders = rng.poisson(prints_per_minute * _SWEEP_STOP)
        total = int(orders.sum())
        self.minute = np.repeat(np.arange(self._minutes), orders)  # (E,) ascending
        odds = 1 / (1 + np.exp(-_SKEW * rng.standard_normal(self._minutes)))
        self._buys = rng.random(total) < odds[self.minute]
        prints = np.minimum(rng.geometric(_SWEEP_STOP, total), 20)
        self.order = np.repeat(np.arange(total), prints)  # (P,)
        self.depth = np.arange(len(self.order)) - np.repeat(np.cumsum(prints) - prints, prints)  # (P,)
        lots = 10.0**coin.size_decimals
        median = math.log(coin.median_notional / coin.start_price * lots)
        self.size = np.maximum(np.rint(rng.lognormal(median, SIZE_SPREAD, len(self.order))), 1.0) / lots
        self.buy = self._buys[self.order]  # (P,)

    def imbalance(self) -> Floats:
        """Return (buy - sell) / (buy + sell) volume of each minute, 0 without trades."""
        minute = self.minute[self.order]
        net = np.bincount(minute, weights=np.where(self.buy, self.size, -self.size), minlength=self._minutes)
        gross = np.bincount(minute, weights=self.size, minlength=self._minutes)
        return np.divide(net, gross, out=np.zeros(self._minutes), where=gross > 0)

    def place(self, rng: np.random.Generator, open_ms: int, block_ms: Ints) -> Ints:
        """Return the block of each order (E,), ascending, within the order's minute.

        Orders of a minute are exchangeable until placed, so their blocks may be drawn and then sorted.
        """
        bounds = np.searchsorted(block_ms, open_ms + np.arange(self._minutes + 1) * MINUTE_MS)
        first, count = bounds[self.minute], np.diff(bounds)[self.minute]
        return np.sort(first + (rng.random(len(self.minute)) * count).astype(np.int64))
