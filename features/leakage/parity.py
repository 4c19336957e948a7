"""Is what is built and served of a feature set what was proven of it, to the bit?

The proof (features/leakage/perturbation.py) looks at the functions themselves, in float64. What trains and serves is
made by other code, faster and in float32; here it is compared with the functions, rounded once.
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
    """Return how many known values were compared of each way in which a set is made.

    - `build`: the block that `build_features` makes.
    - `live`: the newest bars, as the live step (features/live.py) makes them one by one from what it remembers.

    Raises:
        LeakError: a value or a mask differs; it names the feature, the instrument and the bar.
    """
    block = build_features(panel, feature_set)
    ways = {
        "build": ("it was built as a block", 0, block.values, block.mask),
        "live": ("it was stepped live", *_stepped(panel, feature_set)),
    }
    return {name: _compare(panel, feature_set, name, *made) for name, made in ways.items()}


def _stepped(panel: Panel, feature_set: str) -> tuple[int, Tensor, Tensor]:
    """Return from which step on, and the values and masks that the live step makes of each bar."""
    start = panel.n_steps - _LIVE_STEPS
    live = LiveFeatures.after(panel.steps(None, start), feature_set)
    rows = [live.step(panel.steps(step, step + 1)) for step in range(start, panel.n_steps)]
    return start, torch.stack([row.values for row in rows], 1), torch.stack([row.mask for row in rows], 1)


def _compare(
    panel: Panel, feature_set: str, check: str, told: str, start: int, values: Tensor, mask: Tensor
) -> int:
    """Compare what was made of the steps from `start` on with the functions."""
    features, compared = get_set(feature_set), 0
    with torch.inference_mode(), single_thread():
        proven = evaluate_on(panel, features)
    for place, (item, (value, known)) in enumerate(zip(features, proven, strict=True)):
        expected = (value[:, start:].to(torch.float32), known[:, start:])
        moved = first_difference(expected, (values[:, :, place], mask[:, :, place]))
        if moved is not None:
            raise leak_error(check, item, panel, (moved[0], moved[1] + start), told)
        compared += int(expected[1].sum())
    return compared
