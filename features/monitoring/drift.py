"""How far is one sample of a feature from another: what the model learned from, and what it meets?"""

from __future__ import annotations

import math
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Figures: TypeAlias = npt.NDArray[np.float64]

LEAST_TRAINED: Final = 400
_LEAST_RECENT: Final = 100
"""With fewer values than these nothing is said."""
_MOST_SAMPLES: Final = 4_096
"""Values of a window that are compared, evenly spaced: neighbours say nearly the same, and sorting is what costs."""
_BINS: Final = 10
_LEAST_SHARE: Final = 1e-4
_QUARTERS: Final = 4


def drift(trained: Figures, recent: Figures) -> dict[str, float]:
    """Return how far `recent` is from `trained`; nothing where one of them is too short to say.

    Args:
        trained, recent: known values in the order of time.

    Returns:
        `psi` and `ks`; `usual`, the largest PSI of a quarter of `trained` from the whole of it, so that a figure
        can be told from how the feature always moves about; `rescaled`, how many widths of `trained` (1st to 99th
        percentile) its median moved.
    """
    if len(trained) < LEAST_TRAINED or len(recent) < _LEAST_RECENT:
        return {}
    trained, recent = _sampled(trained), _sampled(recent)
    edges = _edges(trained)
    whole = _binned(trained, edges)
    quarters = [_psi_of(whole, _binned(part, edges)) for part in np.array_split(trained, _QUARTERS)]
    low, high = np.quantile(trained, [0.01, 0.99])
    moved = abs(float(np.median(recent)) - float(np.median(trained)))
    return {
        "psi": _psi_of(whole, _binned(recent, edges)),
        "ks": ks(trained, recent),
        "usual": max(quarters),
        "rescaled": moved / (high - low) if high > low else 0.0,
    }


def psi(trained: Figures, recent: Figures) -> float:
    """Return the population stability index of a sample against the deciles of another.

    A value that stands for more than a tenth of the training window has a bin of its own. Shares below 0.0001
    count as that much, so the index stays finite.
    """
    return _psi_of(_binned(trained, edges := _edges(trained)), _binned(recent, edges))


def ks(trained: Figures, recent: Figures) -> float:
    """Return the two-sample Kolmogorov-Smirnov statistic: the largest distance of the two distributions."""
    both = np.concatenate([trained, recent])
    below = [np.searchsorted(np.sort(part), both, side="right") / len(part) for part in (trained, recent)]
    return float(np.abs(below[0] - below[1]).max())


def _edges(trained: Figures) -> Figures:
    inner, times = np.unique(np.quantile(trained, np.linspace(0.0, 1.0, _BINS + 1)[1:-1]), return_counts=True)
    # Only a value that is several deciles at once: bins of single values would see a rank among 11 instruments as
    # unlike one among 12.
    spikes = inner[(times > 1) | (len(inner) == 1)]
    return np.sort(np.concatenate([inner, np.nextafter(spikes, math.inf)]))


def _binned(values: Figures, edges: Figures) -> Figures:
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    shares: Figures = np.maximum(counts / len(values), _LEAST_SHARE)
    return shares


def _psi_of(trained: Figures, recent: Figures) -> float:
    return float(((recent - trained) * np.log(recent / trained)).sum())


def _sampled(values: Figures) -> Figures:
    return values[:: -(-len(values) // _MOST_SAMPLES)]
