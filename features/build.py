"""How does a panel become a block of features?"""

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
"""Cells (S * T) of a block at most: what is written once a block then still fits the outer cache."""
_BLOCK_STEPS: Final = (256, 2_048)
"""A block has at least and at most about so many steps: what is remembered is moved once a block, and the bars of one
instrument should fit the innermost cache."""
_LEAST_LOOKBACKS: Final = 3
"""A thread is worth its warm-up when it computes so many times what it must look back."""


def build_features(panel: Panel, feature_set: str) -> FeatureBlock:
    """Compute a set over a panel, block by block; torch's threads share the time axis among them.

    Neither the blocks nor the threads can be seen in the result (tests/features/test_build.py).

    Args:
        panel: (S, T).
        feature_set: name in `features.sets.FEATURE_SETS`.

    Returns:
        float32 values, 0.0 where invalid, and their mask, (S, T, F) both; computed in float64.

    Raises:
        SettingsError: there is no such set.
    """
    values, mask = compute(panel, get_set(feature_set))
    return block_of(panel, feature_set, values, mask)


def block_of(panel: Panel, feature_set: str, values: Tensor, mask: Tensor) -> FeatureBlock:
    """Return values and mask of a panel, (S, T, F), as a block of this code's features."""
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
    least = max(_LEAST_LOOKBACKS * int(lookbacks.max()), _BLOCK_STEPS[0])
    parts = _parts(steps, least, torch.get_num_threads())
    leaves, made = leaves_of(panel), checked_program(features)

    def fill(part: tuple[int, int]) -> None:
        with torch.inference_mode():
            _fill(leaves, made, lookbacks, values, mask, part)

    with single_thread(), ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(fill, parts))
    device = panel.status.device
    return torch.from_numpy(values).to(device), torch.from_numpy(mask).to(device)


def block_steps_of(rows: int, steps: int) -> int:
    """Return how many steps a block has, so that a few of one length make up the steps."""
    least, most = _BLOCK_STEPS
    wanted = min(max(_BLOCK_CELLS // max(rows, 1), least), most)
    blocks = max(-(-steps // wanted), 1)
    return max(-(-steps // blocks), 1)


def _fill(
    leaves: dict[str, Tensor],
    made: Program,
    lookbacks: machine.Numbers,
    values: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_],
    part: tuple[int, int],
) -> None:
    """Compute the steps of one part, from as far before it as the features look back."""
    if not values.size:
        return
    start, stop = part
    first = max(start - int(lookbacks.max()), 0)
    block = block_steps_of(values.shape[0], stop - first)
    run = BlockExecutor(made, values.shape[0], block)
    for at in range(first, stop, block):
        run.push([_cut(leaves[name], at, block) for name in made.leaves])
        span = max(start - at, 0), min(stop - at, block)
        if span[0] < span[1]:
            run.write_out(span, at + span[0], lookbacks, values, mask)


def _cut(leaf: Tensor, start: int, block: int) -> Tensor:
    """Return a block of a leaf; the last one is filled up behind, which nothing before it can read."""
    piece = leaf[..., start : start + block]
    return piece if piece.shape[-1] == block else pad(piece, (0, block - piece.shape[-1]))


def _parts(steps: int, least: int, threads: int) -> list[tuple[int, int]]:
    """Cut the steps into as many stretches as there are threads, but none shorter than `least`."""
    count = max(1, min(threads, steps // max(least, 1)))
    edges = [steps * place // count for place in range(count + 1)]
    return list(pairwise(edges))


@contextmanager
def single_thread() -> Iterator[None]:
    """Compute on one thread inside.

    Passes over a block take well under a millisecond, and two threads that wait for each other at every one of
    them lose: on two cores shared with others a proof took 10 s on two threads and 0.9 s on one (measured
    2026-11-23).
    """
    with _LOCK:
        threads = _FOUND[0] if _FOUND else torch.get_num_threads()
        _FOUND.append(threads)
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _LOCK:
            _FOUND.pop()
            torch.set_num_threads(threads)


_LOCK: Final = Lock()
_FOUND: Final[list[int]] = []
"""How many threads there were, once for each that is inside: who comes second finds one, and must not leave it so."""
