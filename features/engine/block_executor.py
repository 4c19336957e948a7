"""Cache-friendly executor of a program over blocks of many bars.

A block is computed in tiles of a few instruments, and within a tile instrument by instrument: all instructions between
two torch calls run over the bars of one instrument before the next, in a few memory slots that stay in the innermost
cache. A slot has room before its first bar for bars of earlier blocks, so reading a value some bars back is reading the
same slot at an earlier address. Only operands of torch calls and the features themselves are kept for the whole tile or
block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.fx.node import map_aggregate

from features.engine import interpreter as machine
from features.engine.compiler import Call, Program, Ref
from features.engine.executor import Executor
from features.engine.memory_planner import Arena, MemoryPlanner, ProgramSegment, buffers_of, segments_of

TILE_CELLS: Final = 12_800
"""Cells (S * T) of a tile: large enough for few torch calls, small enough that their operands fit the cache."""


@dataclass(frozen=True, slots=True)
class _Tile:
    """The work for some instruments of a block: leaves to copy to their buffers, then functions to run."""

    rows: slice
    leaves: list[tuple[int, Tensor]]
    runs: list[Callable[[], object]]


class BlockExecutor(Executor):
    """A program with its memory, for blocks of many bars.

    Args:
        program: the program to run.
        rows, steps: S and T of every block.
        tile_rows: S of a tile (default: from `TILE_CELLS`).
    """

    def __init__(self, program: Program, rows: int, steps: int, tile_rows: int | None = None) -> None:
        self._rows, self._steps = rows, steps
        self._tile_rows = min(tile_rows or max(TILE_CELLS // steps, 1), rows)
        self._segments = segments_of(program)
        arena = Arena()
        self._buffers = buffers_of(
            program, self._segments, arena, tile_cells=self._tile_rows * steps, block_cells=rows * steps
        )
        planner = MemoryPlanner(program, self._buffers, arena, steps=steps)
        self._bases = np.array([self._buffers[value].base for value in program.outputs])
        planned = [
            [part if isinstance(part, Call) else planner.code_of(part) for part in segment.parts]
            for segment in self._segments
        ]
        arena.finish(rows)
        super().__init__(program, arena.filled())
        # Contiguous, as the streaming executor's are: for strided ones the interpreter is compiled a second time.
        places = np.array(arena.places, dtype=np.int64).reshape(-1, 3)
        bases, self._row_strides, tile_strides = np.ascontiguousarray(places.T)
        within = {place for segment in self._segments for place in segment.leaves}
        self._shared = [place for place in range(len(program.inputs)) if place not in within]
        self._tiles = [
            [
                self._tile(segment, parts, first, bases + first * tile_strides)
                for first in range(0, rows, self._tile_rows)
            ]
            for segment, parts in zip(self._segments, planned, strict=True)
        ]

    def push(self, leaves: Sequence[Tensor]) -> None:
        """Run the program over the next block."""
        for place in self._shared:
            self.put(self.program.inputs[place], leaves[place])
        for segment, tiles in zip(self._segments, self._tiles, strict=True):
            for tile in tiles:
                for place, view in tile.leaves:
                    view.copy_(leaves[place][tile.rows])
                for run in tile.runs:
                    run()
            for call in segment.across:
                self.call(call)

    def write_out(
        self,
        span: tuple[int, int],
        at: int,
        lookbacks: machine.Numbers,
        values: npt.NDArray[np.float32],
        mask: npt.NDArray[np.bool_],
    ) -> None:
        """Write the values of the last push to a table; see `features.engine.interpreter.write_out`."""
        machine.write_out(self.arena, self._bases, self._steps, span, at, lookbacks, values, mask)

    def block(self, value: int) -> Tensor:
        """Return a view of a value's memory, (S, T)."""
        return self._stretch(self._buffers[value].base, self._rows)

    def _tile(
        self,
        segment: ProgramSegment,
        parts: Sequence[machine.Numbers | Call],
        first: int,
        starts: machine.Numbers,
    ) -> _Tile:
        """Return the tile of a segment that begins at instrument `first`."""
        rows = min(self._tile_rows, self._rows - first)

        def view(item: Any) -> Any:
            if not isinstance(item, Ref):
                return item
            buffer = self._buffers[item.value]
            return self._stretch(buffer.base + (0 if buffer.is_tile else first * self._steps), rows)

        runs: list[Callable[[], object]] = []
        for part in parts:
            if isinstance(part, Call):
                args, kwargs = (map_aggregate(side, view) for side in (part.args, part.kwargs))
                runs.append(partial(part.function, *args, **kwargs, out=view(Ref(part.out))))
            else:
                runs.append(partial(machine.run, part, starts, self._row_strides, self.arena, rows))
        leaves = [(place, view(Ref(self.program.inputs[place]))) for place in segment.leaves]
        return _Tile(slice(first, first + rows), leaves, runs)

    def _stretch(self, base: int, rows: int) -> Tensor:
        return self.memory.as_strided((rows, self._steps), (self._steps, 1), base)
