"""Files of the feature store: published atomically, and tolerant of folders that belong to another user.

A file appears under its name when all of it is there; until then it is a hidden part beside it. A file of tensors
that does not fit into memory is written in pieces of time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from storage.atomic_write import publish, temporary_path
from storage.logs import get_logger

logger = get_logger(__name__)

KEY: Final = "tickwalk"
_TYPES: Final = {torch.float64: "F64", torch.float32: "F32", torch.bool: "BOOL", torch.uint8: "U8"}
_ALIGNED: Final = 8
"""A safetensors header is padded so that the numbers behind it begin at a multiple of this."""


class FileWriter:
    """Writes one file of tensors in pieces of time, in any order; what was never written is zero.

    The numbers go through the system's page cache and not through this process's memory. The file appears under
    its name when the writer is closed without an error, and not before.

    Args:
        path: the file; its folder is made.
        tensors: type and shape by name; the first axis is the instrument, the second the step.
        header: what the numbers are.
        is_synced: whether closing waits until the disk has it; not for what has checksums and can be made again.
    """

    def __init__(
        self,
        path: Path,
        tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
        header: dict[str, Any],
        *,
        is_synced: bool = True,
    ) -> None:
        self._is_synced = is_synced
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._part = temporary_path(path)
        self._kind = header["kind"]
        told: dict[str, Any] = {"__metadata__": {KEY: json.dumps(header, sort_keys=True)}}
        at = 0
        self._places: dict[str, tuple[int, int, tuple[int, ...]]] = {}
        # As `safetensors.save_file` lays them out: wide types first, then by name.
        for name in sorted(tensors, key=lambda name: (-tensors[name][0].itemsize, name)):
            dtype, shape = tensors[name]
            step_bytes = dtype.itemsize * int(np.prod(shape[2:]))
            self._places[name] = (at, step_bytes, shape)
            size = step_bytes * shape[0] * shape[1]
            told[name] = {
                "dtype": _TYPES[dtype],
                "shape": list(shape),
                "data_offsets": [at, at + size],
            }
            at += size
        text = json.dumps(told, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNED)
        self._begin, self._size = 8 + len(text), 8 + len(text) + at
        self._handle = os.open(self._part, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o644)
        try:
            os.pwrite(self._handle, len(text).to_bytes(8, "little") + text, 0)
            os.truncate(self._handle, self._size)
        except OSError:
            os.close(self._handle)
            self._part.unlink(missing_ok=True)
            raise

    def put(
        self, name: str, value: Tensor, *, step: int = 0, rows: npt.NDArray[np.int64] | None = None
    ) -> None:
        """Write a piece of a tensor.

        Args:
            name: which.
            value: instruments by steps; with the type of the tensor and its further axes.
            step: the first step of the piece.
            rows: at which index each of its instruments stands; by default 0, 1, 2 and so on.
        """
        begin, step_bytes, shape = self._places[name]
        data = value.detach().cpu().contiguous()
        if data.dtype == torch.bool:
            data = data.view(torch.uint8)
        places = range(data.shape[0]) if rows is None else rows.tolist()
        if not data.numel():
            return
        if tuple(data.shape[:2]) == shape[:2]:  # all of it: one write
            places, data = range(1), data.view(1, -1)
        for place, row in zip(places, data.numpy(), strict=True):
            _write_all(self._handle, row, self._begin + begin + (place * shape[1] + step) * step_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                publish(self._part, self._path, is_synced=self._is_synced)
                logger.info("tensors written", path=str(self._path), kind=self._kind, size_bytes=self._size)
        finally:
            os.close(self._handle)
            self._part.unlink(missing_ok=True)


def note_used(path: Path) -> None:
    """Note that a file was used: what was used of late stays the longest. One that is another user's goes by its age.

    Raises:
        FileNotFoundError: it was removed a moment ago.
    """
    with suppress(PermissionError):
        os.utime(path)


def remove(path: Path) -> bool:
    """Remove a file that can be made again; say whether it is gone. One in another user's folder stays."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("file not removed", path=str(path), reason=str(error))
        return False
    return True


def _write_all(handle: int, row: npt.NDArray[Any], at: int) -> None:
    left = row.reshape(-1).view(np.uint8).data
    while left:  # one call writes 2 GB at most
        done = os.pwrite(handle, left, at)
        left, at = left[done:], at + done
