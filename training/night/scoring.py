"""Scores, backtests and the champion comparison of a night, and its `summary.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
import torch

from features.feature import FeatureBlock
from storage.clock import iso
from training.data.folds import Fold
from training.data.panel import Normaliser, PanelWindows
from training.data.stride import stride_phase
from training.evaluation.gate import BacktestResult, ChampionComparison
from training.evaluation.metrics import Score, deflated_sharpe, score_predictions, sharpe
from training.evaluation.period_net import complete_periods, net_by_period
from training.evaluation.positions import MarketData, PositionLedger, run_ledger
from training.models.device import derive_seed
from training.models.estimators import FoldContext
from training.night.artifacts import Lessons, NightArtifacts, NightData, Predictions
from training.night.readable_range import cut_of
from training.recipe import Recipe

# Blocks of the bootstrap, in horizons: labels overlap over one, and what drives them lasts longer.
_BLOCK_HORIZONS: Final = 4
_CURVE_POINTS: Final = 600


@dataclass(frozen=True, slots=True)
class EvaluationWindow:
    """The time from the start of the first test to the end of the last.

    Args:
        first, stop: steps of the panel.
        market: prices and costs of those steps.
    """

    first: int
    stop: int
    market: MarketData


def make_fold_context(
    data: NightData, normaliser: Normaliser, recipe: Recipe, device: torch.device
) -> FoldContext:
    """Return windows and labels under a fold's normaliser.

    Lessons follow the served rows as if they were more instruments, so no window has bars of both.
    """
    parts = [Lessons(data.block, data.labels, data.past)] + ([data.lessons] if data.lessons else [])
    windows = PanelWindows(
        windows_block(data),
        normaliser,
        window_bars=recipe.window_bars,
        device=device,
    )
    return FoldContext(
        windows,
        normaliser,
        torch.cat([part.past.flatten() for part in parts]),
        torch.cat([part.labels.label.flatten() for part in parts]),
        torch.cat([part.labels.mask.flatten() for part in parts]),
        instruments=data.panel.instruments * len(parts),
        ts_open_ns=data.panel.ts_open_ns,
        phase=torch.from_numpy(night_phase(data, recipe)),
        stride=recipe.stride,
        unique_bars=recipe.label.horizon_bars if recipe.label.weights == "uniqueness" else 0,
    )


def night_phase(data: NightData, recipe: Recipe) -> np.ndarray:
    """Return the phase of each step of a night's stride, (T,) int64 (training/data/stride.py)."""
    panel = data.panel
    return stride_phase(panel.ts_open_ns, width_ns=panel.width_ns, stride=recipe.stride)


@lru_cache(maxsize=1)
def windows_block(data: NightData) -> FeatureBlock:
    """Return the block of a night's windows: that of the served rows, followed by that of the lessons, if any.

    All folds of a night share it, on the host and on a device.
    """
    return data.block if data.lessons is None else _stacked([data.block, data.lessons.block])


def _stacked(blocks: Sequence[FeatureBlock]) -> FeatureBlock:
    """Return blocks of equal steps and features as one, the instruments one after another."""
    return replace(
        blocks[0],
        instruments=tuple(name for block in blocks for name in block.instruments),
        values=torch.cat([block.values for block in blocks]),
        mask=torch.cat([block.mask for block in blocks]),
    )


def evaluation_window(market: MarketData, folds: Sequence[Fold], decided_ns: np.ndarray) -> EvaluationWindow:
    """Return the steps of all tests; they are contiguous, so positions are carried from fold to fold."""
    first, stop = np.searchsorted(decided_ns, [folds[0].test.start_ns, folds[-1].test.stop_ns])
    return EvaluationWindow(int(first), int(stop), market.window(int(first), int(stop)))


def to_dense(parts: Sequence[Predictions], window: EvaluationWindow, recipe: Recipe) -> np.ndarray:
    """Return the predictions of all folds as (S, T) over the evaluation window, NaN where there is none.

    There is also none for bars that are too strange for the recipe's position rule.
    """
    dense = np.full(window.market.price.shape, np.nan)
    for part in parts:
        dense[part.instrument, part.step - window.first] = traded_prediction(part, recipe)
    return dense


def traded_prediction(part: Predictions, recipe: Recipe) -> np.ndarray:
    """Return the predictions on which a recipe may trade, (N,); NaN where the bar is too strange."""
    most = recipe.position.most_strange
    if most is None or part.strangeness is None:
        return part.prediction
    prediction: np.ndarray = np.where(part.strangeness > most, np.nan, part.prediction)
    return prediction


def score_folds(parts: Sequence[Predictions], recipe: Recipe, *, seed: int) -> Score:
    """Return the scores of one model over one fold, or over several folds together."""
    joined = [
        np.concatenate([getattr(part, name) for part in parts]) for name in ("prediction", "label", "step")
    ]
    return score_predictions(
        *joined,
        fold=np.repeat(np.arange(len(parts)), [len(part.step) for part in parts]),
        block_steps=_BLOCK_HORIZONS * recipe.label.horizon_bars,
        seed=seed,
    )


def score_all_folds(
    folder: NightArtifacts, folds: list[Fold], recipe: Recipe, model: str, number: int = 0
) -> Score:
    """Return the scores of one model and seed over the tests of all folds together."""
    parts = [folder.read_predictions(folder.model_path(fold.index, model, number)) for fold in folds]
    return score_folds(parts, recipe, seed=derive_seed(folder.facts["seed"], model, "all", number))


def backtest(prediction: np.ndarray, window: EvaluationWindow, recipe: Recipe) -> PositionLedger:
    """Run the recipe's position rule on predictions."""
    return run_ledger(prediction, window.market, recipe.position, recipe.costs)


def period_returns(ledger: PositionLedger, recipe: Recipe) -> np.ndarray:
    """Return net earnings by holding period, without overlap; an incomplete last period is left out."""
    period = recipe.position.hold_bars
    whole = len(ledger.net) // period * period
    returns: np.ndarray = ledger.net[:whole].reshape(-1, period).sum(axis=1)
    return returns


def summarise_backtests(
    ledgers: Mapping[str, PositionLedger], recipe: Recipe, *, candidates: Sequence[str], trials: int
) -> dict[str, BacktestResult]:
    """Return each ledger's earnings, with its Sharpe ratio corrected for multiple testing.

    Args:
        ledgers: by model and seed.
        recipe: sets the holding period.
        candidates: models and seeds that could have been chosen; the correction uses the scatter of their ratios.
        trials: number of models that the home has tried on these tests (training/night/trial_ledger.py).
    """
    periods = {name: period_returns(ledger, recipe) for name, ledger in ledgers.items()}
    scatter = np.array([sharpe(periods[name]) for name in candidates])
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
            deflated_sharpe=deflated_sharpe(periods[name], scatter, trials=max(trials, len(candidates))),
        )
        for name, ledger in ledgers.items()
    }


def compare_with_champion(
    champion: np.ndarray,
    challenger: np.ndarray,
    window: EvaluationWindow,
    recipe: Recipe,
    *,
    version: str,
    unseen: np.ndarray,
    width_ns: int,
    period_ns: int,
) -> tuple[ChampionComparison, dict[int, float]]:
    """Backtest challenger and champion on the steps that the champion was not trained on.

    Args:
        champion, challenger: (S, T) predictions over the evaluation window.
        window: that window.
        recipe: the position rule for both.
        version: the champion.
        unseen: (T,) bool, decided after the champion's cut-off; a tail of the window.
        width_ns: width of a bar.
        period_ns: length of a period.

    Returns:
        The comparison, and the champion's net by start of each complete period of these steps.
    """
    count = int(unseen.sum())
    if count == 0:
        return ChampionComparison(version, 0, np.nan, np.nan), {}
    head = len(unseen) - count
    tail = EvaluationWindow(window.first + head, window.stop, window.market.window(head, len(unseen)))
    net = backtest(champion[:, head:], tail, recipe).net
    comparison = ChampionComparison(
        version,
        count,
        challenger_net=float(backtest(challenger[:, head:], tail, recipe).net.sum()),
        champion_net=float(net.sum()),
    )
    closes = tail.market.ts_close_ns
    first, bars = complete_periods(closes, width_ns=width_ns, period_ns=period_ns)
    starts = (closes[first] - width_ns).tolist()
    return comparison, dict(zip(starts, net_by_period(net, first, bars).tolist(), strict=True))


def make_summary(
    folder: NightArtifacts,
    folds: list[Fold],
    recipe: Recipe,
    window: EvaluationWindow,
    ledgers: Mapping[str, PositionLedger],
    backtests: dict[str, BacktestResult],
    valid_ic: dict[str, list[float]],
    challenger: str,
    champion: ChampionComparison | None,
) -> dict[str, Any]:
    """Return the value of `summary.json`, from which the report is made."""
    models = {
        name: {
            "role": "control" if name in recipe.controls else "challenger",
            "folds": [folder.read(f"{folder.model_path(f.index, name)}/metrics.json")["test"] for f in folds],
            "test": asdict(score_all_folds(folder, folds, recipe, name)),
            "traded": asdict(backtests[name]),
        }
        for name in recipe.models
    }
    steps = np.unique(np.linspace(0, window.stop - window.first - 1, _CURVE_POINTS).astype(int))
    return {
        "models": models,
        "equity": {
            "ts_ns": window.market.ts_close_ns[steps].tolist(),
            "net": {name: ledgers[name].net.cumsum()[steps].tolist() for name in recipe.models},
        },
        "valid_ic": valid_ic,
        "seed_ic": [
            score_all_folds(folder, folds, recipe, challenger, number).ic.value
            for model, number in recipe.model_seeds
            if model == challenger
        ],
        "notes": _notes(folder, recipe, champion),
    }


def _notes(folder: NightArtifacts, recipe: Recipe, champion: ChampionComparison | None) -> list[str]:
    """Return the caveats that a reader of the figures must know."""
    counts, costs = folder.read("panel.json"), recipe.costs
    share = counts["funding_share"]
    notes = [
        "funding is left out: the lake holds no paid funding in this range"
        if share is None
        else f"paid funding is known for {share:.0%} of instrument-hours; the rest is left out"
    ]
    if counts["basis"]["print"]:
        notes.append(
            f"{counts['basis']['print']} labels are returns of last prints, which bounce between bid and ask, and "
            f"the half spread of a bar without a quote is estimated from them, at least {costs.half_spread_bps:g} bp"
        )
    proof = folder.read("proof.json")
    if unproven := proof.get("unproven"):
        notes.append(f"not proven, since nowhere valid on these bars: {', '.join(unproven)}")
    if suspects := [
        f"{name} ({bars} bars ahead: {agreed:+.2f})" for name, bars, agreed in proof["hindsight"]["suspects"]
    ]:
        notes.append(f"predicts later returns suspiciously well, check its inputs: {', '.join(suspects)}")
    bare = [name for name, valid in counts["valid_share"].items() if valid < 0.5]
    if bare:
        notes.append(f"valid on less than half of the rows: {', '.join(bare)}")
    if (cut := cut_of(folder)) is not None:
        notes.append(
            f"bars from {iso(cut[0])} to {iso(cut[1])} were sealed in a holdout, so the night ends before"
        )
    fee = "the recipe's own" if costs.taker_fee_bps is not None else "the venue's table"
    notes.append(f"taker fee from {fee}; impact {costs.impact_bps:g} bp times the root of the bar's share")
    if recipe.shrunk_from:
        notes.append(
            f"each challenger has {recipe.seeds} of the recipe's {recipe.shrunk_from} seeds, so that the night ends "
            "before the next one"
        )
    if champion is not None and champion.obstacle:
        notes.append(champion.obstacle_note)
    elif champion is not None and champion.unseen_steps:
        notes.append(
            f"on the {champion.unseen_steps} test steps that {champion.version} was not trained on it earned "
            f"{champion.champion_net:+.2%}, and the challenger {champion.challenger_net:+.2%}; this does not decide"
        )
    return notes
