"""Features of the best bid and ask at the close.

Features that compute a spread or a mid treat crossed quotes (ask below bid) as missing, since the two sides were not
quoted at the same moment. Features that read only sizes, or each side by itself, use them unchanged.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from features.feature import family, feature
from features.ops.rolling import mean_over, shift


@feature(
    lookback_bars=0,
    inputs=("bid", "ask"),
    unit="bp",
    source="Amihud and Mendelson (1986), Asset Pricing and the Bid-Ask Spread, J. Financial Economics 17(2)",
)
def relative_spread(bid: Tensor, ask: Tensor) -> Tensor:
    """Spread of the best quotes, relative to their mid.

    Formula: 1e4 (ask - bid) / ((bid + ask) / 2)

    Missing: a side is missing, the quotes are crossed or known to be older than 300 s, or the bar was not observed.
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
    """Imbalance of the sizes at the best quotes; positive if the bid's is larger.

    Formula: (bid_size - ask_size) / (bid_size + ask_size)

    Missing: a size is missing, both queues are empty, the quotes are known to be older than 300 s, or the bar was not
    observed.
    """
    both = bid_size + ask_size
    return torch.where(both > 0.0, (bid_size - ask_size) / both, math.nan)


@feature(
    lookback_bars=0,
    inputs=("bid", "ask", "bid_size", "ask_size"),
    unit="bp",
    source="Stoikov (2018), The Micro-Price: A High-Frequency Estimator of Future Prices, Quantitative Finance 18(12): "
    "the weighted mid that it improves on, not its micro-price",
)
def microprice_distance(bid: Tensor, ask: Tensor, bid_size: Tensor, ask_size: Tensor) -> Tensor:
    """Distance of the size-weighted mid from the mid; positive if the bid's size is larger.

    Formula: 1e4 (w - mid) / mid, w = (bid ask_size + ask bid_size) / (bid_size + ask_size)

    Missing: a side or a size is missing, both queues are empty, the quotes are crossed or known to be older than 300 s,
    or the bar was not observed.
    """
    both = bid_size + ask_size
    weighted = (bid * ask_size + ask * bid_size) / both
    mid = (bid + ask) / 2.0
    return torch.where((both > 0.0) & (ask >= bid), 1e4 * (weighted - mid) / mid, math.nan)


@feature(
    lookback_bars=0,
    inputs=("quote_age_ms",),
    unit="ln(1 + s)",
    source="Hyperliquid docs, WebSocket / Subscriptions, `WsBbo`: sent only if the bbo changes on a block (as of "
    "2026-08-22); GaiaEx's are renewed with each book",
)
def quote_age(quote_age_ms: Tensor) -> Tensor:
    """Age of the best quotes.

    Formula: ln(1 + seconds from the newest quote, by the venue's clock, to the close)

    Missing: no quotes, quotes known to be older than 300 s, or a bar that was not observed.
    """
    return torch.log1p(quote_age_ms / 1_000.0)


@family(
    bars=(60,),
    lookback_bars=lambda bars: bars - 1,
    inputs=("bid", "ask"),
    unit="log",
    source="after Chordia, Roll and Subrahmanyam (2001), Market Liquidity and Trading Activity, J. Finance 56(2), who "
    "follow the spread's changes from day to day",
)
def spread_ratio(bid: Tensor, ask: Tensor, *, bars: int) -> Tensor:
    """Spread relative to its mean over n bars; positive if wider.

    Formula: ln(s[t] / mean of s over the closes in t-n+1..t that have one), s the spread over the mid

    Missing: no spread now, or a spread of zero, or a spread at fewer than 80 % of the n closes; crossed quotes have
    none.
    """
    spread = torch.where(ask >= bid, (ask - bid) / (bid + ask), math.nan)
    return torch.where(spread > 0.0, torch.log(spread / mean_over(spread, bars)), math.nan)


@family(
    bars=(5,),
    lookback_bars=lambda bars: bars,
    inputs=("bid", "ask", "bid_size", "ask_size"),
    unit="mean sizes of the best queues",
    source="Cont, Kukanov and Stoikov (2014), The Price Impact of Order Book Events, J. Financial Econometrics "
    "12(1), from close to close in place of event to event, over the depth",
)
def quote_flow(bid: Tensor, ask: Tensor, bid_size: Tensor, ask_size: Tensor, *, bars: int) -> Tensor:
    """Order flow imbalance of the best quotes over n bars; positive if size was added to the bid or taken from the ask.

    Formula: n x / d, x the mean of e[i] and d the mean of (bid_size[i] + ask_size[i]) / 2, over the bars in t-n+1..t
    that have quotes at both ends; e[i] = bid_size[i] (where bid[i] >= bid[i-1]) - bid_size[i-1] (where
    bid[i] <= bid[i-1]) - ask_size[i] (where ask[i] <= ask[i-1]) + ask_size[i-1] (where ask[i] >= ask[i-1])

    Missing: quotes at both ends of fewer than 80 % of the n bars, or empty queues. Changes that
    revert within a bar are not seen.
    """
    rose = _side_flow(bid, bid_size)
    fell = _side_flow(-ask, ask_size)
    queue = torch.where(torch.isnan(rose - fell), math.nan, (bid_size + ask_size) / 2.0)
    usual = mean_over(queue, bars)
    return torch.where(usual > 0.0, bars * mean_over(rose - fell, bars) / usual, math.nan)


def _side_flow(price: Tensor, size: Tensor) -> Tensor:
    """Return the size added at the best price of one side, where a better price is a greater one."""
    before, size_before = shift(price, 1), shift(size, 1)
    flow = torch.where(price >= before, size, 0.0) - torch.where(price <= before, size_before, 0.0)
    return torch.where(
        torch.isnan(price - before) | torch.isnan(size) | torch.isnan(size_before), math.nan, flow
    )
