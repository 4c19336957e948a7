"""What does holding the perp cost, and how far is it from what it tracks?"""

from __future__ import annotations

import torch
from torch import Tensor

from features.spec import feature


@feature(
    lookback_bars=0,
    inputs=("funding_rate",),
    unit="bp per hour",
    source="Hyperliquid docs, Trading / Funding, and activeAssetCtx `funding` (as of 2026-08-22)",
)
def funding_level(funding_rate: Tensor) -> Tensor:
    """Predicted funding of the coming hour; positive means that longs pay shorts.

    Formula: 1e4 funding_rate, as of the close

    Missing: no context, one known to be older than 120 s, or a bar that was not observed.
    """
    return 1e4 * funding_rate


@feature(
    lookback_bars=0,
    inputs=("mark", "oracle"),
    unit="bp",
    source="Hyperliquid docs, HyperCore / Oracle and Trading / Robust price indices (as of 2026-08-22)",
)
def mark_basis(mark: Tensor, oracle: Tensor) -> Tensor:
    """Distance of the mark price from the oracle.

    Formula: 1e4 ln(mark / oracle), as of the close

    Missing: either is missing, known to be older than 120 s, or the bar was not observed.
    """
    return 1e4 * torch.log(mark / oracle)
