"""How are simple operations run over a block without the cost of a call for each?

A set of features is thousands of additions, comparisons and choices on a few hundred numbers each; called one by one
through torch, a call costs ten times the work. This is one compiled loop over a list of them, on one arena of float64.
Only operations are here that IEEE 754 or their definition fix to the last bit, so whoever computes them gets the same;
roots, logarithms and what runs across instruments stay with torch (features/engine/operators.py): torch's own root is
one bit off the rounded one now and then, so it is not the processor's.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from storage.jit import compiled

ADD, SUB, MUL, DIV, WHERE, OR, NOT, NEG, ABS, MAX, MIN, MEAN, COPY = range(13)
IS_NAN, IS_NUMBER, EQ, NE, GE, GT, LE, LT = range(13, 21)
"""Truth is 1.0 and falsehood 0.0, so `and` is MUL."""

Numbers = npt.NDArray[np.int64]
FIELDS: Final = 6
"""Of an instruction: operation, how many numbers, output, and three operands; one that an operation does not have is
its first."""
_U: Final = np.uint64
_WRITTEN_STEPS: Final = 32
"""Steps that are put in order at a time, so few that they stay in the innermost cache."""


def instruction(op: int, cells: int, out: int, *operands: int) -> list[int]:
    """Return the fields of an instruction, `FIELDS` of them."""
    return [op, cells, out, *operands, *[operands[0]] * (FIELDS - 3 - len(operands))]


@compiled(nogil=True, error_model="numpy")
def run(code: Any, places: Any, strides: Any, arena: Any, rows: int) -> None:
    """Run all instructions for the first row, then all for the next: what a row needs stays in the cache.

    Args:
        code: (n, FIELDS) int64; outputs and operands are indices into `places`.
        places: where in the arena each begins for the first row.
        strides: how much later it begins for the next.
        arena: float64; what an instruction writes never overlaps what it reads.
        rows: how often the list is run.
    """
    for row in range(rows):
        for at in range(code.shape[0]):
            op, at_o, at_x, at_y, at_z = code[at, 0], code[at, 2], code[at, 3], code[at, 4], code[at, 5]
            # An index that may be negative to the compiler costs fivefold, and so do slices: it counts who holds them.
            cells, o = _U(code[at, 1]), _U(places[at_o] + row * strides[at_o])
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


@compiled(nogil=True, error_model="numpy")
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
