"""Block-wise, multi-threaded computation of a feature set over a panel."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from threading import Lock
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from features.engine import interpreter as machine
from features.engine.block_executor import BlockExecutor
from features.engine.checked import checked_program
from features.engine.compiler import Program
from features.feature import Feature, FeatureBlock, deepest_lookback
from features.inputs import leaves_of
from features.panel.panel import Panel
from features.sets import get_set
from features.versioning.fingerprint import fingerprint

_BLOCK_CELLS: Final = 102_400
"""Maximum cells (S * T) of a block, so that what is written once per block still fits the outer cache."""
_BLOCK_STEPS: Final = (256, 2_048)
"""Approximate minimum and maximum steps of a block: history is copied once per block, and the bars of one instrument
should fit the innermost cache."""
_MIN_LOOKBACKS: Final = 3
"""A thread pays for its warm-up when it computes at least this many times the lookback."""


def build_features(panel: Panel, feature_set: str) -> FeatureBlock:
    """Compute a set over a panel, block by block, with the time axis split across torch's number of threads.

    The result depends neither on the block size nor on the number of threads (tests/features/test_build.py).

    Args:
        panel: (S, T).
        feature_set: name in `features.sets.feature_sets`.

    Returns:
        float32 values, 0.0 where invalid, and their mask, (S, T, F) both; computed in float64.

    Raises:
        SettingsError: there is no such set.
    """
    values, mask = compute(panel, get_set(feature_set))
    return block_of(panel, feature_set, values, mask)


def block_of(panel: Panel, feature_set: str, values: Tensor, mask: Tensor) -> FeatureBlock:
    """Wrap values and mask of a panel, (S, T, F), in a `FeatureBlock` with the current code's fingerprint."""
    features = get_set(feature_set)
    return FeatureBlock(
        names=tuple(item.name for item in features),
        values=values,
        mask=mask,
        instruments=panel.instruments,
        width_ns=panel.width_ns,
        ts_open_ns=panel.ts_open_ns,
        fingerprint=fingerprint(features),
        feature_set=feature_set,
        lookback_bars=deepest_lookback(features),
    )


def compute(panel: Panel, features: tuple[Feature, ...]) -> tuple[Tensor, Tensor]:
    """Return values and mask of features over a panel, as in `FeatureBlock`."""
    rows, steps = panel.n_instruments, panel.n_steps
    values = np.empty((rows, steps, len(features)), dtype=np.float32)
    mask = np.empty(values.shape, dtype=np.bool_)
    lookbacks = np.array([item.lookback_bars for item in features])
    min_steps = max(_MIN_LOOKBACKS * int(lookbacks.max()), _BLOCK_STEPS[0])
    spans = _split_steps(steps, min_steps, torch.get_num_threads())
    leaves, program = leaves_of(panel), checked_program(features)

    def fill(span: tuple[int, int]) -> None:
        with torch.inference_mode():
            _fill(leaves, program, lookbacks, values, mask, span)

    with single_thread(), ThreadPoolExecutor(len(spans)) as pool:
        list(pool.map(fill, spans))
    device = panel.status.device
    return torch.from_numpy(values).to(device), torch.from_numpy(mask).to(device)


def block_steps_of(rows: int, steps: int) -> int:
    """Return the number of steps per block, such that blocks of equal length cover all steps."""
    fewest, most = _BLOCK_STEPS
    wanted = min(max(_BLOCK_CELLS // max(rows, 1), fewest), most)
    blocks = max(-(-steps // wanted), 1)
    return max(-(-steps // blocks), 1)


def _fill(
    leaves: dict[str, Tensor],
    program: Program,
    lookbacks: machine.Numbers,
    values: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_],
    span: tuple[int, int],
) -> None:
    """Compute the steps of one span, starting one lookback before it."""
    if not values.size:
        return
    start, stop = span
    first = max(start - int(lookbacks.max()), 0)
    block = block_steps_of(values.shape[0], stop - first)
    run = BlockExecutor(program, values.shape[0], block)
    for at in range(first, stop, block):
        run.push([_cut(leaves[name], at, block) for name in program.leaves])
        inside = max(start - at, 0), min(stop - at, block)
        if inside[0] < inside[1]:
            run.write_out(inside, at + inside[0], lookbacks, values, mask)


def _cut(leaf: Tensor, start: int, block: int) -> Tensor:
    """Return one block of a leaf; the last block is padded at its end, which no earlier step can read."""
    piece = leaf[..., start : start + block]
    return piece if piece.shape[-1] == block else pad(piece, (0, block - piece.shape[-1]))


def _split_steps(steps: int, min_steps: int, threads: int) -> list[tuple[int, int]]:
    """Split the steps into one span per thread, none shorter than `min_steps`."""
    count = max(1, min(threads, steps // max(min_steps, 1)))
    edges = [steps * place // count for place in range(count + 1)]
    return list(pairwise(edges))


@contextmanager
def single_thread() -> Iterator[None]:
    """Limit torch to one thread inside the context.

    A pass over a block takes well under a millisecond, so the synchronization of two threads costs more than it
    gains: on two shared cores a proof took 10 s with two threads and 0.9 s with one (measured 2026-11-23).
    """
    with _LOCK:
        threads = _SAVED_THREADS[0] if _SAVED_THREADS else torch.get_num_threads()
        _SAVED_THREADS.append(threads)
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _LOCK:
            _SAVED_THREADS.pop()
            torch.set_num_threads(threads)


_LOCK: Final = Lock()
_SAVED_THREADS: Final[list[int]] = []
"""The original number of threads, one entry per active context: a second, nested or concurrent context would read 1
from torch and must not restore that."""
