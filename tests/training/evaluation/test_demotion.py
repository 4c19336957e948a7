"""Demotion by CUSUM: rare false alarms, and a lost edge is found within weeks."""

from __future__ import annotations

import numpy as np
import pytest

from tests.training.evaluation.gate_simulation import nights_to_demotion
from training.evaluation.demotion import EdgeMonitor, cusum, cusum_threshold


def test_statistic_follows_the_recursion() -> None:
    net, mu, sigma = np.random.default_rng(1).standard_normal(200), 0.3, 1.7
    slow, found = 0.0, []
    for x in net:
        slow = max(0.0, slow - 2 * mu * x / sigma**2)
        found.append(slow)
    assert cusum(net, mu, sigma) == pytest.approx(found, abs=1e-12)


def test_lost_edge_is_found_within_25_nights_and_an_intact_one_rarely() -> None:
    lost = nights_to_demotion(0.4, -0.4, runs=400, nights=120)
    intact = nights_to_demotion(0.4, 0.4, runs=2_000, nights=120, seed=1)
    assert np.median(lost) <= 25
    assert np.isfinite(intact).mean() <= 0.05


def test_error_of_the_measured_edge_is_no_reason_to_demote() -> None:
    """Ratios measured over 100 days scatter by 0.1; false alarms stay rare on average over what was measured."""
    rng = np.random.default_rng(3)
    alarms = [
        np.isfinite(
            nights_to_demotion(
                0.4,
                0.4,
                measured=round(max(0.05, 0.4 + 0.1 * error), 2),
                days=100,
                runs=200,
                nights=120,
                seed=run,
            )
        ).mean()
        for run, error in enumerate(rng.standard_normal(6))
    ]
    assert np.mean(alarms) <= 0.08


def test_threshold_rises_with_the_error_of_its_measurement() -> None:
    assert cusum_threshold(0.4, 100) > cusum_threshold(0.4, 10_000)


def test_monitor_depends_on_the_ratio_alone() -> None:
    net = np.random.default_rng(1).standard_normal(50)
    small, large = EdgeMonitor(0.3, 1.0, 365), EdgeMonitor(3e-4, 1e-3, 365)
    assert small.threshold == large.threshold
    assert small.statistic(net) == pytest.approx(large.statistic(net * 1e-3))


@pytest.mark.parametrize("values", [(0.0, 1.0, 100), (-0.1, 1.0, 100), (0.1, 0.0, 100), (0.1, 1.0, 1)])
def test_only_a_measured_edge_is_monitored(values: tuple[float, float, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        EdgeMonitor(*values)
