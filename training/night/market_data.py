"""Prices, costs and listings of a night's bars, as the ledger needs them."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

from features.panel.panel import Panel
from storage.clock import MS_NS, NS
from storage.lake.fees import FeeSchedule
from training.data.labels import BASIS_MID, BASIS_NONE, delay_bars, prices_at_close
from training.evaluation.market import listed_steps, settlement_prices
from training.evaluation.positions import MarketData
from training.evaluation.spread import estimate_half_spread
from training.night.artifacts import NightData
from training.recipe import Recipe

_OLDEST_ORACLE_MS: Final = 3_600 * NS // MS_NS


def make_market(data: NightData, recipe: Recipe, fees: FeeSchedule, *, grace_ns: int) -> MarketData:
    """Return prices and costs of every step of a panel.

    The half spread comes from the closing quote; where a bar has none, from the instrument's earlier prints.

    Args:
        data: the night's panel and labels.
        recipe: sets the order's delay, the window of the spread's estimate, and possibly a taker fee of its own.
        fees: taker fees of the venues.
        grace_ns: from a bar's close to the decision.
    """
    panel = data.panel
    prices = prices_at_close(panel)
    bid, ask = panel.column("bid"), panel.column("ask")
    quoted = (prices.basis == BASIS_MID) & (ask >= bid)
    notional = panel.column("notional")
    notional = torch.where(torch.isfinite(notional), notional, panel.column("volume") * panel.column("close"))
    price, is_listed = prices.price.numpy(), listed_steps(panel.status.numpy())
    oracle = torch.where(
        panel.column("context_age_ms") > _OLDEST_ORACLE_MS, torch.nan, panel.column("oracle")
    )
    return MarketData(
        instruments=panel.instruments,
        ts_close_ns=panel.ts_close_ns,
        price=price,
        half_spread=torch.where(quoted, (ask - bid) / (ask + bid), torch.nan).numpy(),
        notional=notional.numpy(),
        taker_fee_bps=_taker_fee_bps(panel, recipe, fees),
        scale=data.labels.scale.numpy(),
        funding_paid=data.funding_paid,
        delay_bars=delay_bars(panel.width_ns, grace_ns=grace_ns, delay_ms=recipe.label.delay_ms),
        estimated_half_spread=_estimated_half_spread(panel, quoted, prices.basis != BASIS_NONE, recipe),
        is_listed=is_listed,
        settlement=settlement_prices(is_listed, price, oracle.numpy(), width_ns=panel.width_ns),
    )


def _estimated_half_spread(
    panel: Panel, quoted: torch.Tensor, watched: torch.Tensor, recipe: Recipe
) -> np.ndarray:
    """Return the estimate from earlier prints, (S, T); only for instruments that lack a quote in some watched bar."""
    found = np.full(tuple(quoted.shape), np.nan)
    lacking = torch.nonzero((watched & ~quoted).any(dim=1)).flatten()
    bars = torch.stack([panel.column(name)[lacking] for name in ("open", "high", "low", "close")])
    # A quiet bar repeats no price, and a bar without a high and low of its own moved nowhere within.
    bars = torch.where((panel.printed & torch.isfinite(panel.column("close")))[lacking], bars, torch.nan)
    for extreme in (1, 2):
        bars[extreme] = torch.where(torch.isfinite(bars[extreme]), bars[extreme], bars[3])
    found[lacking.numpy()] = estimate_half_spread(
        bars.numpy(), panel.ts_close_ns, window_bars=recipe.costs.spread_bars
    )
    return found


def _taker_fee_bps(panel: Panel, recipe: Recipe, fees: FeeSchedule) -> np.ndarray:
    """Return the taker fee at each bar's close, (S, T) float64: the recipe's own, or else the venue's."""
    if (own := recipe.costs.taker_fee_bps) is not None:
        return np.full((panel.n_instruments, panel.n_steps), own)
    return np.stack([fees.bps(name, panel.ts_close_ns) for name in panel.instruments])
