"""How does a panel become a block of features?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from features.inputs import View, leaves_of
from features.panel import Panel
from features.sets import fingerprint, get_set
from features.spec import FeatureBlock, evaluate

_BLOCK_CELLS: Final = 200_000
"""Cells (S * T) computed at a time: memory stays bounded, and a pass stays near the cache."""


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
