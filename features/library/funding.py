"""Funding, basis and open interest of perpetuals.

HIP-3 perps compute their premium by another formula, with a multiplier of their own, so their funding is not comparable
with that of the first dex (Hyperliquid docs, Trading / Funding, as of 2026-08-22).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from features.feature import family, feature
from features.ops.rolling import shift


@feature(
    lookback_bars=0,
    inputs=("funding_rate",),
    unit="bp per hour",
    source="Hyperliquid docs, Trading / Funding, and activeAssetCtx `funding` (as of 2026-08-22)",
)
def funding_level(funding_rate: Tensor) -> Tensor:
    """Predicted funding of the next hour; positive if longs pay shorts.

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
    """Distance of the mark price from the oracle price; positive above it.

    Formula: 1e4 ln(mark / oracle), as of the close

    Missing: either is missing, known to be older than 120 s, or the bar was not observed.
    """
    return 1e4 * torch.log(mark / oracle)


@feature(
    lookback_bars=0,
    inputs=("context_age_ms",),
    unit="ln(1 + s)",
    source="Hyperliquid docs, WebSocket / Subscriptions, `activeAssetCtx` (as of 2026-08-22), which state no cadence",
)
def context_age(context_age_ms: Tensor) -> Tensor:
    """Age of the context, which carries predicted funding, open interest, mark and oracle price.

    Formula: ln(1 + seconds since the context was received), as of the close

    Missing: no context, one known to be older than 120 s, or a bar that was not observed.
    """
    return torch.log1p(context_age_ms / 1_000.0)


@family(
    bars=(60,),
    lookback_bars=lambda bars: bars,
    inputs=("funding_rate",),
    unit="bp per hour",
    source="Hyperliquid docs, Trading / Funding, and activeAssetCtx `funding` (as of 2026-08-22)",
)
def funding_change(funding_rate: Tensor, *, bars: int) -> Tensor:
    """Change of the predicted funding over n bars.

    Formula: 1e4 (funding_rate[t] - funding_rate[t-n]), each as of its close

    Missing: no context at either end, one known to be older than 120 s, or a bar that was not observed.
    """
    return 1e4 * (funding_rate - shift(funding_rate, bars))


@feature(
    lookback_bars=0,
    inputs=("paid_rate",),
    unit="bp per hour",
    source="Hyperliquid docs, Info endpoint / Perpetuals, `fundingHistory` (as of 2026-08-22)",
)
def funding_paid(paid_rate: Tensor) -> Tensor:
    """Last paid funding; positive if longs paid shorts.

    Formula: 1e4 funding_rate / interval_h of the newest payment that was knowable at the close

    Missing: no payment within 9 h, or a bar that was not observed.
    """
    return 1e4 * paid_rate


@feature(
    lookback_bars=0,
    inputs=("paid_age_ms",),
    unit="h",
    source="Hyperliquid docs, Info endpoint / Perpetuals, `fundingHistory` (as of 2026-08-22)",
)
def funding_paid_age(paid_age_ms: Tensor) -> Tensor:
    """Age of the last funding payment.

    Formula: hours since the newest payment became knowable, as of the close

    Missing: no payment within 9 h, or a bar that was not observed.
    """
    return paid_age_ms / 3_600_000.0


@feature(
    lookback_bars=0,
    inputs=("hour_share",),
    unit="h",
    source="Hyperliquid docs, Trading / Funding: paid every hour (as of 2026-08-22); on the hour, and every 8 hours "
    "until 2023-06-08, as recorded payments show (docs/backfill.md)",
)
def funding_due(hour_share: Tensor) -> Tensor:
    """Time to the next funding payment.

    Formula: 1 - x, x the share of the UTC hour that has passed at the close; 1 at a payment itself. It counts to the
    full hour on any date

    Missing: never.
    """
    return 1.0 - hour_share


@feature(
    lookback_bars=0,
    inputs=("bid", "ask", "oracle"),
    unit="bp",
    source="after Hyperliquid docs, Trading / Funding, premium (as of 2026-08-22), with the mid for the venue's impact "
    "prices",
)
def mid_basis(bid: Tensor, ask: Tensor, oracle: Tensor) -> Tensor:
    """Distance of the mid from the oracle price; positive above it.

    Formula: 1e4 ln(mid / oracle), mid = (bid + ask) / 2, as of the close

    Missing: quotes or oracle are missing or known to be older than their limits (300 s, 120 s), the quotes are
    crossed, or the bar was not observed.
    """
    return torch.where(ask >= bid, 1e4 * torch.log((bid + ask) / (2.0 * oracle)), math.nan)


@feature(
    lookback_bars=0,
    inputs=("bid", "ask", "mark"),
    unit="bp",
    source="Hyperliquid docs, Trading / Robust price indices (as of 2026-08-22)",
)
def mark_gap(bid: Tensor, ask: Tensor, mark: Tensor) -> Tensor:
    """Distance of the mid from the mark price, which determines liquidations; positive above it.

    Formula: 1e4 ln(mid / mark), mid = (bid + ask) / 2, as of the close

    Missing: quotes or mark are missing or known to be older than their limits (300 s, 120 s), the quotes are
    crossed, or the bar was not observed.
    """
    return torch.where(ask >= bid, 1e4 * torch.log((bid + ask) / (2.0 * mark)), math.nan)


@family(
    bars=(15, 60),
    lookback_bars=lambda bars: bars,
    inputs=("open_interest",),
    unit="log",
    source="after Bessembinder and Seguin (1993), Price Volatility, Trading Volume, and Market Depth: Evidence from "
    "Futures Markets, JFQA 28(1), the growth for their expected and unexpected parts; activeAssetCtx `openInterest`, "
    "base units",
)
def open_interest_change(open_interest: Tensor, *, bars: int) -> Tensor:
    """Log growth of the open interest over n bars.

    Formula: ln(open_interest[t] / open_interest[t-n]), each as of its close

    Missing: no context at either end, one known to be older than 120 s, a bar that was not observed, or an open
    interest of zero.
    """
    before = shift(open_interest, bars)
    is_open = (open_interest > 0.0) & (before > 0.0)
    return torch.where(is_open, torch.log(open_interest / before), math.nan)
