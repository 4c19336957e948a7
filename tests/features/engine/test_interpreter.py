"""The interpreter's operations, compared bit by bit with torch."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from features.engine import interpreter as machine
from features.engine.operators import OPERATIONS

NUMBERS = (0.0, -0.0, 1.0, -1.5, 1e-310, 3e300, math.inf, -math.inf, math.nan, 0.1, 7.0)
PAIRS = torch.tensor(list(itertools.product(NUMBERS, NUMBERS)), dtype=torch.float64)
ROWS, STEPS = 11, 11
CELLS = ROWS * STEPS


def on_machine(op: int, *operands: torch.Tensor) -> torch.Tensor:
    """Return the loop's result on blocks, row by row."""
    arena = np.full(4 * CELLS, 5.0)
    for place, operand in enumerate(operands):
        arena[place * CELLS : (place + 1) * CELLS] = operand.to(torch.float64).flatten().numpy()
    code = np.array([[op, STEPS, 3, 0, 1 % len(operands), 2 % len(operands)]])
    places, strides = np.arange(4) * CELLS, np.full(4, STEPS)
    machine.run(code, places, strides, arena, ROWS)
    return torch.from_numpy(arena[3 * CELLS :].reshape(ROWS, STEPS))


@pytest.mark.parametrize("function", OPERATIONS, ids=lambda item: item.__name__)
def test_an_operation_has_torchs_bits_for_every_kind_of_number(function: Any) -> None:
    x, y = PAIRS[:, 0].reshape(ROWS, STEPS), PAIRS[:, 1].reshape(ROWS, STEPS)
    op = OPERATIONS[function]
    if function.__name__ in ("and_", "or_", "invert"):
        x, y = x > 0.0, y > 0.0
    if op == machine.WHERE:
        expected, got = torch.where(x > 0.0, y, x), on_machine(op, x > 0.0, y, x)
    elif function.__name__ in ("isnan", "invert", "neg", "abs"):
        expected, got = function(x), on_machine(op, x)
    else:
        expected, got = function(x, y), on_machine(op, x, y)
    assert_same(expected, got, zeros=function.__name__ not in ("maximum", "minimum"))


def test_fused_operations_have_the_bits_of_separate_ones() -> None:
    x, y = PAIRS[:, 0].reshape(ROWS, STEPS), PAIRS[:, 1].reshape(ROWS, STEPS)
    assert_same(~torch.isnan(x), on_machine(machine.IS_NUMBER, x))
    least = torch.full_like(x, 0.1)
    assert_same(torch.where(y >= least, x / y, math.nan), on_machine(machine.MEAN, x, y, least), least=40)


def assert_same(expected: torch.Tensor, got: torch.Tensor, *, zeros: bool = True, least: int = 80) -> None:
    """Check for equal bits; torch's maximum of a zero and a negative zero depends on the vector lane."""
    expected = expected.to(torch.float64)
    assert torch.equal(torch.isnan(expected), torch.isnan(got))
    known = ~torch.isnan(expected)
    if not zeros:
        known &= (PAIRS != 0.0).any(dim=1).reshape(ROWS, STEPS)
    assert torch.equal(expected[known].view(torch.int64), got[known].view(torch.int64))
    assert int(known.sum()) > least
