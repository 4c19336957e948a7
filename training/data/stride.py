"""Rotation of the stride: the steps of the clock that train in each epoch.

Labels of neighbouring steps overlap, so one step of each `stride` trains at a time. A fixed offset shows a model only
one side of a price that alternates between bid and ask: with stride 2 on such prices, the IC of LightGBM fell from
0.87 to 0.39 and that of ridge from 0.86 to 0.61 (tests/training/night/test_stride.py). So the offset moves by one
from each group of `stride` steps to the next, and by one more with each epoch: an epoch has every offset equally often,
and `stride` epochs have every row once.
"""

from __future__ import annotations

import numpy as np


def stride_phase(ts_open_ns: np.ndarray, *, width_ns: int, stride: int) -> np.ndarray:
    """Return the phase of each step: it trains in the epochs that leave this remainder modulo `stride`.

    Phases come from the clock, so they do not depend on where the panel starts. Validation rows, and the train rows of
    models that have no epochs, are those of phase 0.

    Args:
        ts_open_ns: (T,) int64, open of each bar.
        width_ns: width of a bar.
        stride: from 1.

    Returns:
        (T,) int64 in `[0, stride)`.

    >>> stride_phase(np.arange(8), width_ns=1, stride=2).tolist()
    [0, 1, 1, 0, 0, 1, 1, 0]
    """
    step = ts_open_ns // width_ns
    phase: np.ndarray = (step - step // stride) % stride
    return phase
