"""Comparison of bars with candles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.bars.reconciliation import FIGURES, CandleFigures, Tolerance, differences

BAR: dict[str, Any] = {
    "open": 109_741.0, "high": 109_750.0, "low": 109_700.0, "close": 109_742.0, "volume": 123.45678, "trades": 321,
}  # fmt: skip
QUIET: dict[str, Any] = dict.fromkeys(("open", "high", "low", "close")) | {"volume": 0.0, "trades": 0}


def unlike(
    ours: dict[str, Any], theirs: dict[str, Any] | None, tolerance: Tolerance | None = None
) -> list[str]:
    found = differences(CandleFigures.of_rows([ours]), CandleFigures.of_rows([theirs]), tolerance)
    return [name for name, differs in zip(FIGURES, found[:, 0], strict=True) if differs]


def test_equal_figures_agree() -> None:
    assert unlike(BAR, BAR) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("open", 109_742.0),
        ("high", 109_751.0),
        ("low", 109_699.0),
        ("close", 109_741.0),
        ("volume", 123.45679),
        ("trades", 322),
    ],
)
def test_one_step_of_one_figure_is_seen(name: str, value: float) -> None:
    assert unlike(BAR, BAR | {name: value}) == [name]


def test_what_a_file_of_float32_rounds_is_no_difference() -> None:
    prices = {name: float(np.float32(BAR[name] + 0.1)) for name in FIGURES[:4]}
    assert unlike({**BAR, **{name: BAR[name] + 0.1 for name in FIGURES[:4]}}, BAR | prices) == []


def test_the_order_of_a_sum_is_no_difference() -> None:
    sizes = np.random.default_rng(7).lognormal(-3, 3, 100_000).round(5)
    assert unlike(BAR | {"volume": float(sizes.sum())}, BAR | {"volume": float(sum(sizes[::-1]))}) == []


def test_a_flat_candle_agrees_with_a_quiet_bar_and_its_prices_say_nothing() -> None:
    flat = dict.fromkeys(FIGURES[:4], 109_700.0) | {"volume": 0.0, "trades": 0}
    assert unlike(QUIET, flat) == []
    assert unlike(BAR, flat) == ["volume", "trades"]
    assert unlike(QUIET, BAR) == ["volume", "trades"]


def test_an_absent_candle_and_a_figure_it_does_not_have_say_nothing() -> None:
    assert unlike(BAR, None) == []
    assert unlike(BAR, BAR | {"trades": None}) == []
    assert unlike(BAR, BAR | {"trades": None, "close": 1.0}) == ["close"]


def test_counts_may_be_left_out_where_the_venue_counts_otherwise() -> None:
    assert unlike(BAR, BAR | {"trades": 642}, Tolerance(counts=False)) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=20))
def test_many_at_once_are_judged_as_one_by_one(cases: list[tuple[int, bool]]) -> None:
    ours = [BAR] * len(cases)
    theirs = [BAR | ({FIGURES[n]: BAR[FIGURES[n]] * 2} if is_wrong else {}) for n, is_wrong in cases]
    found = differences(CandleFigures.of_rows(ours), CandleFigures.of_rows(theirs))
    assert found.shape == (6, len(cases))
    for at, (n, is_wrong) in enumerate(cases):
        assert found[:, at].tolist() == [is_wrong and number == n for number in range(6)]
