"""How does a program run for one bar after another?

What is read some bars back has a ring of places, one for each bar that may still be asked for, and takes the next one
at each bar. So nothing is moved, and a step costs the same however long the windows are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from features.engine import interpreter as machine
from features.engine.compiler import Call, History, Operand, Part, Program, operands_of
from features.engine.executor import Executor


class StreamExecutor(Executor):
    """A program with its memory, for blocks of one bar.

    Args:
        program: what to run.
        rows: S of every block.
    """

    def __init__(self, program: Program, rows: int) -> None:
        plan = _Plan(program, rows)
        super().__init__(program, np.repeat(np.array(plan.fills), rows))
        self._rows, self._pushes = rows, 0
        self._bases, self._rings, self._backs = np.array(plan.places, dtype=np.int64).T
        self._still, self._starts = np.zeros_like(self._bases), self._bases
        self._now, self._parts = plan.now, plan.parts

    def push(self, leaves: Sequence[Tensor]) -> None:
        """Run once over the next bar."""
        self._pushes += 1
        self._starts = (self._bases + (self._pushes - self._backs) % self._rings) * self._rows
        for value, leaf in zip(self.program.inputs, leaves, strict=True):
            self.put(value, leaf)
        for part in self._parts:
            if isinstance(part, Call):
                self.call(part)
            else:
                machine.run(part, self._starts, self._still, self.arena, 1)

    def block(self, value: int) -> Tensor:
        """Return where a value lies, (S, 1)."""
        return self.memory.as_strided((self._rows, 1), (1, 1), int(self._starts[self._now[value]]))


class _Plan:
    """Which place each value has.

    Args:
        program: what is run.
        rows: S of every block.

    Attributes:
        fills: what stands in each place before the first bar; constants stay there.
        places: (first of a ring, how many, how many bars ago) of each place that is spoken of.
        now: the place of each value at this bar.
        parts: calls, and code for the machine.
    """

    def __init__(self, program: Program, rows: int) -> None:
        self.fills: list[float] = []
        self.places: list[tuple[int, int, int]] = []
        self.now: dict[int, int] = {}
        self.parts: list[machine.Numbers | Call] = []
        self._program, self._rows = program, rows
        self._depths = program.depths()
        self._rings: dict[History, tuple[int, int]] = {}
        self._code: list[list[int]] = []
        self._free: list[int] = []
        self._readers = Counter(operand.value for part in program.parts for operand in operands_of(part))
        self._readers.update(program.outputs)
        for value, told in enumerate(program.values):
            if told.constant is not None:
                self.now[value] = self._place(self._begin([told.constant]), 1, 0)
                self._readers[value] += 1  # it is never let go
        for value in program.inputs:
            self._make(value)
            self._remember(value)
        for part in program.parts:
            self._take(part)
        self._flush()

    def _take(self, part: Part) -> None:
        if isinstance(part, Call):
            self._flush()
            self._make(part.out)
            self.parts.append(part)
            self._remember(part.out)
            self._let_go(operands_of(part))
            return
        for op, out, operands in part:
            self._make(out)
            read = [self._read(operand) for operand in operands]
            self._put(op, self.now[out], *read)
            self._remember(out)
            self._let_go(operands)

    def _make(self, value: int) -> None:
        """Give a value its place: in its ring, if it has one, or in a place that is free."""
        if self._program.values[value].is_box:
            return
        if histories := self._histories(value):
            self.now[value] = self._begin_ring(histories[0])
        elif self._free:
            self.now[value] = self._free.pop()
        else:
            self.now[value] = self._place(self._begin([0.0]), 1, 0)

    def _remember(self, value: int) -> None:
        """Write a value into its other rings, where what stands before the first bar differs."""
        for history in self._histories(value)[1:]:
            self._put(machine.COPY, self._begin_ring(history), self.now[value])

    def _put(self, op: int, out: int, *read: int) -> None:
        self._code.append(machine.instruction(op, self._rows, out, *read))

    def _histories(self, value: int) -> list[History]:
        return [history for history in self._depths if history[0] == value]

    def _begin_ring(self, history: History) -> int:
        count = self._depths[history] + 1
        self._rings[history] = self._begin([float(history[1])] * count), count
        return self._place(*self._rings[history], 0)

    def _begin(self, fills: list[float]) -> int:
        self.fills += fills
        return len(self.fills) - len(fills)

    def _read(self, operand: Operand) -> int:
        if operand.bars:
            return self._place(*self._rings[operand.history], operand.bars)
        return self.now[operand.value]

    def _let_go(self, operands: Sequence[Operand]) -> None:
        for operand in operands:
            self._readers[operand.value] -= 1
            place = self.now.get(operand.value)
            if not self._readers[operand.value] and place is not None and self.places[place][1] == 1:
                self._free.append(place)

    def _place(self, base: int, ring: int, back: int) -> int:
        self.places.append((base, ring, back))
        return len(self.places) - 1

    def _flush(self) -> None:
        if self._code:
            self.parts.append(np.array(self._code, dtype=np.int64))
            self._code = []
