"""Markets of bid-ask bounce: a random-walk mid, and prints on its two sides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIDES = {"alternating": 1.0, "flip 0.9": 0.9, "independent": 0.5}
"""Probability that a print is on the other side than the one before."""


@dataclass(frozen=True, slots=True)
class BounceMarket:
    """Bars of one print each, or of several.

    Args:
        prices: (4, S, T) float64, open, high, low, close.
        side: (S, T) of -1 and 1, side of the closing print.
        drift: (S, T), share by which the mid rose in each bar because of the planted edge.
        half: planted half spread, share of the price.
    """

    prices: np.ndarray
    side: np.ndarray
    drift: np.ndarray
    half: float


def bounce_market(
    *,
    flip: float,
    half: float,
    steps: int = 3000,
    instruments: int = 2,
    volatility: float = 5e-4,
    prints: int = 1,
    drift: np.ndarray | None = None,
    seed: int = 0,
) -> BounceMarket:
    """Draw a market.

    Args:
        flip: probability that a print is on the other side than the one before.
        half: half spread, share of the price.
        volatility: of the mid, per bar.
        prints: in a bar.
        drift: (S, T), expected log return of the mid in each bar.
    """
    rng = np.random.default_rng(seed)
    shape = (instruments, steps * prints)
    drift = np.zeros((instruments, steps)) if drift is None else drift
    moves = rng.standard_normal(shape) * volatility / prints**0.5 + np.repeat(drift / prints, prints, axis=1)
    side = np.cumprod(np.where(rng.random(shape) < flip, -1, 1), axis=1)
    price = np.exp(np.cumsum(moves, axis=1) + side * half).reshape(instruments, steps, prints) * 100
    bars = np.stack([price[..., 0], price.max(axis=2), price.min(axis=2), price[..., -1]])
    return BounceMarket(bars, side.reshape(instruments, steps, prints)[..., -1], drift, half)
