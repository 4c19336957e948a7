"""Parity check: built and live values equal the reference functions to the bit.

The proof (features/leakage/perturbation.py) evaluates the functions themselves, in float64. Training and serving use
other, faster code with float32 results; here its output is compared with the functions' values, rounded once.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from features.build import build_features, single_thread
from features.leakage.comparison import evaluate_on, first_difference, leak_error
from features.live import LiveFeatures
from features.panel.panel import Panel
from features.sets import get_set

_LIVE_STEPS: Final = 24


def check_parity(panel: Panel, feature_set: str) -> dict[str, int]:
    """Compare every way of computing a set with its functions; return the number of known values compared, by way.

    - `build`: the block returned by `build_features`.
    - `live`: the newest bars, computed one by one by the live step (features/live.py) from its stored history.

    Raises:
        LeakError: a value or a mask differs; it names the feature, the instrument and the bar.
    """
    block = build_features(panel, feature_set)
    ways = {
        "build": ("it was built as a block", 0, block.values, block.mask),
        "live": ("it was stepped live", *_run_live(panel, feature_set)),
    }
    return {name: _compare(panel, feature_set, name, *result) for name, result in ways.items()}


def _run_live(panel: Panel, feature_set: str) -> tuple[int, Tensor, Tensor]:
    """Return the first step, and the values and masks that the live step computes from there on."""
    start = panel.n_steps - _LIVE_STEPS
    live = LiveFeatures.after(panel.steps(None, start), feature_set)
    rows = [live.step(panel.steps(step, step + 1)) for step in range(start, panel.n_steps)]
    return start, torch.stack([row.values for row in rows], 1), torch.stack([row.mask for row in rows], 1)


def _compare(
    panel: Panel, feature_set: str, check: str, event: str, start: int, values: Tensor, mask: Tensor
) -> int:
    """Compare computed values and masks of the steps from `start` on with the functions' results."""
    features, compared = get_set(feature_set), 0
    with torch.inference_mode(), single_thread():
        reference = evaluate_on(panel, features)
    for place, (item, (value, known)) in enumerate(zip(features, reference, strict=True)):
        expected = (value[:, start:].to(torch.float32), known[:, start:])
        difference = first_difference(expected, (values[:, :, place], mask[:, :, place]))
        if difference is not None:
            raise leak_error(check, item, panel, (difference[0], difference[1] + start), event)
        compared += int(expected[1].sum())
    return compared
