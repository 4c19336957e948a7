"""Compiled kernels across instruments, compared bit by bit with the torch functions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from features.engine.kernels import KERNELS
from tests.plugins.property_tests import examples

NUMBERS = (0.0, -0.0, 1.0, 0.1, -1.5, 5e-324, -1e-310, 7.999, -7.999, math.inf, -math.inf, math.nan)
BLOCKS = st.tuples(st.integers(0, 9), st.integers(0, 40)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.sampled_from(NUMBERS), fill=st.just(math.nan))
)


def assert_same(function: Any, x: torch.Tensor) -> int:
    """Check that the bits equal the function's, and return the number of finite values."""
    expected, got = function(x).expand(x.shape), torch.full_like(x, 5.0)
    KERNELS[function](x, out=got)
    nan = torch.isnan(expected)
    assert torch.equal(nan, torch.isnan(got))
    assert torch.equal(expected[~nan].view(torch.int64), got[~nan].view(torch.int64))
    return int((~nan).sum())


@pytest.mark.parametrize("function", KERNELS)
@settings(max_examples=examples(60), deadline=None)
@given(block=BLOCKS)
def test_a_kernel_has_equal_bits_for_ties_holes_and_unusual_numbers(function: Any, block: Any) -> None:
    assert_same(function, torch.from_numpy(block))


@pytest.mark.parametrize("function", KERNELS)
@pytest.mark.parametrize(("rows", "known"), [(0, 0), (1, 0), (2, 0), (3, 3 * 50), (200, 200 * 50)])
def test_a_kernel_knows_the_same_values(function: Any, rows: int, known: int) -> None:
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(rows, 50)))
    assert assert_same(function, x) == known
