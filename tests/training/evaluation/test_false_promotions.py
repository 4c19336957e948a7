"""Size and power of the gate over many nights; the long forms are the figures of docs/gate.md."""

from __future__ import annotations

import numpy as np
import pytest

from tests.training.evaluation.gate_simulation import (
    HEAVY,
    MORE_SKEWED,
    NORMAL,
    SKEWED,
    Profit,
    edgeless,
    judge_runs,
    with_edge,
)

MOST = 0.061
"""5% and the standard error of 1,000 runs times 1.64."""
PROFITS = pytest.mark.parametrize("profit", [NORMAL, HEAVY, SKEWED, MORE_SKEWED], ids=lambda item: item.name)


def test_sixty_edgeless_homes_are_rarely_promoted_in_sixty_nights() -> None:
    outcome = edgeless(NORMAL, correlation=0.5, runs=30)
    skewed = edgeless(MORE_SKEWED, correlation=0.5, runs=30)
    assert outcome.promoted() + skewed.promoted() <= 2 / 30


def test_rare_losses_are_not_promoted_without_a_history() -> None:
    """Most of these paths see no loss in their first weeks; the risk of their positions shows it."""
    rng = np.random.default_rng(2)
    returns = MORE_SKEWED.draw(rng, (40, 4, 60), 0.5)
    path = returns[:, 0]
    assert judge_runs(returns, history=0, path=path).promoted() > 0.2
    assert judge_runs(returns, history=0, loss=30.0, path=path).promoted() == 0


def test_edge_of_four_standard_errors_passes_by_history() -> None:
    for siblings in (4.0, 0.0, -2.0):
        assert passed_by_history(siblings, runs=20) >= 0.75


def test_daily_sharpe_of_two_fifths_is_promoted_within_120_nights() -> None:
    assert with_edge(0.4, runs=60, history=0, nights=100).promoted() >= 0.7


@pytest.mark.drill
@PROFITS
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_false_promotions_of_a_thousand_homes(profit: Profit, correlation: float) -> None:
    outcome = edgeless(profit, correlation=correlation, runs=1_000, seed=17)
    first, all_nights = outcome.promoted(0), outcome.promoted()
    print(f"{profit.name}, correlation {correlation}: {first:.1%} by history, {all_nights:.1%} in all")
    assert outcome.promoted() <= MOST


@pytest.mark.drill
@PROFITS
@pytest.mark.parametrize("history", [0, 60, 100])
def test_false_promotions_with_little_history(profit: Profit, history: int) -> None:
    outcome = edgeless(profit, correlation=0.5, runs=1_000, history=history, nights=120, seed=18)
    print(
        f"{profit.name}, {history} days: {outcome.promoted(60):.1%} in 60 nights, {outcome.promoted():.1%} in 120"
    )
    assert outcome.promoted() <= MOST


@pytest.mark.drill
@pytest.mark.parametrize("siblings", [4.0, 0.0, -2.0])
def test_power_of_the_history_with_any_siblings(siblings: float) -> None:
    share = passed_by_history(siblings, runs=400)
    print(f"net t = 4, siblings at t = {siblings:g}: {share:.1%} promoted by history")
    assert share >= 0.75


@pytest.mark.drill
def test_power_of_a_daily_sharpe_of_two_fifths() -> None:
    share = with_edge(0.4, runs=1_000, history=0, nights=100).promoted()
    print(f"daily Sharpe 0.4: {share:.1%} promoted within 120 nights")
    assert share >= 0.8


@pytest.mark.drill
@pytest.mark.parametrize("sharpe", [1, 2, 3, 5])
def test_nights_to_promotion(sharpe: int) -> None:
    found = {}
    for history in (0, 365):
        outcome = with_edge(sharpe / 365**0.5, runs=300, history=history, nights=1_000)
        found[history] = float(np.median(outcome.nights()))
        shares = ", ".join(f"{outcome.promoted(n):.0%} in {n}" for n in (0, 60, 120, 365, 1_000))
        print(f"Sharpe {sharpe}, history {history}: median night {found[history]:g}; {shares}")
    assert found[365] <= found[0]


def passed_by_history(siblings: float, *, runs: int) -> float:
    """Return the share of runs with a path at a true net t of 4 that its history promotes."""
    days = 365
    means = np.array([4.0, siblings, siblings, siblings]) / days**0.5
    returns = NORMAL.draw(np.random.default_rng(3), (runs, 4, days), 0.5) + means[:, None]
    return judge_runs(returns, history=days, path=returns[:, 0]).promoted(0)
