"""Where does each value of a program lie while blocks are computed tile by tile?

A value that only one run of instructions reads lies in a slot, which the next instrument uses again. What a call of
torch reads or writes, or another run does, has a home: in the tile, if nothing beyond the tile asks for it, or else
in the block. What is read some bars back is in a slot with room before its first bar; that room is filled from where
the newest bars of the block before were put aside, a few numbers for each instrument.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from features.engine import interpreter as machine
from features.engine.compiler import (
    Call,
    History,
    Instruction,
    Operand,
    Part,
    Program,
    depths_of,
    operands_of,
)

_PAST: Final = -1
"""In place of how far on the next row is, until it is known how much each instrument puts aside."""
_LINE: Final = 8
"""Numbers of float64 in a line of the cache."""


@dataclass(slots=True)
class ProgramSegment:
    """What can be computed tile by tile, and then what looks across instruments.

    Args:
        parts: instructions and pointwise calls.
        across: calls on whole blocks.
        leaves: inputs that are read nowhere else, by their place among the inputs.
    """

    parts: list[Part] = field(default_factory=list)
    across: list[Call] = field(default_factory=list)
    leaves: list[int] = field(default_factory=list)


class Buffer(NamedTuple):
    """Where a value lies as a whole; in the tile, every tile writes over the one before."""

    base: int
    is_tile: bool


class Arena:
    """Which stretch of the memory is whose.

    Attributes:
        size: numbers spoken for.
        past_size: numbers that each instrument puts aside from block to block; those of one lie side by side.
        past_base, past_stride: where those of the first instrument begin, and how much later the next one's do.
        fills: (first, how many, what) stands there before the first block.
        pasts: the same of what one instrument puts aside, counted from its first.
        places: (first, how far on for the next row, how far on for each row before a tile) of what code speaks of.
    """

    def __init__(self) -> None:
        self.size, self.past_size, self.past_stride, self.past_base = 0, 0, 0, 0
        self.fills: list[tuple[int, int, float]] = []
        self.places: list[tuple[int, int, int]] = []
        self.pasts: list[tuple[int, int, float]] = []
        self._known: dict[tuple[int, int, int], int] = {}
        self._rows = 0

    def reserve(self, count: int, fill: float | None = None) -> int:
        """Return the first of so many numbers of its own, beginning with a line of the cache."""
        base = self.size
        # An odd number of lines, so that many stretches of one length do not fall on the same lines of the cache.
        self.size += (-(-count // _LINE) | 1) * _LINE
        if fill is not None:
            self.fills.append((base, count, fill))
        return base

    def reserve_past(self, depth: int, fill: float) -> int:
        """Return the place of a history that an instrument puts aside."""
        self.pasts.append((self.past_size, depth, fill))
        self.past_size += depth
        return self.place(self.past_size - depth, _PAST, _PAST)

    def finish(self, rows: int) -> None:
        """Lay out what is put aside, now that it is known how much it is."""
        self.past_stride = (-(-self.past_size // _LINE) | 1) * _LINE
        self.past_base, self._rows = self.reserve(rows * self.past_stride), rows
        stride = self.past_stride
        self.places = [
            (self.past_base + first, stride, stride)
            if row_stride == _PAST
            else (first, row_stride, tile_stride)
            for first, row_stride, tile_stride in self.places
        ]

    def filled(self) -> npt.NDArray[np.float64]:
        """Return the memory as it is before the first block."""
        memory = np.zeros(self.size)
        for first, count, fill in self.fills:
            memory[first : first + count] = fill
        past = np.zeros(self.past_stride)
        for first, depth, fill in self.pasts:
            past[first : first + depth] = fill
        memory[self.past_base :][: self._rows * self.past_stride].reshape(self._rows, -1)[:] = past
        return memory

    def place(self, base: int, row_stride: int = 0, tile_stride: int = 0) -> int:
        """Return the number by which code speaks of a place."""
        told = (base, row_stride, tile_stride)
        if told not in self._known:
            self._known[told] = len(self.places)
            self.places.append(told)
        return self._known[told]


def segments_of(program: Program) -> list[ProgramSegment]:
    """Return the parts of a program, cut where something looks across instruments."""
    segments = [ProgramSegment()]
    for part in program.parts:
        if isinstance(part, Call) and part.kind == "across":
            segments[-1].across.append(part)
        else:
            if segments[-1].across:
                segments.append(ProgramSegment())
            segments[-1].parts.append(part)
    return segments


def buffers_of(
    program: Program, segments: list[ProgramSegment], arena: Arena, *, tile_cells: int, block_cells: int
) -> dict[int, Buffer]:
    """Return the homes of all values that need one, and note with the segments which leaves are in their tiles."""
    readers: dict[int, set[tuple[int, int]]] = {value: {(-1, -1)} for value in program.outputs}
    makers: dict[int, tuple[int, int]] = {}
    for number, segment in enumerate(segments):
        for at, part in enumerate([*segment.parts, *segment.across]):
            # What looks across instruments is in no segment's tiles, and no two such calls are in one place.
            here = (number, at) if at < len(segment.parts) else (-1 - number, at)
            for operand in operands_of(part):
                readers.setdefault(operand.value, set()).add(here)
            for value in [part.out] if isinstance(part, Call) else [item.out for item in part]:
                makers[value] = here
    homes: dict[int, Buffer] = {}
    for value, told in enumerate(program.values):
        asking = readers.get(value)
        if told.constant is not None or told.is_box or not asking:
            continue
        within = {number for number, _ in asking}
        is_leaf = value in program.inputs
        maker = (min(within), -2) if is_leaf else makers[value]
        if asking == {maker} and isinstance(segments[maker[0]].parts[maker[1]], list):
            continue
        is_tile = within == {maker[0]} and maker[0] >= 0
        homes[value] = Buffer(arena.reserve(tile_cells if is_tile else block_cells), is_tile)
        if is_leaf and is_tile:
            segments[maker[0]].leaves.append(program.inputs.index(value))
    return homes


class MemoryPlanner:
    """Writes the code of parts, and lays out what it needs.

    Args:
        program, homes, arena: of the whole program; the arena grows.
        steps: T of a block.
    """

    def __init__(self, program: Program, homes: dict[int, Buffer], arena: Arena, *, steps: int) -> None:
        self._homes, self._arena, self._steps = homes, arena, steps
        self._room = -(-max(program.depths().values(), default=0) // _LINE) * _LINE
        self._slots: list[int] = []
        self._constants: dict[int, int] = {}
        for value, told in enumerate(program.values):
            if told.constant is not None:
                self._constants[value] = arena.place(arena.reserve(steps, told.constant))

    def code_of(self, part: list[Instruction]) -> machine.Numbers:
        """Return the code of instructions, (n, `machine.FIELDS`)."""
        self._code: list[list[int]] = []
        self._free = list(reversed(self._slots))
        self._depths = depths_of(operands_of(part))
        self._last = {operand.value: at for at, item in enumerate(part) for operand in item.operands}
        self._held: dict[int, dict[History | None, int]] = {}
        self._pasts: dict[History, int] = {}
        for at, (op, out, operands) in enumerate(part):
            for operand in operands:
                is_held = operand.history in self._held.get(operand.value, {})
                if operand.bars and not is_held:  # made elsewhere
                    self._hold(operand.history, self._read(Operand(operand.value)))
            self._make(op, out, [self._read(operand) for operand in operands])
            self._let_go(at, [*(operand.value for operand in operands), out])
        return np.array(self._code, dtype=np.int64)

    def _make(self, op: int, out: int, read: list[int]) -> None:
        """Compute a value: in the slot of what is read of it some bars back, in its home, or in any slot."""
        histories = [history for history in self._depths if history[0] == out]
        first = histories[0] if histories else None
        if first is None and out in self._homes:
            self._put(op, self._home(out), *read)
            return
        slot = self._slot(out, first)
        self._put(op, self._arena.place(slot), *read)
        if first is not None:
            self._put_aside(first, slot)
        for history in histories[1:]:
            self._hold(history, self._arena.place(slot))
        if out in self._homes:
            self._put(machine.COPY, self._home(out), self._arena.place(slot))

    def _hold(self, history: History, source: int) -> None:
        """Keep a value that lies elsewhere in a slot, with its past before it."""
        slot = self._slot(history[0], history)
        self._put(machine.COPY, self._arena.place(slot), source)
        self._put_aside(history, slot)

    def _slot(self, value: int, history: History | None) -> int:
        """Return where the bars of a slot begin that nobody uses, with a value's past before them."""
        if not self._free:
            self._slots.append(self._arena.reserve(self._room + self._steps) + self._room)
            self._free.append(self._slots[-1])
        slot = self._free.pop()
        self._held.setdefault(value, {})[history] = slot
        if history is not None:
            depth = self._depths[history]
            self._pasts[history] = self._arena.reserve_past(depth, float(history[1]))
            self._put(machine.COPY, self._arena.place(slot - depth), self._pasts[history], cells=depth)
        return slot

    def _put_aside(self, history: History, slot: int) -> None:
        """Keep the newest bars for the next block."""
        depth = self._depths[history]
        newest = self._arena.place(slot + self._steps - depth)
        self._put(machine.COPY, self._pasts[history], newest, cells=depth)

    def _read(self, operand: Operand) -> int:
        value = operand.value
        if value in self._constants:
            return self._constants[value]
        held = self._held.get(value, {})
        if operand.bars:
            return self._arena.place(held[operand.history] - operand.bars)
        return self._arena.place(next(iter(held.values()))) if held else self._home(value)

    def _let_go(self, at: int, values: list[int]) -> None:
        """Free the slots of values that nothing reads any more."""
        for value in values:
            if value in self._held and self._last.get(value, -1) <= at:
                self._free += self._held.pop(value).values()

    def _home(self, value: int) -> int:
        home = self._homes[value]
        return self._arena.place(home.base, self._steps, 0 if home.is_tile else self._steps)

    def _put(self, op: int, out: int, *read: int, cells: int | None = None) -> None:
        self._code.append(machine.instruction(op, self._steps if cells is None else cells, out, *read))
