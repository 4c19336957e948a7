"""False alarms: how often a silence that is real is doubted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.drills.silences import KINDS, SimulatedRecorder, SimulatedStream, streams

AT_GRACE, LATER = 0.01, 0.001
"""Largest shares of truly silent bars that are not quiet when they are published, and ten minutes later."""


def check(coins: Sequence[SimulatedStream], days: float, *, is_resent: bool) -> str:
    """Simulate; check the shares over all coins and of each kind; return the figures."""
    SimulatedRecorder(coins, is_resent=is_resent).run(round(days * 1_440))
    lines = []
    for kind in (*KINDS, ""):
        some = [coin for coin in coins if kind in ("", coin.kind)]
        silent = sum(coin.silent for coin in some)
        at_grace, later = (sum(getattr(coin, name) for coin in some) for name in ("at_grace", "later"))
        assert silent > 0
        assert at_grace <= AT_GRACE * silent, (kind, at_grace, silent)
        assert later <= LATER * silent, (kind, later, silent)
        renewals = sum(coin.renewals for coin in some)
        lines.append(
            f"{kind or 'all'}: {silent} bars, {at_grace} at grace, {later} later, {renewals} renewals"
        )
    return "; ".join(lines)


def test_real_silences_are_seldom_doubted_and_soon_proven() -> None:
    check(streams(9, 1.5, seed=1), 1.5, is_resent=True)


def test_a_new_coin_is_doubted_no_more_once_twenty_gaps_are_known() -> None:
    check([coin for coin in streams(9, 1.0, seed=2) if coin.a_day > 100], 1.0, is_resent=False)


@pytest.mark.drill
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("is_resent", [True, False])
def test_fifty_coins_over_a_month(is_resent: bool) -> None:
    print(check(streams(50, 30.0, seed=5), 30.0, is_resent=is_resent))
