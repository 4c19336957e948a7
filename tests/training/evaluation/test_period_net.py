"""Net by complete period, and the risk of its positions on earlier prices."""

from __future__ import annotations

import numpy as np
import pytest

from storage.clock import NS
from training.evaluation.costs import Costs
from training.evaluation.period_net import complete_periods, measure_path, net_by_period, replay_risk
from training.evaluation.positions import MarketData, PositionRule, run_ledger

HOUR_NS = 3_600 * NS
DAY_NS = 24 * HOUR_NS


def market_of(price: np.ndarray, *, start_ns: int = 0, half_spread: np.ndarray | None = None) -> MarketData:
    count, steps = price.shape
    return MarketData(
        instruments=tuple(f"C{i}" for i in range(count)),
        ts_close_ns=start_ns + HOUR_NS * (1 + np.arange(steps, dtype=np.int64)),
        price=price,
        half_spread=np.full(price.shape, 1e-4) if half_spread is None else half_spread,
        notional=np.full(price.shape, 1e9),
        taker_fee_bps=np.zeros(price.shape),
        scale=np.full(price.shape, 0.01),
        funding_paid=None,
        delay_bars=1,
    )


def test_only_complete_days_count() -> None:
    closes = 5 * HOUR_NS + HOUR_NS * (1 + np.arange(24 * 3, dtype=np.int64))
    first, bars = complete_periods(closes, width_ns=HOUR_NS, period_ns=DAY_NS)
    assert (first.tolist(), bars) == ([19, 43], 24)
    net = np.arange(72.0)
    assert net_by_period(net, first, bars).tolist() == [net[19:43].sum(), net[43:67].sum()]
    with pytest.raises(ValueError, match="no whole number of bars"):
        complete_periods(closes, width_ns=7 * HOUR_NS, period_ns=DAY_NS)


def test_replayed_risk_equals_a_slow_loop() -> None:
    rng = np.random.default_rng(1)
    price = np.exp(rng.standard_normal((2, 24 * 12)).cumsum(axis=1) * 0.01)
    price[1, :30] = np.nan
    offset, first, bars = 24 * 5, np.arange(0, 24 * 7, 24), 24
    exposure = rng.standard_normal((2, 24 * 7))
    volatility, worst = replay_risk(exposure, price, first, bars, offset=offset)
    moves = np.concatenate([np.zeros((2, 1)), np.nan_to_num(price[:, 1:] / price[:, :-1] - 1)], axis=1)
    for p, at in enumerate(first):
        into = np.concatenate(
            [exposure[:, at - 1 : at] if at else np.zeros((2, 1)), exposure[:, at : at + 23]], axis=1
        )
        earned = [(into * moves[:, w : w + 24]).sum() for w in range(0, offset + at - 24 + 1, 6)]
        assert volatility[p] == pytest.approx(np.std(earned, ddof=1), rel=1e-9)
        assert worst[p] == pytest.approx(max(0.0, -min(earned)), rel=1e-9)


def test_risk_of_a_day_knows_no_later_price() -> None:
    rng = np.random.default_rng(1)
    price = np.exp(rng.standard_normal((1, 240)).cumsum(axis=1) * 0.01)
    later = price.copy()
    later[:, 24 * 7 :] *= 0.1
    first = np.arange(0, 120, 24)
    risks = [replay_risk(np.ones((1, 120)), values, first, 24, offset=120) for values in (price, later)]
    # Days 5 to 7 begin before the crash of day 7; day 8 knows it.
    assert risks[0][1][:3].tolist() == risks[1][1][:3].tolist()
    assert risks[1][1][3] > 0.8


def test_crash_in_training_prices_is_seen_by_a_path_that_never_met_it() -> None:
    price = np.full((1, 24 * 40), 100.0) * np.exp(1e-4 * np.random.default_rng(1).standard_normal((1, 960)))
    price[0, 24 * 4 : 24 * 4 + 6] *= 0.7
    offset = 24 * 10
    market = market_of(price)
    window = market.window(offset, 960)
    ledger = run_ledger(
        np.full((1, 720), 1.0), window, PositionRule(threshold=0.0, hold_bars=4), Costs(half_spread_bps=1.0)
    )
    path = measure_path(ledger, market, offset=offset, width_ns=HOUR_NS, period_ns=DAY_NS)
    assert len(path) == 30
    assert path.net.std() < 0.01
    assert path.worst_loss.min() > 0.2
    assert path.is_quoted.all()
    assert path.start_ns.tolist() == [DAY_NS * (10 + day) for day in range(30)]
    assert path.net.sum() == pytest.approx(ledger.net.sum())


def test_day_with_one_fill_without_a_quote_is_not_quoted() -> None:
    price = np.full((1, 24 * 6), 100.0)
    half = np.full((1, 24 * 6), 1e-4)
    half[0, 24 * 2 + 1] = np.nan
    market = market_of(price, half_spread=half)
    ledger = run_ledger(
        np.tile([1.0, -1.0], 72)[None],
        market,
        PositionRule(threshold=0.0, hold_bars=1),
        Costs(half_spread_bps=1.0),
    )
    path = measure_path(ledger, market, offset=0, width_ns=HOUR_NS, period_ns=DAY_NS)
    assert path.is_quoted.tolist() == [True, True, False, True, True, True]
    bare = measure_path(
        run_ledger(
            np.zeros((1, 144)), market, PositionRule(threshold=1.0, hold_bars=1), Costs(half_spread_bps=1.0)
        ),
        market_of(price, half_spread=np.full((1, 144), np.nan)),
        offset=0,
        width_ns=HOUR_NS,
        period_ns=DAY_NS,
    )
    assert not bare.is_quoted.any()


def test_settlement_pays_no_spread_and_so_needs_no_quote() -> None:
    listed = np.arange(144) < 24 * 2 + 1
    price = np.where(listed, 100.0, np.nan)[None]
    market = MarketData(
        instruments=("a",),
        ts_close_ns=HOUR_NS * (np.arange(144) + 1),
        price=np.concatenate([price, np.full((1, 144), 50.0)]),
        half_spread=np.where(np.isfinite(np.concatenate([price, np.full((1, 144), 50.0)])), 1e-4, np.nan),
        notional=np.full((2, 144), 1e12),
        taker_fee_bps=np.zeros((2, 144)),
        scale=np.full((2, 144), 0.01),
        funding_paid=None,
        delay_bars=1,
        is_listed=np.stack([listed, np.ones(144, dtype=bool)]),
        settlement=np.stack([np.where(np.arange(144) == 24 * 2 + 1, 99.0, np.nan), np.full(144, np.nan)]),
    )
    prediction = np.full((2, 144), np.nan)
    prediction[0, 24 * 2 - 2] = 1.0
    rule = PositionRule(threshold=1.0, hold_bars=24)
    ledger = run_ledger(prediction, market, rule, Costs(half_spread_bps=1.0))
    assert [(fill.step, fill.price, fill.spread) for fill in ledger.fills][1] == (49, 99.0, 0.0)
    path = measure_path(ledger, market, offset=0, width_ns=HOUR_NS, period_ns=DAY_NS)
    assert path.is_quoted.all()
