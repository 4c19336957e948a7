"""How does a program call torch, between what the compiled loop does?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.fx.node import map_aggregate

from features.engine.compiler import Call, Program, Ref
from features.engine.kernels import KERNELS


class Executor(ABC):
    """What a program's values are to torch: blocks of its memory, or things of torch's own.

    Args:
        program: what is run.
        arena: its memory.
    """

    def __init__(self, program: Program, arena: npt.NDArray[np.float64]) -> None:
        self.program, self.arena = program, arena
        self.memory = torch.from_numpy(arena)
        self._boxes: dict[int, Any] = {}

    @abstractmethod
    def push(self, leaves: Sequence[Tensor]) -> None:
        """Run once over the next block."""

    def raw(self) -> list[Tensor]:
        """Return the raw value of each feature on the last block, (S, T) each; they hold until the next push."""
        return [self.block(value) for value in self.program.outputs]

    @abstractmethod
    def block(self, value: int) -> Tensor:
        """Return where a value lies in the memory, (S, T) float64."""

    def call(self, call: Call) -> None:
        """Call one of torch's functions on whole blocks, or what gives the same bits faster."""
        args = map_aggregate(call.args, self._get)
        kernel = KERNELS.get(call.function)
        if kernel and args[0].dtype == torch.float64 and args[0].shape == self.block(call.out).shape:
            kernel(*args, out=self.block(call.out))
        else:
            self.put(call.out, call.function(*args, **map_aggregate(call.kwargs, self._get)))

    def put(self, value: int, found: Any) -> None:
        """Take what a leaf holds or a call returned."""
        if not self.program.values[value].is_box:
            self.block(value).copy_(found)
        else:
            is_plain = type(found) in (tuple, list)  # and not a tuple whose parts have names
            self._boxes[value] = map_aggregate(found, self._own) if is_plain else self._own(found)

    def _own(self, item: Any) -> Any:
        """Return a copy of what is a view of a block: that changes when another value takes its place."""
        is_view = isinstance(item, Tensor) and item.untyped_storage().data_ptr() == self.memory.data_ptr()
        return item.clone() if is_view else item

    def _get(self, item: Any) -> Any:
        if not isinstance(item, Ref):
            return item
        if self.program.values[item.value].is_box:
            return self._boxes[item.value]
        block = self.block(item.value)
        if item.shape != "full":
            block = block[:1] if item.shape == "row" else block[0]
        return block if item.dtype == torch.float64 else block.to(item.dtype)
