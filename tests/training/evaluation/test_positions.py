"""The position rule and its ledger: by hand, and against a slow step-by-step implementation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.clock import parse_time_ns
from tests.plugins.property_tests import examples
from training.evaluation.costs import BPS, Costs
from training.evaluation.positions import MarketData, PositionRule, run_ledger

MINUTE_NS = 60 * 10**9
NAN = math.nan
FEE_CHANGE_NS = parse_time_ns("2025-05-05T03:00")


def market_of(
    price: list[list[float]],
    *,
    scale: float = 0.01,
    half_spread: list[list[float]] | None = None,
    notional: float = 1e12,
    funding: list[list[float]] | None = None,
    change_at: int = 4,
    delay_bars: int = 1,
) -> MarketData:
    """Return a market whose bar `change_at` closes at the instant of the venue's fee change."""
    prices = np.array(price)
    closes = FEE_CHANGE_NS + MINUTE_NS * (np.arange(prices.shape[1]) - change_at)
    return MarketData(
        instruments=tuple(f"hyperliquid|perp|C{i}" for i in range(len(prices))),
        ts_close_ns=closes,
        price=prices,
        half_spread=np.full(prices.shape, NAN) if half_spread is None else np.array(half_spread),
        notional=np.full(prices.shape, notional),
        taker_fee_bps=np.broadcast_to(np.where(closes < FEE_CHANGE_NS, 3.5, 4.5), prices.shape),
        scale=np.full(prices.shape, scale),
        funding_paid=None if funding is None else np.array(funding),
        delay_bars=delay_bars,
    )


RULE = PositionRule(threshold=1.0, hold_bars=3)
COSTS = Costs(half_spread_bps=1.0, impact_bps=0.0)
PRICES = [[100.0, 100.0, 102.0, 104.0, 104.0, 103.0, 103.0, 103.0]]


def test_ledger_by_hand() -> None:
    half = [[NAN, NAN, NAN, NAN, 2e-4, NAN, NAN, NAN]]
    funding = [[0.0, 1e-4, 0.0, 1e-4, 0.0, 1e-4, 0.0, 0.0]]
    prediction = np.array([[1.0, NAN, NAN, -1.0, NAN, NAN, NAN, NAN]])
    ledger = run_ledger(prediction, market_of(PRICES, half_spread=half, funding=funding), RULE, COSTS)
    # Decided at 0: long 1.00 at 100 in bar 1. Reversed by the decision at 3: short 1.00 at 104 in bar 4, under
    # the new fee. No prediction at 6, so it is closed at the end, at 103.
    turned, closed = -1 - 1.04, 103 / 104
    assert [(fill.step, fill.price) for fill in ledger.fills] == [(1, 100.0), (4, 104.0), (7, 103.0)]
    assert [fill.change for fill in ledger.fills] == pytest.approx([1.0, turned, closed])
    assert [fill.fee for fill in ledger.fills] == pytest.approx([3.5e-4, 4.5e-4 * -turned, 4.5e-4 * closed])
    assert [fill.spread for fill in ledger.fills] == pytest.approx([1e-4, 2e-4 * -turned, 1e-4 * closed])
    assert ledger.gross == pytest.approx([0, 0, 0.02, 0.02, 0, 1 / 104, 0, 0])
    # The fill of bar 1 comes after its funding; a long pays in bar 3, a short receives in bar 5.
    assert ledger.funding == pytest.approx([0, 0, 0, 1.04e-4, 0, -1e-4 * 103 / 104, 0, 0])
    assert ledger.exposure[0] == pytest.approx([0, 1, 1.02, 1.04, -1, -103 / 104, -103 / 104, 0])
    costs = 3.5e-4 + 1e-4 - 6.5e-4 * turned + 5.5e-4 * closed + 1e-4 * (1.04 - 103 / 104)
    assert ledger.net.sum() == pytest.approx(0.04 + 1 / 104 - costs)


def test_position_is_renewed_without_a_fill_while_the_rule_keeps_its_side() -> None:
    ledger = run_ledger(np.ones((1, 8)), market_of(PRICES), RULE, COSTS)
    assert [(fill.step, round(fill.change, 2)) for fill in ledger.fills] == [(1, 1.0), (7, -1.03)]


def test_holding_period_runs_from_fill_to_fill() -> None:
    prediction = np.full((1, 12), NAN)
    prediction[0, :2] = 1.0
    market = market_of([[100.0] * 12], delay_bars=2)
    assert [fill.step for fill in run_ledger(prediction, market, RULE, COSTS).fills] == [2, 5]


def test_order_waits_for_a_price() -> None:
    prices = [[100.0, NAN, NAN, 102.0, 103.0, 104.0, 105.0, 106.0]]
    prediction = np.array([[1.0] + [NAN] * 7])
    ledger = run_ledger(prediction, market_of(prices), RULE, COSTS)
    assert [(fill.step, fill.price) for fill in ledger.fills] == [(3, 102.0), (6, 105.0)]


def test_move_over_a_hole_is_booked_at_the_next_price() -> None:
    prices = [[100.0, 100.0, NAN, NAN, 110.0, 110.0, 110.0, 110.0]]
    ledger = run_ledger(np.ones((1, 8)), market_of(prices), RULE, COSTS)
    assert ledger.gross == pytest.approx([0, 0, 0, 0, 0.1, 0, 0, 0])


def test_move_below_the_cost_of_the_round_trip_is_not_traded() -> None:
    # In and out cost 2 * (3.5 + 1) bp before the fee change.
    for scale, fills in ((8.9e-4, 0), (9.1e-4, 2)):
        prediction = np.array([[1.0] + [NAN] * 7])
        assert len(run_ledger(prediction, market_of(PRICES, scale=scale), RULE, COSTS).fills) == fills


def test_unknown_funding_is_left_out_and_zero_model_never_trades() -> None:
    ledger = run_ledger(np.zeros((1, 8)), market_of(PRICES), RULE, COSTS)
    assert ledger.fills == ()
    assert not ledger.net.any()


def test_impact_grows_with_the_root_of_the_share_and_capacity_limits_it() -> None:
    costs = replace(COSTS, impact_bps=10.0, capital_usd=1e5)
    market = market_of(PRICES, notional=4e5)
    prediction = np.array([[1.0] + [NAN] * 7])
    first = run_ledger(prediction, market, RULE, costs).fills[0]
    assert first.impact == pytest.approx(10 * BPS * 0.5)
    limited = run_ledger(prediction, market, replace(RULE, capacity_share=0.01), costs).fills[0]
    assert limited.change == pytest.approx(0.04)
    assert limited.impact == pytest.approx(0.04 * 10 * BPS * 0.1)


def test_bar_without_known_notional_has_the_full_impact() -> None:
    costs = replace(COSTS, impact_bps=10.0)
    fill = run_ledger(np.ones((1, 8)), market_of(PRICES, notional=NAN), RULE, costs).fills[0]
    assert fill.impact == pytest.approx(10 * BPS)


def walk_slowly(prediction: np.ndarray, market: MarketData, rule: PositionRule, costs: Costs) -> float:
    """Return the net sum, computed step by step for one instrument at a time, without lookahead."""

    def pay(size: float, i: int, step: int, fee_and_spread: float) -> float:
        share = min(1.0, size * costs.capital_usd / market.notional[i, step])
        return size * (fee_and_spread + costs.impact_bps * BPS * share**0.5)

    net = 0.0
    n_steps = prediction.shape[1]
    for i in range(len(market.instruments)):
        units, last, order, free = 0.0, NAN, None, 0
        for step in range(n_steps):
            price = market.price[i, step]
            listed = market.is_listed[:, step]
            fee = float(market.taker_fee_bps[i, step]) * BPS
            half = market.half_spread[i, step]
            if math.isnan(half):
                half = max(costs.half_spread_bps * BPS, np.nan_to_num(market.estimated_half_spread[i, step]))
            if not listed[i]:
                price = market.settlement[i, step]
            if not math.isnan(price):
                net += units * (price - last) if units else 0.0
                last = price
            if units and market.funding_paid is not None:
                net -= units * last * market.funding_paid[i, step]
            if not listed[i]:
                units, order = 0.0, None
                continue
            is_last = step == n_steps - 1
            if order is not None and step >= order[0] and not math.isnan(price) and not is_last:
                net -= pay(abs(order[1] - units * price), i, step, fee + half)
                units, order = order[1] / price, None
                free = step + max(0, rule.hold_bars - market.delay_bars) if units else step
            elif order is not None and step == order[0] + rule.expire_bars - 1:
                order, free = None, step
            if is_last and units:
                net -= pay(abs(units * last), i, step, fee + half)
            if order is None and (not units or step == free):
                move = prediction[i, step] * market.scale[i, step]
                size = rule.gross_share / listed.sum()
                share = min(1.0, size * costs.capital_usd / market.notional[i, step])
                cost = fee + half + costs.impact_bps * BPS * share**0.5
                wants = abs(move) > rule.threshold * 2 * cost
                side = math.copysign(1.0, move) if wants else 0.0
                held = math.copysign(1.0, units) if units else 0.0
                if side != held:
                    order = (step + market.delay_bars, side * size)
                else:
                    free = step + rule.hold_bars
    return net


@settings(max_examples=examples(60), deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    hold=st.integers(1, 5),
    delay=st.integers(1, 3),
    expire=st.integers(1, 4),
    holes=st.floats(0, 0.6),
    steps=st.integers(5, 40),
    listings=st.integers(1, 4),
)
def test_ledger_equals_a_slow_implementation(
    seed: int, hold: int, delay: int, expire: int, holes: float, steps: int, listings: int
) -> None:
    rng = np.random.default_rng(seed)
    shape = (2, steps)
    price = np.exp(np.cumsum(rng.standard_normal(shape) * 0.01, axis=1)) * 100
    # Listed and unlisted stretches take turns.
    turns = np.sort(rng.integers(0, steps, (2, listings)), axis=1)
    listed = np.array(
        [(np.searchsorted(row, np.arange(steps), side="right") + seed) % 2 == 1 for row in turns]
    )
    gone = np.zeros(shape, dtype=bool)
    gone[:, 1:] = listed[:, :-1] & ~listed[:, 1:]
    settlement = np.where(gone, price * 1.01, NAN)
    price[(rng.random(shape) < holes) | ~listed] = NAN
    prediction = rng.standard_normal(shape)
    prediction[rng.random(shape) < 0.2] = NAN
    half = np.where(rng.random(shape) < 0.5, rng.random(shape) * 1e-3, NAN)
    market = replace(
        market_of(price.tolist(), scale=2e-3, half_spread=half.tolist(), delay_bars=delay),
        funding_paid=rng.standard_normal(shape) * 1e-4,
        notional=rng.random(shape) * 1e6,
        estimated_half_spread=np.where(rng.random(shape) < 0.5, rng.random(shape) * 1e-3, NAN),
        is_listed=listed,
        settlement=settlement,
    )
    rule, costs = (
        PositionRule(threshold=1.0, hold_bars=hold, expire_bars=expire),
        replace(COSTS, impact_bps=10.0, capital_usd=1e5),
    )
    ledger = run_ledger(prediction, market, rule, costs)
    assert ledger.net.sum() == pytest.approx(walk_slowly(prediction, market, rule, costs), abs=1e-12)
