"""How do a panel and a block of features lie on disk?

Files are safetensors, opened memory-mapped: a reader pays for the pages that it touches. What the numbers are
(instruments, clock, names, fingerprint) is JSON in the file's own header, under the key `tickwalk`. Both are
symbol-major, so what one instrument did over a stretch of time lies together. A block or panel that does not fit
into memory is written in pieces of time (`FileWriter`); either way a reader sees the old file or the new one.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from features.panel import Panel
from features.spec import FeatureBlock
from storage.errors import ContractError
from storage.logs import get_logger

logger = get_logger(__name__)

_KEY: Final = "tickwalk"
_TYPES: Final = {torch.float64: "F64", torch.float32: "F32", torch.bool: "BOOL", torch.uint8: "U8"}
_ALIGNED: Final = 8
"""A safetensors header is padded so that the numbers behind it begin at a multiple of this."""
_PIECE: Final = 1 << 24


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
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._kind = header["kind"]
        told: dict[str, Any] = {"__metadata__": {_KEY: json.dumps(header, sort_keys=True)}}
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
        os.pwrite(self._handle, len(text).to_bytes(8, "little") + text, 0)
        os.truncate(self._handle, self._size)

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
                if self._is_synced:
                    os.fsync(self._handle)
                self._part.replace(self._path)
                logger.info("tensors written", path=str(self._path), kind=self._kind, size_bytes=self._size)
        finally:
            os.close(self._handle)
            self._part.unlink(missing_ok=True)


def block_writer(
    path: Path,
    like: FeatureBlock,
    ts_open_ns: npt.NDArray[np.int64],
    *,
    sums: Mapping[str, int] | None = None,
) -> FileWriter:
    """Return a writer of a block; `like` tells all about it but its numbers and its clock.

    Args:
        path: the file.
        like: instruments, names and the rest.
        ts_open_ns: the clock.
        sums: by tensor, what `_sum` says of it, where it is known beforehand.
    """
    shape = (len(like.instruments), len(ts_open_ns), len(like.names))
    header = {
        "kind": "features",
        "feature_set": like.feature_set,
        "names": like.names,
        "fingerprint": like.fingerprint,
        "lookback_bars": like.lookback_bars,
    } | _axes(like.instruments, like.width_ns, ts_open_ns)
    if sums is not None:
        header |= {"sums": {**sums, "header": _header_sum(header)}}
    tensors = {"values": (torch.float32, shape), "mask": (torch.bool, shape)}
    return FileWriter(path, tensors, header, is_synced=sums is None)


def write_block(path: Path, block: FeatureBlock, *, with_sums: bool = False) -> None:
    """Write a block; a reader sees the old file or the new one, never a part.

    Args:
        path: the file.
        block: what it will hold.
        with_sums: whether its checksums are written too, so that who reads it can tell damage from features; then
            nobody waits for the disk.
    """
    sums = {name: _sum(getattr(block, name)) for name in ("values", "mask")} if with_sums else None
    with block_writer(path, block, block.ts_open_ns, sums=sums) as file:
        file.put("values", block.values)
        file.put("mask", block.mask)


def read_block(path: Path, *, with_sums: bool = False) -> FeatureBlock:
    """Open a block, memory-mapped.

    Args:
        path: the file.
        with_sums: whether all of it is read and compared with the checksums that were written with it.

    Raises:
        ContractError: the file is missing, damaged, or holds no features.
    """
    tensors, header = _read(path, "features")
    told = header.pop("sums", None)
    if with_sums and told != {
        **{name: _sum(tensors[name]) for name in tensors},
        "header": _header_sum(header),
    }:
        raise ContractError(f"{path} is damaged: it does not have its own checksums", hint="build it again")
    return FeatureBlock(
        names=tuple(header["names"]),
        values=tensors["values"],
        mask=tensors["mask"],
        instruments=tuple(header["instruments"]),
        width_ns=header["width_ns"],
        ts_open_ns=_clock(header),
        fingerprint=header["fingerprint"],
        feature_set=header["feature_set"],
        lookback_bars=header["lookback_bars"],
    )


def panel_writer(
    path: Path,
    *,
    instruments: tuple[str, ...],
    width_ns: int,
    ts_open_ns: npt.NDArray[np.int64],
    columns: tuple[str, ...],
    is_synced: bool = True,
) -> FileWriter:
    """Return a writer of a panel that carries these columns."""
    shape = (len(instruments), len(ts_open_ns))
    tensors = dict.fromkeys(columns, (torch.float64, shape)) | {"status": (torch.uint8, shape)}
    header = {"kind": "panel"} | _axes(instruments, width_ns, ts_open_ns)
    return FileWriter(path, tensors, header, is_synced=is_synced)


def write_panel(path: Path, panel: Panel) -> None:
    """Write a panel; a reader sees the old file or the new one, never a part."""
    with panel_writer(
        path,
        instruments=panel.instruments,
        width_ns=panel.width_ns,
        ts_open_ns=panel.ts_open_ns,
        columns=tuple(panel.values),
    ) as file:
        for name, value in panel.values.items():
            file.put(name, value)
        file.put("status", panel.status)


def read_panel(path: Path) -> Panel:
    """Open a panel, memory-mapped.

    Raises:
        ContractError: the file is missing, damaged, or holds no panel.
    """
    tensors, header = _read(path, "panel")
    return Panel(
        instruments=tuple(header["instruments"]),
        width_ns=header["width_ns"],
        ts_open_ns=_clock(header),
        status=tensors.pop("status"),
        values=tensors,
    )


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _axes(
    instruments: tuple[str, ...], width_ns: int, ts_open_ns: npt.NDArray[np.int64]
) -> dict[str, object]:
    return {
        "instruments": instruments,
        "width_ns": width_ns,
        "start_ns": int(ts_open_ns[0]) if len(ts_open_ns) else 0,
        "steps": len(ts_open_ns),
    }


def _clock(header: dict[str, Any]) -> npt.NDArray[np.int64]:
    start_ns, step_ns = int(header["start_ns"]), int(header["width_ns"])
    return start_ns + step_ns * np.arange(header["steps"], dtype=np.int64)


def _write_all(handle: int, row: npt.NDArray[Any], at: int) -> None:
    left = row.reshape(-1).view(np.uint8).data
    while left:  # one call writes 2 GB at most
        done = os.pwrite(handle, left, at)
        left, at = left[done:], at + done


def _sum(value: Tensor) -> int:
    """Return the CRC-32 of a tensor's bytes; it tells damage (2.3 GB/s of one core, measured 2026-11-26)."""
    data = value.detach().cpu().contiguous()
    return zlib.crc32((data.view(torch.uint8) if data.dtype == torch.bool else data).numpy().data)


def _header_sum(header: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(header, sort_keys=True).encode())


def file_sum(path: Path) -> int:
    """Return the CRC-32 of a file."""
    found = 0
    with path.open("rb") as file:
        while data := file.read(_PIECE):
            found = zlib.crc32(data, found)
    return found


def _read(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    hint = "build it again: tickwalk nightly"
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            if header.get("kind") != kind:
                raise ContractError(
                    f"{path} holds {header.get('kind', 'something else')}, not {kind}", hint=hint
                )
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118  (not a mapping)
    except (OSError, SafetensorError) as error:
        raise ContractError(f"{path} cannot be read as {kind}: {error}", hint=hint) from error
