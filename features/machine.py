"""How are simple operations run over a block without the cost of a call for each?

A set of features is thousands of additions, comparisons and choices on a few hundred numbers each; called one by one
through torch, a call costs ten times the work. This is one compiled loop over a list of them, on one arena of
float64. Only operations are here that IEEE 754 or their definition fix to the last bit, so whoever computes them
gets the same; roots, logarithms and what runs across instruments stay with torch (features/kinds.py): torch's own
root is one bit off the rounded one now and then, so it is not the processor's.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

ADD, SUB, MUL, DIV, WHERE, OR, NOT, NEG, ABS, MAX, MIN, MEAN = range(12)
COPY, IS_NAN, IS_NUMBER, EQ, NE, GE, GT, LE, LT = range(12, 21)
FIRST_CHECKED: Final = COPY
"""What these and the following give is looked at: masks come from them, and others are masks if their operands are."""
"""Truth is 1.0 and falsehood 0.0, so `and` is MUL."""

Numbers = npt.NDArray[np.int64]
FIELDS: Final = 7
"""Of an instruction: operation, how many numbers, how many stand before those of the output and belong to them, output,
and three operands; one that an operation does not have is its first."""
KNOWN, WRITTEN = 1, 2
_U: Final = np.uint64


class Slots(NamedTuple):
    """What is known of slots, (N,) each but the first; the first slot stands for all memory of which nothing is.

    Args:
        owners: to which slot each place belongs.
        bases: where its numbers begin in the arena.
        state: 0, or what is so of all its numbers and those before them: that they are `values`, and do not stand
            there yet (`KNOWN`), or do (`WRITTEN`).
        values: see there.
    """

    owners: Numbers
    bases: Numbers
    state: Numbers
    values: npt.NDArray[np.float64]


def no_slots(places: int) -> Slots:
    """Return that nothing is known of any place."""
    nothing = np.zeros(1, dtype=np.int64)
    return Slots(np.zeros(places, dtype=np.int64), nothing, nothing.copy(), np.zeros(1))


_WRITTEN_STEPS: Final = 32
"""Steps that are put in order at a time, so few that they stay in the innermost cache."""


@numba.njit(nogil=True, cache=True, error_model="numpy")
def run(code: Any, places: Any, strides: Any, arena: Any, slots: Slots, rows: int) -> None:
    """Run all instructions for the first row, then all for the next: what a row needs stays in the cache.

    Where nothing is missing, a mask is true throughout, and all that is counted of it is one number. So a slot may be
    known to hold one number (`slots.state`), and what is computed of such is computed once instead of for every bar.

    Args:
        code: (n, FIELDS) int64; outputs and operands are indices into `places`.
        places: where in the arena each begins for the first row.
        strides: how much later it begins for the next.
        arena: float64; what an instruction writes never overlaps what it reads.
        slots: what is known of slots, written to.
        rows: how often the list is run.
    """
    owners, state, values, bases = slots.owners, slots.state, slots.values, slots.bases
    bits, known_bits = arena.view(np.int64), values.view(np.int64)
    for row in range(rows):
        for at in range(code.shape[0]):
            op, count, depth = code[at, 0], code[at, 1], code[at, 2]
            at_o, at_x, at_y, at_z = code[at, 3], code[at, 4], code[at, 5], code[at, 6]
            # An index that may be negative to the compiler costs fivefold, and so do slices: it counts who holds them.
            cells, out = _U(count), owners[at_o]
            o, before = _U(places[at_o] + row * strides[at_o]), _U(places[at_o] + row * strides[at_o] - depth)
            if op == WHERE and state[owners[at_x]]:
                # One of the two, throughout.
                at_x = at_y if values[owners[at_x]] != 0.0 else at_z
                at_y, at_z, op = at_x, at_x, COPY
            in_x, in_y, in_z = owners[at_x], owners[at_y], owners[at_z]
            if state[in_x] and state[in_y] and state[in_z]:
                values[out] = _once(op, values[in_x], values[in_y], values[in_z])
                same = 0
                for i in range(_U(depth)):
                    same += bits[before + i] == known_bits[out]
                state[out] = KNOWN if out and same == depth else 0
                if not state[out]:
                    for i in range(cells):
                        arena[o + i] = values[out]
                continue
            for slot in (in_x, in_y, in_z):
                if state[slot] == KNOWN:
                    base = _U(bases[slot])
                    for i in range(cells):
                        arena[base + i] = values[slot]
                    state[slot] = WRITTEN
            x = _U(places[at_x] + row * strides[at_x])
            y = _U(places[at_y] + row * strides[at_y])
            z = _U(places[at_z] + row * strides[at_z])
            if op == ADD:
                for i in range(cells):
                    arena[o + i] = arena[x + i] + arena[y + i]
            elif op == SUB:
                for i in range(cells):
                    arena[o + i] = arena[x + i] - arena[y + i]
            elif op == MUL:
                for i in range(cells):
                    arena[o + i] = arena[x + i] * arena[y + i]
            elif op == DIV:
                for i in range(cells):
                    arena[o + i] = arena[x + i] / arena[y + i]
            elif op == WHERE:
                for i in range(cells):  # both are read, or the loop has a branch in it
                    yes, no = arena[y + i], arena[z + i]
                    arena[o + i] = yes if arena[x + i] != 0.0 else no
            elif op == MEAN:  # of x over y of them, where y is at least z
                for i in range(cells):
                    mean = arena[x + i] / arena[y + i]
                    arena[o + i] = mean if arena[y + i] >= arena[z + i] else np.nan
            elif op == OR:
                for i in range(cells):
                    arena[o + i] = 1.0 if arena[x + i] + arena[y + i] != 0.0 else 0.0
            elif op == NOT:
                for i in range(cells):
                    arena[o + i] = 1.0 - arena[x + i]
            elif op == NEG:
                for i in range(cells):
                    arena[o + i] = -arena[x + i]
            elif op == ABS:
                for i in range(cells):
                    arena[o + i] = abs(arena[x + i])
            elif op == MAX:  # NaN where either is; of a zero and a negative zero torch fixes neither
                for i in range(cells):
                    one, other = arena[x + i], arena[y + i]
                    arena[o + i] = one if one != one or one > other else other
            elif op == MIN:
                for i in range(cells):
                    one, other = arena[x + i], arena[y + i]
                    arena[o + i] = one if one != one or one < other else other
            elif op == IS_NAN:
                for i in range(cells):
                    arena[o + i] = 1.0 if arena[x + i] != arena[x + i] else 0.0
            elif op == IS_NUMBER:
                for i in range(cells):
                    arena[o + i] = 1.0 if arena[x + i] == arena[x + i] else 0.0
            elif op == EQ:
                for i in range(cells):
                    arena[o + i] = 1.0 if arena[x + i] == arena[y + i] else 0.0
            elif op == NE:
                for i in range(cells):
                    arena[o + i] = 1.0 if arena[x + i] != arena[y + i] else 0.0
            elif op == GE:
                for i in range(cells):
                    arena[o + i] = 1.0 if arena[x + i] >= arena[y + i] else 0.0
            elif op == GT:
                for i in range(cells):
                    arena[o + i] = 1.0 if arena[x + i] > arena[y + i] else 0.0
            elif op == LE:
                for i in range(cells):
                    arena[o + i] = 1.0 if arena[x + i] <= arena[y + i] else 0.0
            elif op == LT:
                for i in range(cells):
                    arena[o + i] = 1.0 if arena[x + i] < arena[y + i] else 0.0
            else:
                for i in range(cells):
                    arena[o + i] = arena[x + i]
            state[out] = 0
            middle, last = bits[o + cells // _U(2)], bits[o + cells - _U(1)]
            if out and op >= FIRST_CHECKED and bits[o] == middle and middle == last:
                values[out] = arena[o]
                same = 0
                for i in range(_U(depth + count)):
                    same += bits[before + i] == last
                state[out] = WRITTEN if same == depth + count else 0


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _once(op: int, x: float, y: float, z: float) -> float:
    """Do an operation to one number of each operand."""
    o = np.nan
    if op == ADD:
        o = x + y
    elif op == SUB:
        o = x - y
    elif op == MUL:
        o = x * y
    elif op == DIV:
        o = x / y
    elif op == IS_NAN:
        o = 1.0 if x != x else 0.0
    elif op == IS_NUMBER:
        o = 1.0 if x == x else 0.0
    elif op == MEAN:
        o = x / y if y >= z else np.nan
    elif op == EQ:
        o = 1.0 if x == y else 0.0
    elif op == NE:
        o = 1.0 if x != y else 0.0
    elif op == GE:
        o = 1.0 if x >= y else 0.0
    elif op == GT:
        o = 1.0 if x > y else 0.0
    elif op == LE:
        o = 1.0 if x <= y else 0.0
    elif op == LT:
        o = 1.0 if x < y else 0.0
    elif op == OR:
        o = 1.0 if x + y != 0.0 else 0.0
    elif op == NOT:
        o = 1.0 - x
    elif op == NEG:
        o = -x
    elif op == ABS:
        o = abs(x)
    elif op == MAX:
        o = x if x != x or x > y else y
    elif op == MIN:
        o = x if x != x or x < y else y
    else:
        o = x
    return o


@numba.njit(nogil=True, cache=True, error_model="numpy")
def write_out(
    arena: Any, bases: Any, stride: int, span: Any, at: int, lookbacks: Any, values: Any, mask: Any
) -> None:
    """Write raw values to the order on disk, features last, as float32; what is not known as 0.0 and a mask.

    Args:
        arena: float64, not finite where unknown.
        bases: (F,) where each feature's first row begins.
        stride: how much later the next row begins.
        span: the first step of a row that is written, and the first that is not.
        at: the step of the table to which the first goes.
        lookbacks: (F,) how many of the table's first steps are unknown whatever is there.
        values, mask: (S, T, F), the table.
    """
    rows, _, features = values.shape
    wide = np.empty((_WRITTEN_STEPS, features), dtype=np.float32)
    for row in range(rows):
        for start in range(span[0], span[1], _WRITTEN_STEPS):
            steps, to = min(span[1] - start, _WRITTEN_STEPS), at + start - span[0]
            for place in range(features):
                raw = arena[bases[place] + row * stride + start :][:steps]
                for step in range(steps):
                    wide[step, place] = np.float32(raw[step])
                for step in range(min(lookbacks[place] - to, steps)):
                    wide[step, place] = np.nan
            cells = steps * features
            raw_cells = wide[:steps].reshape(cells)
            kept, known = (
                values[row, to : to + steps].reshape(cells),
                mask[row, to : to + steps].reshape(cells),
            )
            for cell in range(cells):
                kept[cell] = raw_cells[cell] if raw_cells[cell] - raw_cells[cell] == 0.0 else np.float32(0.0)
            for cell in range(cells):
                known[cell] = raw_cells[cell] - raw_cells[cell] == 0.0
