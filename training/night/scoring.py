"""What does a night put before the gate: figures, ledgers and the comparison with what serves?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from features.panel.panel import Panel
from storage.lake.fees import FeeSchedule
from training.data.folds import Fold
from training.data.labels import BASIS_MID, delay_bars, prices_at_close
from training.data.panel import Normaliser, PanelWindows
from training.evaluation.gate import BacktestResult, ChampionComparison
from training.evaluation.metrics import Score, deflated_sharpe, score_predictions, sharpe
from training.evaluation.positions import MarketData, PositionLedger, run_ledger
from training.models.estimators import FoldContext
from training.night.artifacts import NightData, Predictions
from training.recipe import Recipe

# Blocks of the bootstrap, in horizons: labels overlap over one, and what drives them lasts longer.
_BLOCK_HORIZONS = 4


@dataclass(frozen=True, slots=True)
class EvaluationWindow:
    """A window of time that starts with the first test and ends with the last.

    Args:
        first, stop: steps of the panel.
        market: what those steps offered.
    """

    first: int
    stop: int
    market: MarketData


def make_fold_context(data: NightData, normaliser: Normaliser, recipe: Recipe, device: torch.device) -> FoldContext:
    """Return what members share, under one normaliser."""
    windows = PanelWindows(data.block, normaliser, window_bars=recipe.window_bars, device=device)
    labels = data.labels
    return FoldContext(
        windows, normaliser, data.past.flatten(), labels.label.flatten(), labels.mask.flatten()
    )


def make_market(data: NightData, recipe: Recipe, fees: FeeSchedule, *, grace_ns: int) -> MarketData:
    """Return prices and costs of every step of a panel; the half spread comes from the closing quote.

    Args:
        data: of the night.
        recipe: says the order's delay, and may set a taker fee of its own.
        fees: the taker fees of the venues.
        grace_ns: from a bar's close to the decision.
    """
    panel = data.panel
    prices = prices_at_close(panel)
    bid, ask = panel.column("bid"), panel.column("ask")
    quoted = (prices.basis == BASIS_MID) & (ask >= bid)
    notional = panel.column("notional")
    notional = torch.where(torch.isfinite(notional), notional, panel.column("volume") * panel.column("close"))
    return MarketData(
        instruments=panel.instruments,
        ts_close_ns=panel.ts_close_ns,
        price=prices.price.numpy(),
        half_spread=torch.where(quoted, (ask - bid) / (ask + bid), torch.nan).numpy(),
        notional=notional.numpy(),
        taker_fee_bps=taker_fees(panel, recipe, fees),
        scale=data.labels.scale.numpy(),
        funding_paid=data.funding_paid,
        delay_bars=delay_bars(panel.width_ns, grace_ns=grace_ns, delay_ms=recipe.label.delay_ms),
    )


def taker_fees(panel: Panel, recipe: Recipe, fees: FeeSchedule) -> np.ndarray:
    """Return the taker fee at each bar's close, (S, T) float64 in basis points: the recipe's, or the venue's."""
    if (own := recipe.costs.taker_fee_bps) is not None:
        return np.full((panel.n_instruments, panel.n_steps), own)
    return np.stack([fees.bps(name, panel.ts_close_ns) for name in panel.instruments])


def evaluation_window(market: MarketData, folds: Sequence[Fold], decided_ns: np.ndarray) -> EvaluationWindow:
    """Return the steps of all tests; they lie end to end, so positions are carried from fold to fold."""
    first, stop = np.searchsorted(decided_ns, [folds[0].test.start_ns, folds[-1].test.stop_ns])
    return EvaluationWindow(int(first), int(stop), market.window(int(first), int(stop)))


def to_dense(parts: Sequence[Predictions], judged: EvaluationWindow) -> np.ndarray:
    """Return predictions of all folds as (S, T) over the judged window, NaN where there is none."""
    dense = np.full(judged.market.price.shape, np.nan)
    for part in parts:
        dense[part.instrument, part.step - judged.first] = part.prediction
    return dense


def score_folds(parts: Sequence[Predictions], recipe: Recipe, *, seed: int) -> Score:
    """Return the figures of one member over one fold, or over several together."""
    joined = [
        np.concatenate([getattr(part, name) for part in parts]) for name in ("prediction", "label", "step")
    ]
    return score_predictions(
        *joined,
        fold=np.repeat(np.arange(len(parts)), [len(part.step) for part in parts]),
        block_steps=_BLOCK_HORIZONS * recipe.label.horizon_bars,
        seed=seed,
    )


def backtest(prediction: np.ndarray, judged: EvaluationWindow, recipe: Recipe) -> PositionLedger:
    """Return what the recipe's position rule makes of predictions."""
    return run_ledger(prediction, judged.market, recipe.position, recipe.costs)


def period_returns(ledger: PositionLedger, recipe: Recipe) -> np.ndarray:
    """Return net earnings by holding period, which do not overlap; a last part of a period is left out."""
    period = recipe.position.hold_bars
    whole = len(ledger.net) // period * period
    returns: np.ndarray = ledger.net[:whole].reshape(-1, period).sum(axis=1)
    return returns


def summarise_backtests(
    ledgers: Mapping[str, PositionLedger], recipe: Recipe, *, tried: Sequence[str], earlier: int
) -> dict[str, BacktestResult]:
    """Return what each ledger earned, and how sure that is.

    Args:
        ledgers: by member.
        recipe: says what a period is.
        tried: members that might have been chosen; the scatter of their Sharpe ratios is the luck to beat.
        earlier: trials of earlier nights, that the luck had as well.
    """
    periods = {name: period_returns(ledger, recipe) for name, ledger in ledgers.items()}
    scatter = np.array([sharpe(periods[name]) for name in tried])
    return {
        name: BacktestResult(
            gross=float(ledger.gross.sum()),
            fee=float(ledger.fee.sum()),
            spread=float(ledger.spread.sum()),
            impact=float(ledger.impact.sum()),
            funding=float(ledger.funding.sum()),
            net=float(ledger.net.sum()),
            fills=len(ledger.fills),
            sharpe=sharpe(periods[name]),
            deflated_sharpe=deflated_sharpe(periods[name], scatter, trials=len(tried) + earlier),
        )
        for name, ledger in ledgers.items()
    }


def compare_with_champion(
    champion: np.ndarray,
    challenger: np.ndarray,
    judged: EvaluationWindow,
    recipe: Recipe,
    *,
    version: str,
    unseen: np.ndarray,
) -> ChampionComparison:
    """Return challenger against champion on the steps that the champion has not learnt from.

    Args:
        champion, challenger: (S, T) predictions over the judged window.
        judged: that window.
        recipe: the position rule for both.
        version: the champion.
        unseen: (T,) bool, decided after the champion's cut-off; a tail of the window.
    """
    count = int(unseen.sum())
    if count == 0:
        return ChampionComparison(version, 0, np.nan, np.nan)
    tail = len(unseen) - count
    part = EvaluationWindow(judged.first + tail, judged.stop, judged.market.window(tail, len(unseen)))
    return ChampionComparison(
        version,
        count,
        challenger_net=float(backtest(challenger[:, tail:], part, recipe).net.sum()),
        champion_net=float(backtest(champion[:, tail:], part, recipe).net.sum()),
    )
