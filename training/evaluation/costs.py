"""Trading costs besides the fee: assumed half spread and market impact.

The half spread comes from the closing quote where a bar has one; else it is the larger of an assumed one and an
estimate from the prints of earlier bars (training/evaluation/spread.py). Impact grows with the root of an order's
share of its bar's notional (Almgren et al., Direct Estimation of Equity Market Impact, 2005).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from storage.errors import SettingsError

BPS: Final = 1e-4


@dataclass(frozen=True, slots=True)
class Costs:
    """Assumed costs.

    Args:
        half_spread_bps: the least half spread of a bar without a quote (candle history never has one).
        impact_bps: impact of an order as large as its bar's notional; it falls with the square root of the share.
        capital_usd: capital that the ledger's shares refer to, for capacity and impact.
        taker_fee_bps: replaces the venues' fees of the table `fees`.
        spread_bars: trailing bars from which the half spread of a bar without a quote is estimated.
    """

    half_spread_bps: float
    impact_bps: float = 10.0
    capital_usd: float = 100_000.0
    taker_fee_bps: float | None = None
    spread_bars: int = 1440

    def __post_init__(self) -> None:
        if min(self.half_spread_bps, self.impact_bps) < 0 or self.capital_usd <= 0 or self.spread_bars < 1:
            raise SettingsError(
                f"costs {self} are out of range",
                hint="half_spread_bps and impact_bps from 0, capital_usd above 0, spread_bars from 1",
            )


def impact_share(size: np.ndarray, notional: np.ndarray, costs: Costs) -> np.ndarray:
    """Return the impact of orders as a share of their price; where the notional is unknown, that of a full bar.

    Args:
        size: orders, as shares of the capital.
        notional: quote units traded in their bars.
    """
    traded = np.nan_to_num(notional)
    share = np.where(traded > 0, size * costs.capital_usd / np.where(traded > 0, traded, 1.0), 1.0)
    impact: np.ndarray = costs.impact_bps * BPS * np.sqrt(np.minimum(share, 1.0))
    return impact
