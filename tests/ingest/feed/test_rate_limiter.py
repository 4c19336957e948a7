"""Rate limits hold in every window of time."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.feed.rate_limiter import RateLimiter, RateLimitRule
from ingest.venues.hyperliquid.rate_limits import weight_of
from storage.errors import SettingsError

STEPS = st.lists(st.tuples(st.floats(0.0, 5.0), st.integers(1, 10)), max_size=60)


def admitted(budget: RateLimiter, steps: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """Return (time, weight) of the requests that passed, made after pauses."""
    now_s, passed = 100.0, []
    for pause_s, weight in steps:
        now_s += pause_s
        if budget.take(weight, now_s) == 0.0:
            passed.append((now_s, weight))
    return passed


@given(STEPS)
def test_no_window_holds_more_than_the_limit(steps: list[tuple[float, int]]) -> None:
    limits = (RateLimitRule(10, 3.0), RateLimitRule(25, 20.0))
    passed = admitted(RateLimiter(*limits), steps)
    for limit in limits:
        for end_s, _ in passed:
            within = sum(w for t, w in passed if t <= end_s < t + limit.per_s - 1e-9)
            assert within <= limit.most


@given(STEPS, st.integers(1, 10))
def test_after_the_returned_wait_the_weight_fits(steps: list[tuple[float, int]], weight: int) -> None:
    budget = RateLimiter(RateLimitRule(10, 3.0), RateLimitRule(25, 20.0))
    admitted(budget, steps)
    now_s = 100.0 + sum(pause_s for pause_s, _ in steps)
    wait_s = budget.take(weight, now_s)
    if wait_s:
        assert budget.take(weight, now_s + wait_s + 1e-9) == 0.0


@given(STEPS)
def test_it_refuses_only_what_would_break_a_limit(steps: list[tuple[float, int]]) -> None:
    budget, limit = RateLimiter(RateLimitRule(10, 3.0)), RateLimitRule(10, 3.0)
    now_s, passed = 100.0, []
    for pause_s, weight in steps:
        now_s += pause_s
        within = sum(w for t, w in passed if t + limit.per_s - now_s > 0)
        is_taken = budget.take(weight, now_s) == 0.0
        assert is_taken == (within + weight <= limit.most)
        if is_taken:
            passed.append((now_s, weight))


def test_a_later_charge_delays_the_next_request() -> None:
    budget = RateLimiter(RateLimitRule(100, 60.0))
    assert budget.take(20, 0.0) == 0.0
    budget.charge(84, 1.0)
    assert budget.spent(1.0) == 104
    assert budget.take(20, 2.0) == pytest.approx(59.0)
    assert budget.take(20, 60.0) == pytest.approx(1.0)
    assert budget.take(16, 60.0) == 0.0


def test_a_weight_above_the_limit_passes_when_nothing_else_was_spent() -> None:
    budget = RateLimiter(RateLimitRule(10, 1.0))
    assert budget.take(60, 0.0) == 0.0
    assert budget.take(1, 0.5) == pytest.approx(0.5)


async def test_callers_are_served_in_order() -> None:
    budget = RateLimiter(RateLimitRule(1, 0.02))
    order: list[int] = []

    async def ask(number: int) -> None:
        await budget.spend()
        order.append(number)

    began_s = asyncio.get_running_loop().time()
    await asyncio.gather(*(ask(number) for number in range(5)))
    assert order == [0, 1, 2, 3, 4]
    assert asyncio.get_running_loop().time() - began_s >= 0.08


def test_a_limit_of_zero_is_refused() -> None:
    with pytest.raises(SettingsError, match="lets nothing pass"):
        RateLimitRule(0, 1.0)


@pytest.mark.parametrize(
    ("request_", "rows", "weight"),
    [
        ({"type": "l2Book", "coin": "BTC"}, 2, 2),
        ({"type": "exchangeStatus"}, 0, 2),
        ({"type": "meta"}, 0, 20),
        ({"type": "recentTrades", "coin": "BTC"}, 10, 21),
        ({"type": "fundingHistory", "coin": "BTC"}, 500, 45),
        ({"type": "candleSnapshot", "req": {}}, 5000, 104),
        ({"type": "candleSnapshot", "req": {}}, 0, 20),
        ({"type": "userRole"}, 0, 60),
    ],
)
def test_weights_are_those_of_the_venue(request_: dict[str, object], rows: int, weight: int) -> None:
    assert weight_of(request_, rows) == weight
