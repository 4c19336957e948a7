"""Base class of program executors: calls of torch functions on the program's memory."""

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
    """Executes a program whose values are views of its memory, or objects of torch.

    Args:
        program: the program to run.
        arena: its memory.
    """

    def __init__(self, program: Program, arena: npt.NDArray[np.float64]) -> None:
        self.program, self.arena = program, arena
        self.memory = torch.from_numpy(arena)
        self._boxes: dict[int, Any] = {}

    @abstractmethod
    def push(self, leaves: Sequence[Tensor]) -> None:
        """Run the program over the next block."""

    def raw(self) -> list[Tensor]:
        """Return the raw value of each feature on the last block, (S, T) each; valid until the next push."""
        return [self.block(value) for value in self.program.outputs]

    @abstractmethod
    def block(self, value: int) -> Tensor:
        """Return a view of a value's memory, (S, T) float64."""

    def call(self, call: Call) -> None:
        """Call a torch function on whole blocks, or its bit-identical kernel."""
        args = map_aggregate(call.args, self._get)
        kernel = KERNELS.get(call.function)
        if kernel and args[0].dtype == torch.float64 and args[0].shape == self.block(call.out).shape:
            kernel(*args, out=self.block(call.out))
        else:
            self.put(call.out, call.function(*args, **map_aggregate(call.kwargs, self._get)))

    def put(self, value: int, found: Any) -> None:
        """Store the value of a leaf or the result of a call."""
        if not self.program.values[value].is_box:
            self.block(value).copy_(found)
        else:
            is_plain = type(found) in (tuple, list)  # and not a named tuple
            self._boxes[value] = map_aggregate(found, self._own) if is_plain else self._own(found)

    def _own(self, item: Any) -> Any:
        """Copy an item if it is a view of the memory, which a later value would overwrite."""
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
