"""What do the best bid and ask say at the close?

A crossed pair of quotes (ask below bid) is missing: the two sides were not of one moment.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from features.spec import feature


@feature(
    lookback_bars=0,
    inputs=("bid", "ask"),
    unit="bp",
    source="Amihud and Mendelson (1986), Asset Pricing and the Bid-Ask Spread, J. Financial Economics 17(2)",
)
def relative_spread(bid: Tensor, ask: Tensor) -> Tensor:
    """Spread of the best quotes over their mid.

    Formula: 1e4 (ask - bid) / ((bid + ask) / 2)

    Missing: a side is missing, the quotes are crossed, or they are known to be older than 300 s.
    """
    return torch.where(ask >= bid, 2e4 * (ask - bid) / (bid + ask), math.nan)


@feature(
    lookback_bars=0,
    inputs=("bid_size", "ask_size"),
    unit="share, -1 to 1",
    source="Gould and Bonart (2016), Queue Imbalance as a One-Tick-Ahead Price Predictor in a Limit Order Book, "
    "Market Microstructure and Liquidity 2(2)",
)
def queue_imbalance(bid_size: Tensor, ask_size: Tensor) -> Tensor:
    """Which of the best queues is longer.

    Formula: (bid_size - ask_size) / (bid_size + ask_size)

    Missing: a side is missing, both queues are empty, or the quotes are known to be older than 300 s.
    """
    both = bid_size + ask_size
    return torch.where(both > 0.0, (bid_size - ask_size) / both, math.nan)


@feature(
    lookback_bars=0,
    inputs=("bid", "ask", "bid_size", "ask_size"),
    unit="bp",
    source="Stoikov (2018), The Micro-Price: A High-Frequency Estimator of Future Prices, "
    "Quantitative Finance 18(12), the weighted mid",
)
def microprice_distance(bid: Tensor, ask: Tensor, bid_size: Tensor, ask_size: Tensor) -> Tensor:
    """Distance of the size-weighted mid from the mid.

    Formula: 1e4 (w - mid) / mid, w = (bid ask_size + ask bid_size) / (bid_size + ask_size)

    Missing: a side or a size is missing, both queues are empty, the quotes are crossed, or they are known to
    be older than 300 s.
    """
    both = bid_size + ask_size
    weighted = (bid * ask_size + ask * bid_size) / both
    mid = (bid + ask) / 2.0
    return torch.where((both > 0.0) & (ask >= bid), 1e4 * (weighted - mid) / mid, math.nan)
