"""Rolling operations: exact results, and bits that depend on the window alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from features.ops.rolling import carry, count_over, mean_over, observed_over, shift, sum_over


def noise(steps: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(3, steps)))


@given(bars=st.integers(1, 140), steps=st.integers(1, 200))
def test_a_sum_is_the_sum_of_its_window(bars: int, steps: int) -> None:
    x = noise(steps)
    got = sum_over(x, bars)
    for t in range(steps):
        expected = [math.fsum(row[max(t - bars + 1, 0) : t + 1]) for row in x.tolist()]
        assert got[:, t].tolist() == pytest.approx(expected, abs=1e-12)


@given(bars=st.integers(1, 140), start=st.integers(0, 300), length=st.integers(1, 300))
def test_a_sum_has_the_same_bits_in_any_piece(bars: int, start: int, length: int) -> None:
    x = noise(600)
    whole = sum_over(x, bars)[:, start : start + length]
    piece = sum_over(x[:, start : start + length], bars)
    assert torch.equal(piece[:, bars - 1 :], whole[:, bars - 1 :])


def test_a_running_sum_would_not_have_the_same_bits() -> None:
    """Why windows are built by doubling: a running sum depends on where the panel begins."""
    x = noise(600)

    def running(part: torch.Tensor) -> torch.Tensor:
        total = part.cumsum(dim=1)
        return total[:, 30:] - total[:, :-30]

    assert not torch.equal(running(x[:, 200:])[:, -100:], running(x)[:, -100:])


def test_a_count_counts() -> None:
    mask = torch.tensor([[True, False, True, True]])
    assert count_over(mask, 3).tolist() == [[1, 1, 2, 2]]


def test_a_window_needs_four_fifths() -> None:
    observed = torch.tensor([[True, True, True, True, False, False]])
    assert observed_over(observed, 5).tolist() == [[False, False, False, True, True, False]]


def test_a_mean_uses_only_present_values() -> None:
    x = torch.tensor([[1.0, 2.0, math.nan, 4.0, 5.0, math.nan]], dtype=torch.float64)
    assert mean_over(x, 5)[0].tolist() == pytest.approx([math.nan] * 4 + [3.0, math.nan], nan_ok=True)


def test_a_shift_longer_than_the_panel_is_all_missing() -> None:
    assert torch.isnan(shift(noise(5), 9)).all()


@given(seed=st.integers(0, 50), power=st.integers(0, 6))
def test_a_carried_value_is_the_last_one_within_the_window(seed: int, power: int) -> None:
    draw = np.random.default_rng(seed)
    kind = draw.choice(3, size=(2, 90), p=[0.15, 0.75, 0.1])  # a value, let through, stopped
    x = torch.from_numpy(np.where(kind == 0, draw.normal(size=kind.shape), np.nan))
    got = carry(x, torch.from_numpy(kind == 1), 2**power, ageing=1.0)
    for s, t in np.ndindex(kind.shape):
        age = 0
        while t - age >= 0 and kind[s, t - age] == 1:
            age += 1
        found = t - age >= 0 and kind[s, t - age] == 0 and age < 2**power
        expected = float(x[s, t - age]) + age if found else math.nan
        assert float(got[s, t]) == pytest.approx(expected, nan_ok=True, abs=1e-12)
