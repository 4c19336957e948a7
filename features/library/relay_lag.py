"""Features of the lag of a relayed order book.

GaiaEx shows Hyperliquid's books, so a difference between the two is a delay and not an arbitrage opportunity. The
recorder measures the lag whenever the relay shows the same best prices as Hyperliquid's own quotes did before (table
`lags`, channel `gaiaex relay`), per minute over all relayed books, so every relayed instrument has the same value.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from features.feature import feature

_SOURCE: Final = "GaiaEx docs, ws-public (undated, read 2026-11-23); measured by the recorder, table `lags`"


@feature(lookback_bars=0, inputs=("relay_lag_ms",), unit="ln(1 + ms)", source=_SOURCE)
def relay_lag(relay_lag_ms: Tensor) -> Tensor:
    """Delay of the relay behind Hyperliquid's quotes.

    Formula: ln(1 + m), m the median in milliseconds of the lags that are not negative, in the newest measured minute
    that was knowable at the close

    Missing: the instrument is not relayed (GaiaEx), nothing was measured for 300 s, or the bar was not observed.
    """
    return torch.log1p(relay_lag_ms)


@feature(lookback_bars=0, inputs=("relay_age_ms",), unit="s", source=_SOURCE)
def relay_lag_age(relay_age_ms: Tensor) -> Tensor:
    """Age of the lag measurement.

    Formula: seconds since the newest measured minute became knowable, as of the close

    Missing: as `relay_lag`.
    """
    return relay_age_ms / 1_000.0
