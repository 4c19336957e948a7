"""The e-process: its start and bets are fair without an edge, and its risk knows losses that have not happened."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.e_process import (
    LAMBDAS,
    alpha_of,
    bet_factors,
    evidence_path,
    path_risks,
    start_value,
)


def test_levels_of_all_lineages_sum_to_the_limit() -> None:
    total = sum(alpha_of(k, false_promotions=0.05) for k in range(1, 10_000))
    assert total == pytest.approx(0.05, rel=2e-4)
    assert total < 0.05
    with pytest.raises(ValueError, match="lineage number 0"):
        alpha_of(0, false_promotions=0.05)


@pytest.mark.parametrize("alpha", [0.025, 0.05 / 6, 0.001])
def test_start_has_a_mean_of_one_without_an_edge(alpha: float) -> None:
    # Exact on each cell of p, by the integral of its falling half.
    edges = np.linspace(0, 1, 200_001)
    falling = np.diff(np.sqrt(edges)).sum() / 2
    promoted = alpha / 2 / alpha
    assert falling + promoted == pytest.approx(1.0)
    assert start_value(alpha / 2, alpha) >= 1 / alpha
    assert start_value(alpha / 2 * 1.001, alpha) < 1 / alpha
    assert start_value(1.0, alpha) == 0.25
    assert start_value(None, alpha) == 1.0


def test_bets_follow_the_hand_calculation() -> None:
    net, risk = np.array([0.02, -0.01, 0.5]), np.array([0.01, 0.02, 0.01])
    expected = 0.0
    for share in (0.05, 0.1, 0.2, 0.3):
        expected += (1 + share * 2) * (1 - share * 0.5) * (1 + share * 3) / 4
    assert evidence_path(2.0, net, risk)[-1] == pytest.approx(2 * expected, rel=1e-12)


def test_factor_has_a_floor_and_losses_are_not_clipped() -> None:
    assert bet_factors(np.array([-2.0]), np.array([1.0]))[0] == pytest.approx([0.9, 0.8, 0.6, 0.4])
    assert bet_factors(np.array([-50.0]), np.array([1.0]))[0].tolist() == [0.05] * len(LAMBDAS)


def test_no_share_is_larger_than_the_worst_known_loss_allows() -> None:
    """With a loss of five risks, a bet of 0.3 would lose more than everything."""
    factors = bet_factors(np.array([-5.0]), np.array([1.0]), np.array([5.0]))[0]
    assert factors == pytest.approx([0.75, 0.5, 0.05, 0.05])
    gain = bet_factors(np.array([1.0]), np.array([1.0]), np.array([5.0]))[0]
    assert gain == pytest.approx([1.05, 1.1, 1.19, 1.19])


@pytest.mark.parametrize("loss", [3.0, 10.0, 30.0])
def test_known_rare_loss_makes_every_bet_fair(loss: float) -> None:
    """The mean of every factor is 1, if an edgeless path loses no more than the market has shown."""
    net = np.array([1.0, -loss])
    odds = np.array([loss, 1.0]) / (1 + loss)
    risk = np.full(2, max(1.0, loss / 5))
    means = odds @ bet_factors(net, risk, np.full(2, loss))
    assert means == pytest.approx(np.ones(len(LAMBDAS)))


def test_risk_is_the_largest_of_three() -> None:
    net = np.random.default_rng(1).standard_normal(60)
    nothing = np.zeros(60)
    scatter = path_risks(net, first=40, volatility=nothing, worst_loss=nothing)
    assert scatter[0] == pytest.approx(net[:40].std(ddof=1), rel=1e-9)
    assert scatter[-1] == pytest.approx(net[:59].std(ddof=1), rel=1e-9)
    loud = path_risks(net, first=40, volatility=np.full(60, 7.0), worst_loss=nothing)
    assert loud.tolist() == [7.0] * 20
    crash = path_risks(net, first=40, volatility=nothing, worst_loss=np.full(60, 50.0))
    assert crash.tolist() == [10.0] * 20


def test_nothing_is_bet_before_twenty_days_measure_the_risk() -> None:
    net = np.random.default_rng(1).standard_normal(25)
    risk = path_risks(net, first=0, volatility=np.ones(25), worst_loss=np.ones(25))
    assert np.isinf(risk[:20]).all()
    assert np.isfinite(risk[20:]).all()
    assert evidence_path(1.0, net, risk)[:20].tolist() == [1.0] * 20


def test_path_that_never_trades_gains_no_evidence() -> None:
    net = np.zeros(50)
    risk = path_risks(net, first=0, volatility=net, worst_loss=net)
    assert evidence_path(0.25, net, risk).tolist() == [0.25] * 50
    assert evidence_path(1.0, net[:0], risk[:0]).tolist() == []


def test_risk_of_a_day_does_not_know_the_day() -> None:
    net = np.random.default_rng(1).standard_normal(40)
    changed = net.copy()
    changed[30:] = 1e6
    nothing = np.zeros(40)
    before, after = (
        path_risks(values, first=20, volatility=nothing, worst_loss=nothing) for values in (net, changed)
    )
    assert after[:11].tolist() == before[:11].tolist()
