"""What does it cost to trade: fee, spread and impact?

The spread comes from the closing quote where a bar has one. Impact grows with the root of an order's share of its
bar's notional (the square-root law: Almgren et al., Direct Estimation of Equity Market Impact, 2005).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from storage.clock import parse_time_ns
from storage.errors import SettingsError

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


@dataclass(frozen=True, slots=True)
class Fee:
    """The taker fee of a venue's base tier from an instant on, until the next row of that venue."""

    venue: str
    from_ns: int
    taker_bps: float


# Perps of the first dex, base tier: the venue raised the taker fee from 3.5 to 4.5 bp on 2025-05-05 at 03:00 UTC.
# The table `fees` says the same (`tickwalk reference seed`); a ledger takes it from the code, so that a night can be
# rebuilt whatever the table holds by then.
FEES: Final = (
    Fee("hyperliquid", 0, 3.5),
    Fee("hyperliquid", parse_time_ns("2025-05-05T03:00"), 4.5),
)


def taker_fee_bps(instrument: str, at_ns: int | np.ndarray, costs: Costs) -> np.ndarray:
    """Return the taker fee in force at each instant, in basis points.

    Raises:
        SettingsError: no fee is known for the instrument's venue, or it is a market with a deployer's own fee.
    """
    at = np.atleast_1d(np.asarray(at_ns, dtype=np.int64))
    if costs.taker_fee_bps is not None:
        return np.full(at.shape, costs.taker_fee_bps)
    venue, _, symbol = instrument.split("|", 2)
    rows = [fee for fee in FEES if fee.venue == venue]
    if not rows or ":" in symbol:
        raise SettingsError(
            f"no taker fee is known for {instrument}", hint="set costs.taker_fee_bps in the recipe"
        )
    which = np.searchsorted([fee.from_ns for fee in rows], at, side="right") - 1
    found: np.ndarray = np.array([fee.taker_bps for fee in rows])[which]
    return found


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
