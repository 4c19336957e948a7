"""How does a panel become a block of features, and how do both lie on disk?

Files are safetensors, opened memory-mapped: a reader pays for the pages that it touches. What the numbers are
(instruments, clock, names, fingerprint) is JSON in the file's own header, under the key `tickwalk`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from features.inputs import View, leaves_of
from features.panel import Panel
from features.sets import fingerprint, get_set
from features.spec import FeatureBlock, evaluate
from storage.errors import ContractError
from storage.logs import get_logger

logger = get_logger(__name__)

_BLOCK_CELLS: Final = 200_000
"""Cells (S * T) computed at a time: memory stays bounded, and a pass stays near the cache."""
_KEY: Final = "tickwalk"


def build_features(panel: Panel, feature_set: str) -> FeatureBlock:
    """Compute a set over a panel, in blocks of time that overlap by the set's lookback.

    The blocks cannot be seen in the result: any slicing gives the same bits (tests/features/test_proof.py).

    Args:
        panel: (S, T).
        feature_set: name in `features.sets.FEATURE_SETS`.

    Returns:
        float32 values, 0.0 where invalid, and their mask, (S, T, F) both; computed in float64.

    Raises:
        SettingsError: there is no such set.
    """
    features = get_set(feature_set)
    lookback = max(item.lookback_bars for item in features)
    shape = (panel.n_instruments, panel.n_steps, len(features))
    values = torch.zeros(shape, dtype=torch.float32, device=panel.status.device)
    mask = torch.zeros(shape, dtype=torch.bool, device=panel.status.device)
    stride = max(_BLOCK_CELLS // max(panel.n_instruments, 1), lookback + 1)
    with torch.inference_mode(), on_one_core():
        for start in range(0, panel.n_steps, stride):
            part = panel.steps(max(start - lookback, 0), start + stride)
            skip = min(start, lookback)
            results = evaluate(View(leaves_of(part)), features, shape=(part.n_instruments, part.n_steps))
            for place, (value, known) in enumerate(results):
                values[:, start : start + stride, place] = value[:, skip:]
                mask[:, start : start + stride, place] = known[:, skip:]
    return FeatureBlock(
        names=tuple(item.name for item in features),
        values=values,
        mask=mask,
        instruments=panel.instruments,
        width_ns=panel.width_ns,
        ts_open_ns=panel.ts_open_ns,
        fingerprint=fingerprint(features),
        feature_set=feature_set,
        lookback_bars=lookback,
    )


@contextmanager
def on_one_core() -> Iterator[None]:
    """Compute on one thread inside.

    Passes over a block take well under a millisecond, and two threads that wait for each other at every one of
    them lose: on two cores shared with others a proof took 10 s on two threads and 0.9 s on one (measured
    2026-11-23).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def write_block(path: Path, block: FeatureBlock) -> None:
    """Write a block; a reader sees the old file or the new one, never a part."""
    header = {
        "kind": "features",
        "feature_set": block.feature_set,
        "names": block.names,
        "fingerprint": block.fingerprint,
        "lookback_bars": block.lookback_bars,
    }
    _write(path, {"values": block.values, "mask": block.mask}, header | _axes(block))


def read_block(path: Path) -> FeatureBlock:
    """Open a block, memory-mapped.

    Raises:
        ContractError: the file is missing, damaged, or holds no features.
    """
    tensors, header = _read(path, "features")
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


def write_panel(path: Path, panel: Panel) -> None:
    """Write a panel; a reader sees the old file or the new one, never a part."""
    _write(path, {"status": panel.status, **panel.values}, {"kind": "panel"} | _axes(panel))


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


def _axes(held: Panel | FeatureBlock) -> dict[str, object]:
    return {
        "instruments": held.instruments,
        "width_ns": held.width_ns,
        "start_ns": int(held.ts_open_ns[0]) if len(held.ts_open_ns) else 0,
        "steps": len(held.ts_open_ns),
    }


def _clock(header: dict[str, Any]) -> npt.NDArray[np.int64]:
    start_ns, step_ns = int(header["start_ns"]), int(header["width_ns"])
    return start_ns + step_ns * np.arange(header["steps"], dtype=np.int64)


def _write(path: Path, tensors: dict[str, Tensor], header: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(
            {name: tensor.cpu().contiguous() for name, tensor in tensors.items()},
            part,
            metadata={_KEY: json.dumps(header, sort_keys=True)},
        )
        with part.open("rb") as handle:
            os.fsync(handle.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    logger.info("tensors written", path=str(path), kind=header["kind"], size_bytes=path.stat().st_size)


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
