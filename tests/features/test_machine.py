"""The compiled loop does to every number what torch does to it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from features import machine
from features.program import OPERATIONS
from features.windows import shift

NUMBERS = (0.0, -0.0, 1.0, -1.5, 1e-310, 3e300, math.inf, -math.inf, math.nan, 0.1, 7.0)
PAIRS = torch.tensor(list(itertools.product(NUMBERS, NUMBERS)), dtype=torch.float64)
ROWS, STEPS = 11, 11


def on_machine(op: int, *operands: torch.Tensor, last: int = 0) -> torch.Tensor:
    cells = ROWS * STEPS
    arena = np.full(5 * cells, 5.0)
    for place, operand in enumerate(operands):
        arena[place * cells : (place + 1) * cells] = operand.to(torch.float64).flatten().numpy()
    fields = [op, 4, 0, 1, 2 if op != machine.SHIFT else last]
    machine.run(np.array([fields]), np.arange(5) * cells, arena, ROWS, STEPS)
    return torch.from_numpy(arena[4 * cells :].reshape(ROWS, STEPS))


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
    expected = expected.to(torch.float64)
    assert torch.equal(torch.isnan(expected), torch.isnan(got))
    known = ~torch.isnan(expected)
    if function.__name__ in (
        "maximum",
        "minimum",
    ):  # of a zero and a negative zero, torch's own depends on the lane
        known &= (x != 0.0) | (y != 0.0)
    assert torch.equal(expected[known].view(torch.int64), got[known].view(torch.int64))
    assert int(known.sum()) > 80


@pytest.mark.parametrize("bars", range(1, STEPS))
def test_a_shift_reaches_into_the_block_before(bars: int) -> None:
    whole = torch.arange(ROWS * 2 * STEPS, dtype=torch.float64).reshape(ROWS, 2 * STEPS)
    got = on_machine(machine.SHIFT, whole[:, STEPS:], whole[:, :STEPS], last=bars)
    assert torch.equal(got, shift(whole, bars)[:, STEPS:])
