"""Contexts of a simulated perpetual: premium, funding, open interest, volume of the last day."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ingest.simulator.market.order_flow import MINUTE_MS, SIZE_SPREAD
from ingest.simulator.market.spec import CoinSpec, MarketSpec

Floats = NDArray[np.float64]

HOUR_MS: Final = 3_600_000
_DAY_MINUTES: Final = 1_440
_INTEREST_RATE: Final = 1e-4
_PREMIUM_STD: Final = 3e-4
_PREMIUM_MEMORY_S: Final = 1_800


@dataclass(frozen=True, slots=True)
class SimulatedContext:
    """Context of a perpetual."""

    funding: float
    premium: float
    oracle: float
    interest: float
    day_base: float
    day_notional: float
    day_open: float


class ContextModel:
    """The slow state of one coin, moved by one step per context."""

    def __init__(self, spec: MarketSpec, coin: CoinSpec) -> None:
        self._step_s = spec.context_s
        self._keep = math.exp(-spec.context_s / _PREMIUM_MEMORY_S)
        self._coin = coin
        self._premium = _INTEREST_RATE
        self._interest = 0.0
        self._hour_sum = 0.0
        self._hour_samples = 0
        prints = coin.prints_per_minute * spec.activity
        # Assumed notional of a minute of the day before the start, in quote units.
        self._usual_notional = prints * coin.median_notional * math.exp(SIZE_SPREAD**2 / 2)
        self._base = self._notional = 0.0
        self._minutes: deque[tuple[float, float, float]] = deque(maxlen=_DAY_MINUTES)

    def paid(self, now_ms: int) -> tuple[float, float] | None:
        """Return (rate, premium) of the hour that ended with this step, or None within an hour."""
        if now_ms % HOUR_MS >= self._step_s * 1_000 or not self._hour_samples:
            return None
        premium = self._hour_sum / self._hour_samples
        self._hour_sum, self._hour_samples = 0.0, 0
        return funding_rate(premium), premium

    def step(
        self, price: float, base: float, notional: float, since_open_ms: int, shocks: tuple[float, float]
    ) -> SimulatedContext:
        """Return the context at a price.

        Args:
            price: quote units.
            base: base units printed since the chunk opened; `notional` likewise, in quote units.
            since_open_ms: milliseconds since the chunk opened.
            shocks: two standard normal draws, for premium and open interest.
        """
        wander = math.sqrt(1 - self._keep**2) * _PREMIUM_STD
        self._premium = _INTEREST_RATE + self._keep * (self._premium - _INTEREST_RATE) + wander * shocks[0]
        self._interest = 0.9999 * self._interest + 2e-4 * shocks[1]
        self._hour_sum += self._premium
        self._hour_samples += 1
        elapsed = len(self._minutes) + since_open_ms / MINUTE_MS
        prior = max(_DAY_MINUTES - elapsed, 0.0) * self._usual_notional
        whole = len(self._minutes) == _DAY_MINUTES
        ago = self._minutes[since_open_ms // MINUTE_MS] if whole else (0.0, 0.0, self._coin.start_price)
        return SimulatedContext(
            funding=funding_rate(self._hour_sum / self._hour_samples),
            premium=self._premium,
            oracle=price / (1 + self._premium),
            interest=self._coin.open_interest * math.exp(self._interest),
            day_base=self._base + base - ago[0] + prior / self._coin.start_price,
            day_notional=self._notional + notional - ago[1] + prior,
            day_open=ago[2],
        )

    def close_chunk(self, base: Floats, notional: Floats, price: Floats) -> None:
        """Remember cumulative volume and last price of each minute of the chunk, (minutes,) each."""
        rows = zip(
            (self._base + base).tolist(), (self._notional + notional).tolist(), price.tolist(), strict=True
        )
        self._minutes.extend(rows)
        self._base, self._notional, _ = self._minutes[-1]


def funding_rate(premium: float) -> float:
    """Return the hourly rate for an hour's mean premium.

    An eighth of premium plus `clamp(0.01 % - premium, +-0.05 %)`, within +-4 % (venue docs, funding,
    read 2026-08-22).
    """
    rate = (premium + min(max(_INTEREST_RATE - premium, -5e-4), 5e-4)) / 8
    return min(max(rate, -0.04), 0.04)


def past_fundings(rng: np.random.Generator, before_ms: int, hours: int) -> list[tuple[int, float, float]]:
    """Return (time_ms, rate, premium) of the hours before an instant, oldest first, with the venue's jitter."""
    last = (before_ms - 1) // HOUR_MS * HOUR_MS
    premium, rows = 0.0, []
    for i, shock in enumerate(rng.standard_normal(hours).tolist()):
        premium = 0.8 * premium + 0.6 * shock
        mean = _INTEREST_RATE + _PREMIUM_STD * premium
        time_ms = last - (hours - 1 - i) * HOUR_MS + int(rng.integers(0, 100))
        rows.append((min(time_ms, before_ms - 1), funding_rate(mean), mean))
    return rows
