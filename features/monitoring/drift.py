"""Drift statistics between two samples of a feature: the training window and recent values."""

from __future__ import annotations

import math
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Figures: TypeAlias = npt.NDArray[np.float64]

MIN_TRAINED: Final = 400
_MIN_RECENT: Final = 100
"""With fewer values no statistics are computed."""
_MAX_SAMPLES: Final = 4_096
"""Maximum number of values compared per window, evenly spaced: neighbours are nearly equal, and sorting dominates the
cost."""
_BINS: Final = 10
_MIN_SHARE: Final = 1e-4
_QUARTERS: Final = 4


def drift(trained: Figures, recent: Figures) -> dict[str, float]:
    """Return drift statistics of `recent` against `trained`; empty if either sample is too small.

    Args:
        trained, recent: known values in chronological order.

    Returns:
        `psi` and `ks`; `usual`, the largest PSI of a quarter of `trained` against the whole of it, which is the
        feature's ordinary variation; `rescaled`, the shift of the median in widths of `trained` (1st to 99th
        percentile).
    """
    if len(trained) < MIN_TRAINED or len(recent) < _MIN_RECENT:
        return {}
    trained, recent = _sampled(trained), _sampled(recent)
    edges = _edges(trained)
    whole = _binned(trained, edges)
    quarters = [_psi_of(whole, _binned(part, edges)) for part in np.array_split(trained, _QUARTERS)]
    low, high = np.quantile(trained, [0.01, 0.99])
    shift = abs(float(np.median(recent)) - float(np.median(trained)))
    return {
        "psi": _psi_of(whole, _binned(recent, edges)),
        "ks": ks(trained, recent),
        "usual": max(quarters),
        "rescaled": shift / (high - low) if high > low else 0.0,
    }


def psi(trained: Figures, recent: Figures) -> float:
    """Return the population stability index of a sample against the deciles of another.

    A value that makes up more than a tenth of the training window gets a bin of its own. Shares are at least 0.0001,
    so the index stays finite.
    """
    return _psi_of(_binned(trained, edges := _edges(trained)), _binned(recent, edges))


def ks(trained: Figures, recent: Figures) -> float:
    """Return the two-sample Kolmogorov-Smirnov statistic, the largest distance of the two distribution functions."""
    both = np.concatenate([trained, recent])
    below = [np.searchsorted(np.sort(part), both, side="right") / len(part) for part in (trained, recent)]
    return float(np.abs(below[0] - below[1]).max())


def _edges(trained: Figures) -> Figures:
    inner, times = np.unique(np.quantile(trained, np.linspace(0.0, 1.0, _BINS + 1)[1:-1]), return_counts=True)
    # Only for a value that covers several deciles: with a bin per value, a rank among 11 instruments would differ from
    # one among 12.
    spikes = inner[(times > 1) | (len(inner) == 1)]
    return np.sort(np.concatenate([inner, np.nextafter(spikes, math.inf)]))


def _binned(values: Figures, edges: Figures) -> Figures:
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    shares: Figures = np.maximum(counts / len(values), _MIN_SHARE)
    return shares


def _psi_of(trained: Figures, recent: Figures) -> float:
    return float(((recent - trained) * np.log(recent / trained)).sum())


def _sampled(values: Figures) -> Figures:
    return values[:: -(-len(values) // _MAX_SAMPLES)]
