"""Memory layout of a program's values for tile-by-tile execution.

A value that only one run of instructions reads lies in a slot, which the next instrument reuses. A value that a torch
call or another run reads or writes has a buffer: in the tile, if nothing outside the tile reads it, or else in the
block. A value that is read some bars back lies in a slot with room before its first bar; that room is filled from the
saved history, a few numbers per instrument that hold the newest bars of the previous block.
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
"""Placeholder for the row stride of saved history, until its size per instrument is known."""
_LINE: Final = 8
"""Number of float64 values in a cache line."""


@dataclass(slots=True)
class ProgramSegment:
    """Work that runs tile by tile, followed by calls across instruments.

    Args:
        parts: instructions and pointwise calls.
        across: calls on whole blocks.
        leaves: inputs that are read nowhere else, by their index among the inputs.
    """

    parts: list[Part] = field(default_factory=list)
    across: list[Call] = field(default_factory=list)
    leaves: list[int] = field(default_factory=list)


class Buffer(NamedTuple):
    """Memory for a whole value; tiles share a tile buffer, each overwriting the previous one."""

    base: int
    is_tile: bool


class Arena:
    """Allocator of the program's memory, in units of float64.

    Attributes:
        size: numbers allocated.
        past_size: numbers of history saved per instrument from block to block; those of one instrument are contiguous.
        past_base, past_stride: offset of the first instrument's history, and the distance to the next one's.
        fills: initial contents as (offset, count, value).
        pasts: initial contents of one instrument's history, relative to its start.
        places: (offset, stride per row, stride per row before the tile) of each address that code refers to.
    """

    def __init__(self) -> None:
        self.size, self.past_size, self.past_stride, self.past_base = 0, 0, 0, 0
        self.fills: list[tuple[int, int, float]] = []
        self.places: list[tuple[int, int, int]] = []
        self.pasts: list[tuple[int, int, float]] = []
        self._known: dict[tuple[int, int, int], int] = {}
        self._rows = 0

    def reserve(self, count: int, fill: float | None = None) -> int:
        """Allocate numbers, aligned to a cache line, and return their offset."""
        base = self.size
        # An odd number of lines, so that many allocations of one length do not map to the same cache lines.
        self.size += (-(-count // _LINE) | 1) * _LINE
        if fill is not None:
            self.fills.append((base, count, fill))
        return base

    def reserve_past(self, depth: int, fill: float) -> int:
        """Allocate saved history of `depth` bars per instrument and return its place."""
        self.pasts.append((self.past_size, depth, fill))
        self.past_size += depth
        return self.place(self.past_size - depth, _PAST, _PAST)

    def finish(self, rows: int) -> None:
        """Allocate the saved history, whose total size is now known."""
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
        """Return the memory with its initial contents."""
        memory = np.zeros(self.size)
        for first, count, fill in self.fills:
            memory[first : first + count] = fill
        past = np.zeros(self.past_stride)
        for first, depth, fill in self.pasts:
            past[first : first + depth] = fill
        memory[self.past_base :][: self._rows * self.past_stride].reshape(self._rows, -1)[:] = past
        return memory

    def place(self, base: int, row_stride: int = 0, tile_stride: int = 0) -> int:
        """Return the index by which code refers to an address."""
        address = (base, row_stride, tile_stride)
        if address not in self._known:
            self._known[address] = len(self.places)
            self.places.append(address)
        return self._known[address]


def segments_of(program: Program) -> list[ProgramSegment]:
    """Return the parts of a program, split after calls across instruments."""
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
    """Allocate buffers for all values that need one, and record in the segments which leaves lie in their tiles."""
    readers: dict[int, set[tuple[int, int]]] = {value: {(-1, -1)} for value in program.outputs}
    makers: dict[int, tuple[int, int]] = {}
    for number, segment in enumerate(segments):
        for at, part in enumerate([*segment.parts, *segment.across]):
            # Calls across instruments belong to no segment's tiles, and each gets a location of its own.
            here = (number, at) if at < len(segment.parts) else (-1 - number, at)
            for operand in operands_of(part):
                readers.setdefault(operand.value, set()).add(here)
            for value in [part.out] if isinstance(part, Call) else [item.out for item in part]:
                makers[value] = here
    buffers: dict[int, Buffer] = {}
    for value, info in enumerate(program.values):
        locations = readers.get(value)
        if info.constant is not None or info.is_box or not locations:
            continue
        within = {number for number, _ in locations}
        is_leaf = value in program.inputs
        maker = (min(within), -2) if is_leaf else makers[value]
        if locations == {maker} and isinstance(segments[maker[0]].parts[maker[1]], list):
            continue
        is_tile = within == {maker[0]} and maker[0] >= 0
        buffers[value] = Buffer(arena.reserve(tile_cells if is_tile else block_cells), is_tile)
        if is_leaf and is_tile:
            segments[maker[0]].leaves.append(program.inputs.index(value))
    return buffers


class MemoryPlanner:
    """Generates the code of parts and allocates the memory that it needs.

    Args:
        program, buffers, arena: of the whole program; the arena grows.
        steps: T of a block.
    """

    def __init__(self, program: Program, buffers: dict[int, Buffer], arena: Arena, *, steps: int) -> None:
        self._buffers, self._arena, self._steps = buffers, arena, steps
        self._room = -(-max(program.depths().values(), default=0) // _LINE) * _LINE
        self._slots: list[int] = []
        self._constants: dict[int, int] = {}
        for value, info in enumerate(program.values):
            if info.constant is not None:
                self._constants[value] = arena.place(arena.reserve(steps, info.constant))

    def code_of(self, part: list[Instruction]) -> machine.Numbers:
        """Return the code of instructions, (n, `machine.FIELDS`)."""
        self._code: list[list[int]] = []
        self._free = list(reversed(self._slots))
        self._depths = depths_of(operands_of(part))
        self._last = {operand.value: at for at, item in enumerate(part) for operand in item.operands}
        self._slot_of: dict[int, dict[History | None, int]] = {}
        self._pasts: dict[History, int] = {}
        for at, (op, out, operands) in enumerate(part):
            for operand in operands:
                is_loaded = operand.history in self._slot_of.get(operand.value, {})
                if operand.bars and not is_loaded:  # computed elsewhere
                    self._load_history(operand.history, self._read(Operand(operand.value)))
            self._compute(op, out, [self._read(operand) for operand in operands])
            self._release(at, [*(operand.value for operand in operands), out])
        return np.array(self._code, dtype=np.int64)

    def _compute(self, op: int, out: int, read: list[int]) -> None:
        """Compute a value into the slot of its history, into its buffer, or into any free slot."""
        histories = [history for history in self._depths if history[0] == out]
        first = histories[0] if histories else None
        if first is None and out in self._buffers:
            self._emit(op, self._buffer(out), *read)
            return
        slot = self._slot(out, first)
        self._emit(op, self._arena.place(slot), *read)
        if first is not None:
            self._save_history(first, slot)
        for history in histories[1:]:
            self._load_history(history, self._arena.place(slot))
        if out in self._buffers:
            self._emit(machine.COPY, self._buffer(out), self._arena.place(slot))

    def _load_history(self, history: History, source: int) -> None:
        """Copy a value from elsewhere into a slot, preceded by its history."""
        slot = self._slot(history[0], history)
        self._emit(machine.COPY, self._arena.place(slot), source)
        self._save_history(history, slot)

    def _slot(self, value: int, history: History | None) -> int:
        """Take a free slot, load a value's history in front of it, and return the offset of its first bar."""
        if not self._free:
            self._slots.append(self._arena.reserve(self._room + self._steps) + self._room)
            self._free.append(self._slots[-1])
        slot = self._free.pop()
        self._slot_of.setdefault(value, {})[history] = slot
        if history is not None:
            depth = self._depths[history]
            self._pasts[history] = self._arena.reserve_past(depth, float(history[1]))
            self._emit(machine.COPY, self._arena.place(slot - depth), self._pasts[history], cells=depth)
        return slot

    def _save_history(self, history: History, slot: int) -> None:
        """Save the newest bars for the next block."""
        depth = self._depths[history]
        newest = self._arena.place(slot + self._steps - depth)
        self._emit(machine.COPY, self._pasts[history], newest, cells=depth)

    def _read(self, operand: Operand) -> int:
        value = operand.value
        if value in self._constants:
            return self._constants[value]
        slots = self._slot_of.get(value, {})
        if operand.bars:
            return self._arena.place(slots[operand.history] - operand.bars)
        return self._arena.place(next(iter(slots.values()))) if slots else self._buffer(value)

    def _release(self, at: int, values: list[int]) -> None:
        """Free the slots of values without further readers."""
        for value in values:
            if value in self._slot_of and self._last.get(value, -1) <= at:
                self._free += self._slot_of.pop(value).values()

    def _buffer(self, value: int) -> int:
        buffer = self._buffers[value]
        return self._arena.place(buffer.base, self._steps, 0 if buffer.is_tile else self._steps)

    def _emit(self, op: int, out: int, *read: int, cells: int | None = None) -> None:
        self._code.append(machine.instruction(op, self._steps if cells is None else cells, out, *read))
