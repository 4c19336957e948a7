"""How are simple operations run over a block without the cost of a call for each?

A set of features is thousands of additions, comparisons and choices on a few hundred numbers each; called one by one
through torch, a call costs ten times the work. This is one compiled loop over a list of them, on one arena of
float64. Only operations are here that IEEE 754 or their definition fix to the last bit, so whoever computes them
gets the same; logarithms and what runs across instruments stay with torch (features/stream.py).
"""

from __future__ import annotations

from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt

ADD, SUB, MUL, DIV, WHERE, IS_NAN, EQ, NE, GE, GT, LE, LT, OR, NOT, NEG, ABS, MAX, MIN, SHIFT, COPY = range(
    20
)
"""Truth is 1.0 and falsehood 0.0, so `and` is MUL."""

Code = npt.NDArray[np.int64]
FIELDS: Final = 5
"""Of an instruction: operation, output, and up to three operands (of SHIFT: later block, earlier block, steps)."""


_TILE_CELLS: Final = 1024
"""Numbers of each block that all instructions run over before they run over the next: they stay in the cache."""


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _run_rows(code: Any, places: Any, arena: Any, rows: int, steps: int) -> None:
    cells = rows * steps
    for at in range(code.shape[0]):
        op = code[at, 0]
        o = arena[places[code[at, 1]] : places[code[at, 1]] + cells]
        x = arena[places[code[at, 2]] : places[code[at, 2]] + cells]
        y = arena[places[code[at, 3]] : places[code[at, 3]] + cells]
        if op == ADD:
            for i in range(cells):
                o[i] = x[i] + y[i]
        elif op == SUB:
            for i in range(cells):
                o[i] = x[i] - y[i]
        elif op == MUL:
            for i in range(cells):
                o[i] = x[i] * y[i]
        elif op == DIV:
            for i in range(cells):
                o[i] = x[i] / y[i]
        elif op == WHERE:
            z = arena[places[code[at, 4]] : places[code[at, 4]] + cells]
            for i in range(cells):  # both are read, or the loop has a branch in it
                yes, no = y[i], z[i]
                o[i] = yes if x[i] != 0.0 else no
        elif op == SHIFT:  # x is the later block, y the one before it
            rest = code[at, 4]
            # Rows lie one behind the other, so all of them move at once; what came in from a neighbour is mended.
            # Each part is cut out first: an index that is a sum may be negative to the compiler, and costs fivefold.
            if 2 * rest <= steps:
                moved = o[rest:]
                for i in range(cells - rest):
                    moved[i] = x[i]
                for begin in range(0, cells, steps):
                    head, tail = o[begin : begin + rest], y[begin + steps - rest : begin + steps]
                    for i in range(rest):
                        head[i] = tail[i]
            else:
                moved = y[steps - rest :]
                for i in range(cells - steps + rest):
                    o[i] = moved[i]
                for begin in range(0, cells, steps):
                    tail, head = o[begin + rest : begin + steps], x[begin : begin + steps - rest]
                    for i in range(steps - rest):
                        tail[i] = head[i]
        elif op == IS_NAN:
            for i in range(cells):
                o[i] = 1.0 if x[i] != x[i] else 0.0
        elif op == EQ:
            for i in range(cells):
                o[i] = 1.0 if x[i] == y[i] else 0.0
        elif op == NE:
            for i in range(cells):
                o[i] = 1.0 if x[i] != y[i] else 0.0
        elif op == GE:
            for i in range(cells):
                o[i] = 1.0 if x[i] >= y[i] else 0.0
        elif op == GT:
            for i in range(cells):
                o[i] = 1.0 if x[i] > y[i] else 0.0
        elif op == LE:
            for i in range(cells):
                o[i] = 1.0 if x[i] <= y[i] else 0.0
        elif op == LT:
            for i in range(cells):
                o[i] = 1.0 if x[i] < y[i] else 0.0
        elif op == OR:
            for i in range(cells):
                o[i] = 1.0 if x[i] + y[i] != 0.0 else 0.0
        elif op == NOT:
            for i in range(cells):
                o[i] = 1.0 - x[i]
        elif op == NEG:
            for i in range(cells):
                o[i] = -x[i]
        elif op == ABS:
            for i in range(cells):
                o[i] = abs(x[i])
        elif op == MAX:  # NaN where either is; of a zero and a negative zero torch fixes neither
            for i in range(cells):
                o[i] = x[i] if x[i] != x[i] or x[i] > y[i] else y[i]
        elif op == MIN:
            for i in range(cells):
                o[i] = x[i] if x[i] != x[i] or x[i] < y[i] else y[i]
        else:
            for i in range(cells):
                o[i] = x[i]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def run(code: Any, places: Any, arena: Any, rows: int, steps: int) -> None:
    """Run instructions over blocks of `rows * steps` numbers.

    Args:
        code: (n, FIELDS) int64; outputs and operands are indices into `places`.
        places: where in the arena each block begins.
        arena: float64.
        rows, steps: shape of each block, C order.
    """
    tile = max(1, _TILE_CELLS // steps)
    for first in range(0, rows, tile):
        _run_rows(code, places + first * steps, arena, min(tile, rows - first), steps)
