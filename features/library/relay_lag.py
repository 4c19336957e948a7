"""How far does a relayed book run behind the one that it relays?

GaiaEx shows Hyperliquid's books, so the distance between the two is no opportunity but a delay. The recorder measures
it where the relay shows the same best prices as Hyperliquid's own quotes did before (table `lags`, channel
`gaiaex relay`): over all relayed books together, minute by minute, so every relayed instrument has the same.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from features.feature import feature

_SOURCE: Final = "GaiaEx docs, ws-public (undated, read 2026-11-23); measured by the recorder, table `lags`"


@feature(lookback_bars=0, inputs=("relay_lag_ms",), unit="ln(1 + ms)", source=_SOURCE)
def relay_lag(relay_lag_ms: Tensor) -> Tensor:
    """How long after Hyperliquid the relay shows a change.

    Formula: ln(1 + m), m the median in milliseconds of the lags that are not negative, in the newest measured minute
    that was knowable at the close

    Missing: the instrument is not relayed (GaiaEx), nothing was measured for 300 s, or the bar was not observed.
    """
    return torch.log1p(relay_lag_ms)


@feature(lookback_bars=0, inputs=("relay_age_ms",), unit="s", source=_SOURCE)
def relay_lag_age(relay_age_ms: Tensor) -> Tensor:
    """Age of the relay's lag.

    Formula: seconds since the newest measured minute became knowable, as of the close

    Missing: as `relay_lag`.
    """
    return relay_age_ms / 1_000.0
