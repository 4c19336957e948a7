"""How does a panel become a block of features?"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from features.inputs import leaves_of
from features.panel import Panel
from features.sets import fingerprint, get_set
from features.spec import Feature, FeatureBlock
from features.stream import Stream

_BLOCK_CELLS: Final = 12_800
"""Cells (S * T) of a block: few calls, and what is remembered between blocks still fits the cache."""
_LEAST_BLOCKS: Final = 8
"""A thread is worth its warm-up when it has so many blocks to compute."""


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
    features = get_set(feature_set)
    values, mask = compute(panel, features)
    return FeatureBlock(
        names=tuple(item.name for item in features),
        values=values,
        mask=mask,
        instruments=panel.instruments,
        width_ns=panel.width_ns,
        ts_open_ns=panel.ts_open_ns,
        fingerprint=fingerprint(features),
        feature_set=feature_set,
        lookback_bars=max(item.lookback_bars for item in features),
    )


def compute(panel: Panel, features: tuple[Feature, ...]) -> tuple[Tensor, Tensor]:
    """Return values and mask of features over a panel, as in `FeatureBlock`."""
    shape, device = (panel.n_instruments, panel.n_steps, len(features)), panel.status.device
    values = torch.empty(shape, dtype=torch.float32, device=device)
    mask = torch.empty(shape, dtype=torch.bool, device=device)
    lookbacks = [item.lookback_bars for item in features]
    block = 2 ** max((_BLOCK_CELLS // max(shape[0], 1)).bit_length() - 1, 0)
    parts = _parts(shape[1], max(block * _LEAST_BLOCKS, 2 * max(lookbacks)), torch.get_num_threads())
    leaves = leaves_of(panel)

    def fill(part: tuple[int, int]) -> None:
        with torch.inference_mode():
            _fill(leaves, features, values, mask, part, block)

    with on_one_core(), ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(fill, parts))
    # A step whose lookback reaches before the panel is invalid.
    head = torch.arange(min(max(lookbacks), shape[1]), device=device)[:, None] < torch.tensor(
        lookbacks, device=device
    )
    values[:, : len(head)].masked_fill_(head, 0.0)
    mask[:, : len(head)].masked_fill_(head, False)
    return values, mask


def _fill(
    leaves: dict[str, Tensor],
    features: tuple[Feature, ...],
    values: Tensor,
    mask: Tensor,
    part: tuple[int, int],
    block: int,
) -> None:
    """Compute the steps of one part, from as far before it as the features look back."""
    start, stop = part
    rows = values.shape[0]
    stream = Stream(features, rows=rows, block_steps=block)
    stack = torch.empty((len(features), rows, block), dtype=torch.float32, device=values.device)
    places = stack.unbind(0)
    for at in range(max(start - max(item.lookback_bars for item in features), 0), stop, block):
        raw = stream.push({name: _cut(leaves[name], at, block) for name in stream.leaves})
        if at + block <= start:
            continue
        for place, value in zip(places, raw, strict=True):
            place.copy_(value)
        # To the order on disk, features last, as one matrix: torch transposes those by tiles.
        flat = stack.view(len(features), rows * block)
        known = (flat - flat) == 0.0
        found = torch.where(known, flat, 0.0).t().contiguous().view(rows, block, -1)
        known = known.t().contiguous().view(rows, block, -1)
        skip, keep = max(start - at, 0), min(stop - at, block)
        values[:, at + skip : at + keep] = found[:, skip:keep]
        mask[:, at + skip : at + keep] = known[:, skip:keep]


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
