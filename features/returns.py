"""How far has the price come, and how old is it?"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from features.spec import family, feature
from features.windows import observed_over, shift


def log_change(log_price: Tensor, observed: Tensor, bars: int) -> Tensor:
    """Return the change of the log price over `bars` bars of the clock, where enough of them was observed.

    Args:
        log_price: (S, T) float64, NaN where there is no price.
        observed: (S, T) bool.
    """
    change = log_price - shift(log_price, bars)
    return torch.where(observed_over(observed, bars), change, math.nan)


@family(
    bars=(1, 5, 15, 60),
    lookback_bars=lambda bars: bars,
    inputs=("log_price", "observed"),
    unit="log",
    source="Campbell, Lo and MacKinlay (1997), The Econometrics of Financial Markets, section 1.4",
)
def log_return(log_price: Tensor, observed: Tensor, *, bars: int) -> Tensor:
    """Return of the last price over n bars.

    Formula: ln p[t] - ln p[t-n], p the last print's price, carried through quiet bars up to 31 bars

    Missing: no price at either end, or fewer than 80 % of the n bars observed; a hole is never stitched,
    since n counts steps of the clock and not prints.
    """
    return log_change(log_price, observed, bars)


@feature(
    lookback_bars=0,
    inputs=("price_age",),
    unit="bars",
    source="Lo and MacKinlay (1990), An econometric analysis of nonsynchronous trading, J. Econometrics 45",
)
def price_age(price_age: Tensor) -> Tensor:
    """Age of the last price.

    Formula: bars since the last print, 0 where this bar printed; every bar since was quiet

    Missing: after a hole until the next print, and beyond 31 bars.
    """
    return price_age
