"""The compiled loop does to every number what torch does to it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from features import machine
from features.kinds import OPERATIONS

NUMBERS = (0.0, -0.0, 1.0, -1.5, 1e-310, 3e300, math.inf, -math.inf, math.nan, 0.1, 7.0)
PAIRS = torch.tensor(list(itertools.product(NUMBERS, NUMBERS)), dtype=torch.float64)
ROWS, STEPS = 11, 11
CELLS = ROWS * STEPS


def on_machine(op: int, *operands: torch.Tensor) -> torch.Tensor:
    """What the loop makes of blocks, row by row."""
    arena = np.full(4 * CELLS, 5.0)
    for place, operand in enumerate(operands):
        arena[place * CELLS : (place + 1) * CELLS] = operand.to(torch.float64).flatten().numpy()
    code = np.array([[op, STEPS, 0, 3, 0, 1 % len(operands), 2 % len(operands)]])
    places, strides = np.arange(4) * CELLS, np.full(4, STEPS)
    machine.run(code, places, strides, arena, machine.no_slots(4), ROWS)
    return torch.from_numpy(arena[3 * CELLS :].reshape(ROWS, STEPS))


def of_known(op: int, *operands: torch.Tensor) -> torch.Tensor:
    """What the loop makes of slots that it knows to hold one number each, cell by cell."""
    found = []
    for numbers in zip(*(operand.to(torch.float64).flatten().tolist() for operand in operands), strict=True):
        values = np.array([0.0, *numbers, *[0.0] * (4 - len(numbers))])
        state = np.array([0, *[machine.KNOWN] * len(numbers), *[0] * (4 - len(numbers))])
        slots = machine.Slots(np.arange(1, 5), np.arange(5), state, values)
        arena = np.full(5, 5.0)
        code = np.array([[op, 1, 0, 3, 0, 1 % len(numbers), 2 % len(numbers)]])
        machine.run(code, np.arange(1, 5), np.zeros(4, dtype=np.int64), arena, slots, 1)
        assert slots.state[4] == machine.KNOWN
        found.append(slots.values[4])
    return torch.tensor(found, dtype=torch.float64).reshape(ROWS, STEPS)


@pytest.mark.parametrize("run", [on_machine, of_known])
@pytest.mark.parametrize("function", OPERATIONS, ids=lambda item: item.__name__)
def test_an_operation_has_torchs_bits_for_every_kind_of_number(function: Any, run: Any) -> None:
    x, y = PAIRS[:, 0].reshape(ROWS, STEPS), PAIRS[:, 1].reshape(ROWS, STEPS)
    op = OPERATIONS[function]
    if function.__name__ in ("and_", "or_", "invert"):
        x, y = x > 0.0, y > 0.0
    if op == machine.WHERE:
        expected, got = torch.where(x > 0.0, y, x), run(op, x > 0.0, y, x)
    elif function.__name__ in ("isnan", "invert", "neg", "abs"):
        expected, got = function(x), run(op, x)
    else:
        expected, got = function(x, y), run(op, x, y)
    assert_same(expected, got, zeros=function.__name__ not in ("maximum", "minimum"))


@pytest.mark.parametrize("run", [on_machine, of_known])
def test_operations_in_one_have_the_bits_of_both(run: Any) -> None:
    x, y = PAIRS[:, 0].reshape(ROWS, STEPS), PAIRS[:, 1].reshape(ROWS, STEPS)
    assert_same(~torch.isnan(x), run(machine.IS_NUMBER, x))
    least = torch.full_like(x, 0.1)
    assert_same(torch.where(y >= least, x / y, math.nan), run(machine.MEAN, x, y, least), least=40)


def assert_same(expected: torch.Tensor, got: torch.Tensor, *, zeros: bool = True, least: int = 80) -> None:
    """Refuse other bits; of a zero and a negative zero, torch's own greatest depends on the lane."""
    expected = expected.to(torch.float64)
    assert torch.equal(torch.isnan(expected), torch.isnan(got))
    known = ~torch.isnan(expected)
    if not zeros:
        known &= (PAIRS != 0.0).any(dim=1).reshape(ROWS, STEPS)
    assert torch.equal(expected[known].view(torch.int64), got[known].view(torch.int64))
    assert int(known.sum()) > least


def test_a_slot_is_known_only_if_all_its_numbers_and_those_before_it_are_one() -> None:
    for before, numbers, is_known in (
        (1.0, [2.0, 2.0, 2.0, 2.0], True),
        (0.0, [2.0, 2.0, 2.0, 2.0], False),
        (1.0, [2.0, 1.0, 2.0, 2.0], False),
    ):
        # One slot holds numbers at 0 to 3; what is compared with 1.5 goes to 5 to 8, with one number before it.
        arena = np.array([*numbers, before, *[9.0] * 4, *[1.5] * 4])
        slots = machine.Slots(np.array([0, 0, 1]), np.array([0, 5]), np.zeros(2, dtype=np.int64), np.zeros(2))
        code = np.array([[machine.GE, 4, 1, 2, 0, 1, 0]])
        machine.run(code, np.array([0, 9, 5]), np.zeros(3, dtype=np.int64), arena, slots, 1)
        assert (slots.state[1] == machine.WRITTEN) == is_known
        assert arena[5:9].tolist() == [float(number > 1.5) for number in numbers]


def test_what_is_known_of_a_slot_is_written_out_when_numbers_meet_it() -> None:
    arena = np.array([1.0, 2.0, 3.0, 9.0, 9.0, 9.0, 0.0, 0.0, 0.0])
    slots = machine.Slots(
        np.array([0, 1, 0]), np.array([0, 3]), np.array([0, machine.KNOWN]), np.array([0.0, 10.0])
    )
    code = np.array([[machine.MUL, 3, 0, 2, 0, 1, 0]])
    machine.run(code, np.array([0, 3, 6]), np.zeros(3, dtype=np.int64), arena, slots, 1)
    assert arena.tolist() == [1.0, 2.0, 3.0, 10.0, 10.0, 10.0, 10.0, 20.0, 30.0]
    assert slots.state.tolist() == [0, machine.WRITTEN]
