"""How does a program run over blocks of many bars, at the speed of the cache?

A block is computed tile by tile, a few instruments each, and within a tile instrument by instrument: all instructions
between two calls run over the bars of one instrument before they run over the next, in a few slots of memory that
stay in the innermost cache. A slot has room before its bars for those of earlier blocks, so what is read some bars
back is the same slot, read some places earlier. Only what calls need, or features are, lies in memory as a whole.
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
"""Cells (S * T) of a tile: few calls of torch, and what they read and write still fits the cache."""


@dataclass(frozen=True, slots=True)
class _Tile:
    """What is done for some instruments of a block: leaves that are copied to where they belong, and what then runs."""

    rows: slice
    leaves: list[tuple[int, Tensor]]
    runs: list[Callable[[], object]]


class BlockExecutor(Executor):
    """A program with its memory, for blocks of many bars.

    Args:
        program: what to run.
        rows, steps: S and T of every block.
        tile_rows: S of a tile; by default what makes `TILE_CELLS`.
    """

    def __init__(self, program: Program, rows: int, steps: int, tile_rows: int | None = None) -> None:
        self._rows, self._steps = rows, steps
        self._tile_rows = min(tile_rows or max(TILE_CELLS // steps, 1), rows)
        self._segments = segments_of(program)
        arena = Arena()
        self._homes = buffers_of(
            program, self._segments, arena, tile_cells=self._tile_rows * steps, block_cells=rows * steps
        )
        coder = MemoryPlanner(program, self._homes, arena, steps=steps)
        self._bases = np.array([self._homes[value].base for value in program.outputs])
        coded = [
            [part if isinstance(part, Call) else coder.code_of(part) for part in segment.parts]
            for segment in self._segments
        ]
        arena.finish(rows)
        super().__init__(program, arena.filled())
        bases, self._row_strides, tile_strides = np.array(arena.places, dtype=np.int64).reshape(-1, 3).T
        within = {place for segment in self._segments for place in segment.leaves}
        self._shared = [place for place in range(len(program.inputs)) if place not in within]
        self._tiles = [
            [
                self._tile(segment, parts, first, bases + first * tile_strides)
                for first in range(0, rows, self._tile_rows)
            ]
            for segment, parts in zip(self._segments, coded, strict=True)
        ]

    def push(self, leaves: Sequence[Tensor]) -> None:
        """Run once over the next block."""
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
        """Write what the last push computed to a table; see `features.engine.interpreter.write_out`."""
        machine.write_out(self.arena, self._bases, self._steps, span, at, lookbacks, values, mask)

    def block(self, value: int) -> Tensor:
        """Return where a value lies, (S, T)."""
        return self._stretch(self._homes[value].base, self._rows)

    def _tile(
        self,
        segment: ProgramSegment,
        parts: Sequence[machine.Numbers | Call],
        first: int,
        starts: machine.Numbers,
    ) -> _Tile:
        """Return all that is done for the tile of a segment that begins at an instrument."""
        rows = min(self._tile_rows, self._rows - first)

        def view(item: Any) -> Any:
            if not isinstance(item, Ref):
                return item
            home = self._homes[item.value]
            return self._stretch(home.base + (0 if home.is_tile else first * self._steps), rows)

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
