"""Bid-ask bounce without quotes earns nothing, and an edge beyond the true cost is measured."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from features.panel.panel import Panel
from storage.lake.fees import FeeSchedule
from tests.training.builders import GRACE_NS, block_of, panel_of
from tests.training.evaluation.bounce import SIDES, BounceMarket, bounce_market
from training.data.labels import LabelRule, make_labels
from training.evaluation.costs import BPS, Costs
from training.evaluation.positions import MarketData, PositionLedger, PositionRule, run_ledger
from training.night.artifacts import NightData
from training.night.market_data import make_market
from training.recipe import get_recipe

STEPS, TRAINED = 2500, 1500
FEE_BPS = 3.5
COSTS = Costs(half_spread_bps=1.0, impact_bps=0.0, taker_fee_bps=FEE_BPS)
LAGS = 12


def panel_of_prices(prices: np.ndarray) -> Panel:
    """Return printed bars without quotes, of a large notional."""
    plain = panel_of(prices[3], notional=np.full(prices[3].shape, 1e12).tolist())
    values = dict(zip(("open", "high", "low"), torch.from_numpy(prices[:3]), strict=True))
    return replace(plain, values=plain.values | values)


@cache
def market_with(sides: str, half: float, horizon: int) -> tuple[BounceMarket, MarketData]:
    bounce = bounce_market(flip=SIDES[sides], half=half, steps=STEPS, seed=horizon)
    return bounce, market_of_bounce(bounce, horizon)


def market_of_bounce(bounce: BounceMarket, horizon: int) -> MarketData:
    """Return the market as a night makes it."""
    panel = panel_of_prices(bounce.prices)
    rule = LabelRule(horizon_bars=horizon)
    data = NightData(
        panel=panel,
        block=block_of(instruments=panel.n_instruments, steps=panel.n_steps),
        labels=make_labels(panel, rule, grace_ns=GRACE_NS),
        past=torch.zeros(panel.status.shape),
        funding_paid=None,
    )
    recipe = replace(get_recipe("candles"), label=rule, costs=COSTS)
    return make_market(data, recipe, FeeSchedule("taker", "base", ()), grace_ns=GRACE_NS)


def simple_rules(market: MarketData, horizon: int) -> dict[str, np.ndarray]:
    """Return predictions in units of the scale: momentum, reversal, and ridge on the last returns."""
    logs = np.log(market.price)
    past = np.full(logs.shape, np.nan)
    past[:, horizon:] = logs[:, horizon:] - logs[:, :-horizon]
    label = np.full(logs.shape, np.nan)
    label[:, : -horizon - 1] = logs[:, 1 + horizon :] - logs[:, 1:-horizon]
    moves = np.diff(logs, axis=1, prepend=logs[:, :1])
    lags = np.stack([np.roll(moves, lag, axis=1) for lag in range(LAGS)], axis=-1)
    train = (slice(None), slice(LAGS, TRAINED - horizon - 1))
    x, y = lags[train].reshape(-1, LAGS), label[train].reshape(-1)
    weights = np.linalg.solve(x.T @ x + 1e-6 * np.eye(LAGS), x.T @ y)
    return {
        "momentum": past / market.scale,
        "reversal": -past / market.scale,
        "ridge": lags @ weights / market.scale,
    }


def run_tested(
    prediction: np.ndarray, market: MarketData, horizon: int, threshold: float = 1.0
) -> PositionLedger:
    rule = PositionRule(threshold=threshold, hold_bars=horizon)
    return run_ledger(prediction[:, TRAINED:], market.window(TRAINED, STEPS), rule, COSTS)


GRID = [(sides, half, horizon) for sides in SIDES for half in (6e-4, 15e-4) for horizon in (5, 12)]


@pytest.mark.parametrize(("sides", "half", "horizon"), GRID)
def test_no_simple_rule_earns_from_bounce(sides: str, half: float, horizon: int) -> None:
    bounce, market = market_with(sides, half, horizon)
    assert market.estimated_half_spread is not None
    estimated = market.estimated_half_spread[:, TRAINED:]
    assert estimated / bounce.half == pytest.approx(1.0, abs=0.2)
    for name, prediction in simple_rules(market, horizon).items():
        for threshold in (0.0, 1.0):
            ledger = run_tested(prediction, market, horizon, threshold)
            assert ledger.net.sum() <= 0, (name, threshold)
            assert threshold or ledger.fills, name
            assert ledger.quoted_share == (0.0 if ledger.fills else 1.0)


def test_bounce_was_an_edge_under_the_assumed_spread_alone() -> None:
    """The audit's figures: 12 bp alternating, horizon 5, and 30 bp with flips, at an assumed half spread of 1 bp."""
    for sides, half, least in (("alternating", 6e-4, 0.05), ("flip 0.9", 15e-4, 0.1)):
        _, market = market_with(sides, half, 5)
        assumed = replace(market, estimated_half_spread=None)
        rules = simple_rules(market, 5)
        gained = {name: run_tested(rules[name], assumed, 5).net.sum() for name in rules}
        assert gained["ridge"] > least
        assert max(gained, key=lambda name: gained[name]) in ("ridge", "momentum")


@pytest.mark.parametrize("half", [6e-4, 15e-4])
@pytest.mark.parametrize("sides", SIDES)
def test_edge_of_three_times_the_true_cost_is_measured(sides: str, half: float) -> None:
    """Known moves of the mid, drawn anew every 5 bars, against costs from the planted half spread."""
    horizon = 5
    round_trip = 2 * (FEE_BPS * BPS + half)
    rng = np.random.default_rng(4)
    ahead = np.where(rng.random((2, STEPS // horizon)) < 0.5, -1, 1) * 3 * round_trip
    drift = np.repeat(ahead / horizon, horizon, axis=1)
    bounce = bounce_market(flip=SIDES[sides], half=half, steps=STEPS, drift=drift, seed=2)
    market = market_of_bounce(bounce, horizon)
    # Decided one bar before a block's first price, so that a position is held over exactly its moves.
    prediction = np.full(drift.shape, np.nan)
    prediction[:, horizon - 2 : -1 : horizon] = np.concatenate([ahead[:, 1:], np.zeros((2, 1))], axis=1)[
        :, : len(range(horizon - 2, STEPS - 1, horizon))
    ]
    ledger = run_tested(prediction / market.scale, market, horizon)
    at_true_cost = replace(market, half_spread=np.full(market.price.shape, half))
    known = run_tested(prediction / market.scale, at_true_cost, horizon).net.sum()
    assert known > 0.5
    assert ledger.net.sum() == pytest.approx(known, rel=0.15)
