"""How are features computed block after block, each bar once?

A stream runs the plan of a set (features/plan.py) over blocks of `block_steps` bars and remembers, of every tensor
that is shifted, the last blocks that a shift may ask for. A shift by whole blocks is then one of those as it stands,
and any other is put together from two. So nothing is computed twice, however long the windows: a block of one bar is
the live step (features/step.py), and blocks that fit the cache are the build (features/build.py).

Simple operations run in one compiled loop (features/machine.py), everything else through torch, on the same memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.fx.node import map_aggregate

from features import machine
from features.inputs import View, leaves_of
from features.plan import trace
from features.program import Call, Program, Ref, compile_graph, drawn_panel
from features.spec import Feature, evaluate
from storage.errors import ContractError

_CHECK_STEPS: Final = 40
"""Steps beyond the lookback on which a program is compared with the functions it was made of."""


class Stream:
    """Raw values of features over panels that follow each other without a gap.

    Args:
        features: what to compute.
        rows: S of every block.
        block_steps: T of every block.

    Raises:
        ContractError: a feature looks back by other means than `features.windows`.
    """

    def __init__(self, features: Sequence[Feature], *, rows: int, block_steps: int) -> None:
        self._run = _Run(program(tuple(features), block_steps), rows, block_steps)

    @property
    def leaves(self) -> tuple[str, ...]:
        """The leaves that are read."""
        return self._run.program.leaves

    def push(self, leaves: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the raw value of each feature on the next block, (S, T) float64, NaN where unknown.

        What a feature reads before the first block is missing to it; the caller knows how many blocks there were.
        The tensors are the stream's own and hold until the next push.

        Args:
            leaves: as `features.inputs.leaves_of` returns them, of `block_steps` steps.
        """
        return self._run.push([leaves[name] for name in self.leaves])


class _Run:
    """A program with the memory that it works on."""

    def __init__(self, program: Program, rows: int, steps: int) -> None:
        self.program = program
        self._rows, self._steps, self._pushes = rows, steps, 0
        cells = rows * steps
        self._arena = np.repeat(np.array(program.fills), cells)
        self._memory = torch.from_numpy(self._arena)
        self._bases, self._rings, self._backs = (
            np.array(part, dtype=np.int64) for part in (program.bases, program.rings, program.backs)
        )
        self._places = np.zeros_like(self._bases)
        self._boxes: list[Any] = [None] * program.boxes

    def push(self, leaves: Sequence[Tensor]) -> list[Tensor]:
        """Run once over the next block."""
        self._pushes += 1
        self._places = (self._bases + (self._pushes - self._backs) % self._rings) * (self._rows * self._steps)
        for ref, leaf in zip(self.program.inputs, leaves, strict=True):
            self._put(ref, leaf)
        for part in self.program.parts:
            if isinstance(part, Call):
                args, kwargs = (map_aggregate(side, self._get) for side in (part.args, part.kwargs))
                self._put(part.out, part.function(*args, **kwargs))
            else:
                machine.run(part, self._places, self._arena, self._rows, self._steps)
        return [self._block(ref.place) for ref in self.program.outputs]

    def _block(self, place: int) -> Tensor:
        size = (self._rows, self._steps)
        return self._memory.as_strided(size, (self._steps, 1), int(self._places[place]))

    def _put(self, ref: Ref, value: Any) -> None:
        if ref.box >= 0:
            # A view of a block would change when another value takes its place.
            is_view = (
                isinstance(value, Tensor) and value.untyped_storage().data_ptr() == self._memory.data_ptr()
            )
            self._boxes[ref.box] = value.clone() if is_view else value
        else:
            self._block(ref.place).copy_(value)

    def _get(self, ref: Any) -> Any:
        if not isinstance(ref, Ref):
            return ref
        if ref.box >= 0:
            return self._boxes[ref.box]
        block = self._block(ref.place)
        if ref.shape != "full":
            block = block[:1] if ref.shape == "row" else block[0]
        return block if ref.dtype == torch.float64 else block.to(ref.dtype)


@lru_cache
def program(features: tuple[Feature, ...], block_steps: int) -> Program:
    """Return the program of these features, compared with the functions themselves on a drawn panel."""
    made = compile_graph(trace(features), block_steps)
    _compare(made, features, block_steps)
    return made


def _compare(made: Program, features: tuple[Feature, ...], block_steps: int) -> None:
    """Refuse a program that does not give the bits of the functions it was made of.

    It cannot where a feature reaches for other steps by itself (`cumsum`, `unfold`, a slice): such a function
    would see a block and take it for the panel.
    """
    deepest = max(item.lookback_bars for item in features)
    blocks = -(-(deepest + _CHECK_STEPS) // block_steps)
    panel = drawn_panel(blocks * block_steps)
    shape = (panel.n_instruments, panel.n_steps)
    with torch.inference_mode():
        expected = evaluate(View(leaves_of(panel)), features, shape=shape)
        run = _Run(made, shape[0], block_steps)
        got: list[list[Tensor]] = []
        for start in range(0, panel.n_steps, block_steps):
            leaves = leaves_of(panel.steps(start, start + block_steps))
            got.append([raw.clone() for raw in run.push([leaves[name] for name in made.leaves])])
        for place, (item, (value, mask)) in enumerate(zip(features, expected, strict=True)):
            raw = torch.cat([block[place] for block in got], 1)[:, item.lookback_bars :]
            value, mask = value[:, item.lookback_bars :], mask[:, item.lookback_bars :]
            is_same = torch.where(mask, raw, 0.0).view(torch.int64) == value.contiguous().view(torch.int64)
            if not bool((is_same & (mask == torch.isfinite(raw.to(torch.float32)))).all()):
                raise ContractError(
                    f"feature {item.name} gives other values block by block than over a whole panel",
                    hint="look back by features.windows alone (shift, sum_over, carry, ...), or declare the lookback "
                    "that the function has",
                )
