"""Streaming executor of a program, one bar at a time.

A value that is read some bars back has a ring buffer with one place per bar that may still be read, and is written to
the next place at each bar. So nothing is copied, and a step costs the same however long the windows are.
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
        program: the program to run.
        rows: S of every block.
    """

    def __init__(self, program: Program, rows: int) -> None:
        plan = _StreamPlan(program, rows)
        super().__init__(program, np.repeat(np.array(plan.fills), rows))
        self._rows, self._pushes = rows, 0
        self._bases, self._rings, self._backs = np.array(plan.places, dtype=np.int64).T
        self._still, self._starts = np.zeros_like(self._bases), self._bases
        self._now, self._parts = plan.now, plan.parts

    def push(self, leaves: Sequence[Tensor]) -> None:
        """Run the program over the next bar."""
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
        """Return a view of a value's memory, (S, 1)."""
        return self.memory.as_strided((self._rows, 1), (1, 1), int(self._starts[self._now[value]]))


class _StreamPlan:
    """Memory layout and code of a program for streaming.

    Args:
        program: the program to run.
        rows: S of every block.

    Attributes:
        fills: initial contents of each place; constants keep theirs.
        places: (offset of the ring, its length, bars back) of each address that code refers to.
        now: address of each value at the current bar.
        parts: calls, and code for the interpreter.
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
        for value, info in enumerate(program.values):
            if info.constant is not None:
                self.now[value] = self._place(self._allocate([info.constant]), 1, 0)
                self._readers[value] += 1  # never released
        for value in program.inputs:
            self._assign(value)
            self._write_history(value)
        for part in program.parts:
            self._add_part(part)
        self._flush()

    def _add_part(self, part: Part) -> None:
        if isinstance(part, Call):
            self._flush()
            self._assign(part.out)
            self.parts.append(part)
            self._write_history(part.out)
            self._release(operands_of(part))
            return
        for op, out, operands in part:
            self._assign(out)
            read = [self._read(operand) for operand in operands]
            self._emit(op, self.now[out], *read)
            self._write_history(out)
            self._release(operands)

    def _assign(self, value: int) -> None:
        """Assign a value its address: in its ring, if it has one, or a free place."""
        if self._program.values[value].is_box:
            return
        if histories := self._histories(value):
            self.now[value] = self._allocate_ring(histories[0])
        elif self._free:
            self.now[value] = self._free.pop()
        else:
            self.now[value] = self._place(self._allocate([0.0]), 1, 0)

    def _write_history(self, value: int) -> None:
        """Write a value to its further rings, which have another initial value."""
        for history in self._histories(value)[1:]:
            self._emit(machine.COPY, self._allocate_ring(history), self.now[value])

    def _emit(self, op: int, out: int, *read: int) -> None:
        self._code.append(machine.instruction(op, self._rows, out, *read))

    def _histories(self, value: int) -> list[History]:
        return [history for history in self._depths if history[0] == value]

    def _allocate_ring(self, history: History) -> int:
        count = self._depths[history] + 1
        self._rings[history] = self._allocate([float(history[1])] * count), count
        return self._place(*self._rings[history], 0)

    def _allocate(self, fills: list[float]) -> int:
        self.fills += fills
        return len(self.fills) - len(fills)

    def _read(self, operand: Operand) -> int:
        if operand.bars:
            return self._place(*self._rings[operand.history], operand.bars)
        return self.now[operand.value]

    def _release(self, operands: Sequence[Operand]) -> None:
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
