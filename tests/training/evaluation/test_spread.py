"""Half spread estimated from prints: planted spreads, the reference package, and no look ahead."""

from __future__ import annotations

import numpy as np
import pytest

from tests.training.evaluation.bounce import SIDES, BounceMarket, bounce_market
from training.evaluation.spread import edge, estimate_half_spread, roll

MINUTE_NS = 60 * 10**9
CLOSES = 1_740_000_000 * 10**9 // MINUTE_NS * MINUTE_NS + MINUTE_NS * np.arange(3000)


def estimates(market: BounceMarket, *, window_bars: int = 1440) -> np.ndarray:
    return estimate_half_spread(market.prices, CLOSES[: market.side.shape[1]], window_bars=window_bars)


@pytest.mark.parametrize("prints", [1, 3])
@pytest.mark.parametrize("half", [6e-4, 15e-4])
@pytest.mark.parametrize("sides", SIDES)
def test_estimate_is_near_the_planted_half_spread(sides: str, half: float, prints: int) -> None:
    found = estimates(bounce_market(flip=SIDES[sides], half=half, prints=prints))
    # At every step with at least half a window, not only on average.
    assert found[:, 800:] / half == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("flip", [0.4, 0.6])
def test_sides_that_depend_weakly_are_estimated_on_average(flip: float) -> None:
    found = estimates(bounce_market(flip=flip, half=6e-4, instruments=8))
    assert np.nanmean(found) / 6e-4 == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize("strength", [2e-4, 8e-4, 15e-4])
@pytest.mark.parametrize("sides", SIDES)
def test_slow_drift_hides_no_bounce(sides: str, strength: float) -> None:
    rng = np.random.default_rng(1)
    drift = np.zeros((4, 3000))
    for step in range(1, 3000):
        drift[:, step] = 0.95 * drift[:, step - 1] + 0.05**0.5 * rng.standard_normal(4) * strength
    found = estimates(bounce_market(flip=SIDES[sides], half=6e-4, instruments=4, drift=drift))
    assert np.nanmean(found[:, 1440:]) / 6e-4 == pytest.approx(1.0, abs=0.2)


def test_market_without_a_spread_has_a_small_estimate() -> None:
    # Noise alone: with a volatility of 5 bp, the root of the covariance's standard error is 0.8 bp in a whole window.
    found = estimates(bounce_market(flip=0.5, half=0.0, instruments=6))[:, 1440:]
    assert found.mean() < 0.8e-4
    assert found.max() < 2e-4


def test_edge_equals_the_authors_package() -> None:
    # Half of bidask.edge(o, h, l, c) of bidask 2.1.0, on the same draws.
    expected = {
        (0, 10, 0.0006): 0.0006226073647179972,
        (1, 10, 0.0015): 0.001600907832422612,
        (2, 3, 0.0006): 0.0006383904495417051,
        (3, 25, 0.0001): 9.789230170459282e-05,
        (4, 5, 0.0): 6.858456327207597e-05,
    }
    for (seed, prints, half), value in expected.items():
        market = bounce_market(flip=0.5, half=half, prints=prints, steps=400, seed=seed, instruments=1)
        assert edge(np.log(market.prices[:, 0])) == pytest.approx(value, rel=1e-9)


def test_roll_is_the_root_of_the_negative_covariance_where_sides_are_independent() -> None:
    close = np.log(bounce_market(flip=0.5, half=6e-4, steps=400, instruments=1, seed=3).prices[3, 0])
    moves = np.diff(close)
    moves = moves - moves.mean()
    assert roll(close) == pytest.approx((-(moves[1:] * moves[:-1]).sum() / len(moves)) ** 0.5, rel=1e-12)


def test_future_does_not_change_an_estimate() -> None:
    market = bounce_market(flip=0.9, half=6e-4)
    whole = estimates(market)
    for stop in (700, 1501, 2220):
        changed = market.prices.copy()
        changed[:, :, stop:] *= 1.5
        again = estimate_half_spread(changed, CLOSES, window_bars=1440)
        assert np.array_equal(whole[:, :stop], again[:, :stop], equal_nan=True)
        cut = estimate_half_spread(market.prices[:, :, :stop], CLOSES[:stop], window_bars=1440)
        assert np.array_equal(whole[:, :stop], cut, equal_nan=True)


def test_start_of_the_panel_does_not_change_an_estimate_by_a_bit() -> None:
    market = bounce_market(flip=0.9, half=6e-4)
    whole = estimates(market, window_bars=480)
    for start in (1, 77, 1000):
        late = estimate_half_spread(market.prices[:, :, start:], CLOSES[start:], window_bars=480)
        assert np.array_equal(whole[:, start + 540 :], late[:, 540:])


def test_only_printed_bars_count() -> None:
    market = bounce_market(flip=0.5, half=6e-4, steps=1500)
    sparse = np.full((4, 2, 3000), np.nan)
    sparse[:, :, ::2] = market.prices
    dense = estimate_half_spread(market.prices, CLOSES[:1500], window_bars=1440)
    found = estimate_half_spread(sparse, CLOSES, window_bars=2880)
    assert found[:, -1] == pytest.approx(dense[:, -1], rel=0.1)


def test_too_few_prints_give_no_estimate() -> None:
    market = bounce_market(flip=0.5, half=6e-4, steps=600)
    found = estimates(market)
    assert np.isnan(found[:, :119]).all()
    assert np.isfinite(found[:, 300:]).all()
    assert np.isnan(estimate_half_spread(market.prices[:, :, :1], CLOSES[:1], window_bars=10)).all()


def test_constant_price_has_no_spread() -> None:
    assert np.nanmax(estimate_half_spread(np.full((4, 1, 3000), 7.0), CLOSES, window_bars=1440)) == 0.0
