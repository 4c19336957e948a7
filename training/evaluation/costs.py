"""What does it cost to trade: fee, spread and impact?

The spread comes from the closing quote where a bar has one. Impact grows with the root of an order's share of its
bar's notional (the square-root law: Almgren et al., Direct Estimation of Equity Market Impact, 2005).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

BPS: Final = 1e-4


@dataclass(frozen=True, slots=True)
class Costs:
    """What trading costs where the data does not say.

    Args:
        half_spread_bps: half the spread wherever a bar has no quote (candle history never has one).
        impact_bps: cost of an order as large as all that its bar traded; it falls with the root of the share.
        capital_usd: what the shares of the ledger are shares of, for capacity and impact.
        taker_fee_bps: a fee of one's own instead of the venue's table.
    """

    half_spread_bps: float
    impact_bps: float = 10.0
    capital_usd: float = 100_000.0
    taker_fee_bps: float | None = None


def impact_share(size: np.ndarray, notional: np.ndarray, costs: Costs) -> np.ndarray:
    """Return the impact of orders as a share of their price; that of a whole bar where its notional is unknown.

    Args:
        size: orders, as shares of the capital.
        notional: quote units that their bars traded.
    """
    traded = np.nan_to_num(notional)
    share = np.where(traded > 0, size * costs.capital_usd / np.where(traded > 0, traded, 1.0), 1.0)
    found: np.ndarray = costs.impact_bps * BPS * np.sqrt(np.minimum(share, 1.0))
    return found
