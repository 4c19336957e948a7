"""Compiled interpreter for element-wise operations over blocks of float64.

A feature set is thousands of additions, comparisons and selections on a few hundred numbers each; called one by one
through torch, the call overhead is ten times the work. This is one compiled loop over a list of instructions, on one
arena of float64. It implements only operations whose result IEEE 754 or their definition fixes to the last bit. Roots,
logarithms and functions across instruments stay with torch (features/engine/operators.py): torch's root is sometimes
one bit off the correctly rounded one, so it is not the processor's instruction.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from storage.jit import compiled

ADD, SUB, MUL, DIV, WHERE, OR, NOT, NEG, ABS, MAX, MIN, MEAN, COPY = range(13)
IS_NAN, IS_NUMBER, EQ, NE, GE, GT, LE, LT = range(13, 21)
"""True is 1.0 and false 0.0, so `and` is MUL."""

Numbers = npt.NDArray[np.int64]
FIELDS: Final = 6
"""Fields of an instruction: operation, number of cells, output, three operands; unused operands repeat the first."""
_U: Final = np.uint64
_WRITTEN_STEPS: Final = 32
"""Number of steps transposed at a time, few enough to stay in the innermost cache."""


def instruction(op: int, cells: int, out: int, *operands: int) -> list[int]:
    """Return the `FIELDS` fields of an instruction."""
    return [op, cells, out, *operands, *[operands[0]] * (FIELDS - 3 - len(operands))]


@compiled(nogil=True, error_model="numpy")
def run(code: Any, places: Any, strides: Any, arena: Any, rows: int) -> None:
    """Run all instructions for one row after another, so that a row's data stays in the cache.

    Args:
        code: (n, FIELDS) int64; outputs and operands are indices into `places`.
        places: offset in the arena of each place, for the first row.
        strides: distance to the next row, for each place.
        arena: float64; the output of an instruction never overlaps its operands.
        rows: number of rows.
    """
    for row in range(rows):
        for at in range(code.shape[0]):
            op, at_o, at_x, at_y, at_z = code[at, 0], code[at, 2], code[at, 3], code[at, 4], code[at, 5]
            # Signed indices, which the compiler must check for negative values, cost fivefold, and so do slices, which
            # are reference-counted.
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
                for i in range(cells):  # read both, which keeps the loop free of branches
                    yes, no = arena[y + i], arena[z + i]
                    arena[o + i] = yes if arena[x + i] != 0.0 else no
            elif op == MEAN:  # x / y where y >= z
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
            elif op == MAX:  # NaN where either is; torch does not define the sign of max(0.0, -0.0)
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
    """Write raw values to a table with features last, as float32; unknown ones as 0.0 with the mask false.

    Args:
        arena: float64, not finite where unknown.
        bases: (F,) offset of each feature's first row.
        stride: distance to the next row.
        span: half-open range of steps to write.
        at: step of the table at which the span begins.
        lookbacks: (F,) number of initial steps of the table that are always unknown.
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
            out_values, out_mask = (
                values[row, to : to + steps].reshape(cells),
                mask[row, to : to + steps].reshape(cells),
            )
            for cell in range(cells):
                out_values[cell] = (
                    raw_cells[cell] if raw_cells[cell] - raw_cells[cell] == 0.0 else np.float32(0.0)
                )
            for cell in range(cells):
                out_mask[cell] = raw_cells[cell] - raw_cells[cell] == 0.0
