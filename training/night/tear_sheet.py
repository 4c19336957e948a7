"""The tear sheet of a night, `tear_sheet.json`: predictive power and earnings of its models in parts.

It describes and decides nothing: the gate has its own figures. Every value is a function of the night's predictions,
labels and ledgers. Regimes are terciles whose limits come from the bars before the first test.

    models: {model: {pooled, cross_section, cross_section_rank: {value, t, count}, quantiles: [{value, count}],
             calibration: {slope, bins: [[prediction, label, rows]]}, decay: [[bars, ic]],
             by_instrument, by_hour, by_volatility, by_illiquidity: {name: {value, count}},
             money: {turnover_per_day, largest_fall, net, fills}}}
    capacity: [[capital_usd, net]] of the challenger, with its impact at that capital
    buy_and_hold: {net, largest_fall}, equal parts of all instruments, after costs
    importance: [[feature, loss of IC]] of the challenger on the newest fold, the largest first
    sharpe: training.evaluation.sharpe_range.SharpeRange of the lineage's path
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import numpy as np
import torch

from storage.clock import DAY_NS, HOUR_NS
from training.data.folds import Fold
from training.data.panel import Normaliser
from training.evaluation.breakdown import (
    LabelledRows,
    MeanOverTime,
    calibration,
    cross_sectional_ics,
    decay,
    ic_by_group,
    newey_west,
    products_by_time,
    quantile_means,
    terciles,
)
from training.evaluation.metrics import largest_fall
from training.evaluation.positions import PositionLedger, run_ledger
from training.evaluation.sharpe_range import sharpe_range
from training.models.checkpoint import load_checkpoint
from training.models.device import derive_seed
from training.models.estimators import load_model
from training.night.artifacts import NightArtifacts, NightData
from training.night.backtests import NightBacktests
from training.night.scoring import EvaluationWindow, make_fold_context
from training.recipe import Recipe

TEAR_SHEET: Final = "tear_sheet.json"
CAPITALS_USD: Final = (10_000.0, 100_000.0, 1_000_000.0, 10_000_000.0)
_DECAY_HORIZONS: Final = (0, 1, 2, 4, 8)
REGIMES: Final = ("low", "middle", "high")
_IMPORTANCE_ROWS: Final = 4_000
"""Test rows on which the importance of features is measured; each feature takes one pass over them."""


def write_tear_sheet(
    folder: NightArtifacts,
    folds: Sequence[Fold],
    data: NightData,
    recipe: Recipe,
    made: NightBacktests,
    device: torch.device,
    *,
    challenger: str,
    trials: int,
) -> None:
    """Write the tear sheet of a night whose members have been backtested.

    Args:
        folder: with the predictions of every fold.
        folds: oldest first.
        data: of the night.
        recipe: of the night.
        made: its backtests.
        device: that computes predictions.
        challenger: the model that the gate evaluates.
        trials: models that the home has tried on these tests.
    """
    regimes = _Regimes(data, made.window)
    models = {
        name: _describe_model(folder, folds, data, recipe, made, regimes, name) for name in recipe.models
    }
    sheet = {
        "models": models,
        "capacity": [
            [capital, _net_with_capital(made, recipe, challenger, capital)] for capital in CAPITALS_USD
        ],
        "buy_and_hold": _buy_and_hold(made.window, recipe),
        "importance": _importance(folder, folds[-1], data, recipe, challenger, device),
        "sharpe": asdict(sharpe_range(made.path.net.net, made.path.members, trials=trials)),
    }
    folder.write(TEAR_SHEET, sheet)


class _Regimes:
    """Terciles of volatility and illiquidity of each bar, by limits from the bars before the first test."""

    def __init__(self, data: NightData, window: EvaluationWindow) -> None:
        volatility = _relative(data.labels.scale.numpy(), window.first)
        notional = data.panel.values.get("notional")
        self.volatility = _tercile_of(volatility, window.first)
        self.illiquidity = None
        if notional is not None:
            with np.errstate(divide="ignore"):
                price_of_size = np.where(notional.numpy() > 0, 1.0 / notional.numpy(), np.nan)
            self.illiquidity = _tercile_of(_relative(price_of_size, window.first), window.first)


def _relative(values: np.ndarray, first: int) -> np.ndarray:
    """Return values over the median of their instrument before a step, (S, T); NaN where that is unknown."""
    found = np.full(values.shape, np.nan)
    for i, row in enumerate(values):
        before = row[:first][np.isfinite(row[:first])]
        if len(before) and np.median(before) > 0:
            found[i] = row / np.median(before)
    return found


def _tercile_of(values: np.ndarray, first: int) -> np.ndarray | None:
    before = values[:, :first][np.isfinite(values[:, :first])]
    return terciles(values, np.quantile(before, (1 / 3, 2 / 3)).tolist()) if len(before) else None


def labelled_rows(folder: NightArtifacts, folds: Sequence[Fold], model: str) -> LabelledRows:
    """Return the test rows of a model over all folds that have a label."""
    parts = [folder.read_predictions(folder.model_path(fold.index, model)) for fold in folds]
    fold = np.repeat(np.arange(len(parts)), [len(part.step) for part in parts])
    return LabelledRows.of(
        np.concatenate([part.instrument for part in parts]),
        np.concatenate([part.step for part in parts]),
        np.concatenate([part.prediction for part in parts]),
        np.concatenate([part.label for part in parts]),
        fold,
    )


def _describe_model(
    folder: NightArtifacts,
    folds: Sequence[Fold],
    data: NightData,
    recipe: Recipe,
    made: NightBacktests,
    regimes: _Regimes,
    model: str,
) -> dict[str, Any]:
    rows = labelled_rows(folder, folds, model)
    lags = recipe.label.horizon_bars
    labels = torch.where(data.labels.mask, data.labels.label, math.nan).numpy()
    hour = (data.panel.ts_open_ns[rows.step] % DAY_NS) // HOUR_NS
    found = {
        "pooled": newey_west(products_by_time(rows), lags=lags),
        "cross_section": newey_west(cross_sectional_ics(rows)[1], lags=lags),
        "cross_section_rank": newey_west(cross_sectional_ics(rows, rank=True)[1], lags=lags),
    }
    grouped = {
        "by_instrument": (rows.instrument, dict(enumerate(data.panel.instruments))),
        "by_hour": (hour, {n: f"{n:02d}" for n in range(24)}),
    }
    for name, regime in (("volatility", regimes.volatility), ("illiquidity", regimes.illiquidity)):
        if regime is not None:
            grouped[f"by_{name}"] = (regime[rows.instrument, rows.step], dict(enumerate(REGIMES)))
    return {
        **{name: asdict(value) for name, value in found.items()},
        "quantiles": [_short(part) for part in quantile_means(rows)],
        "calibration": asdict(calibration(rows)),
        "decay": decay(rows, labels, [n * recipe.label.horizon_bars for n in _DECAY_HORIZONS]),
        **{
            name: {names[number]: _short(part) for number, part in ic_by_group(rows, group).items()}
            for name, (group, names) in grouped.items()
        },
        "money": _describe_ledger(made.ledgers[model], made.window),
    }


def _short(part: MeanOverTime) -> dict[str, Any]:
    return {"value": part.value, "count": part.count}


def _describe_ledger(ledger: PositionLedger, window: EvaluationWindow) -> dict[str, Any]:
    closes = window.market.ts_close_ns
    days = (closes[-1] - closes[0]) / DAY_NS if len(closes) > 1 else math.nan
    return {
        "turnover_per_day": sum(abs(fill.change) for fill in ledger.fills) / days if days else math.nan,
        "largest_fall": largest_fall(ledger.net.cumsum()),
        "net": float(ledger.net.sum()),
        "fills": len(ledger.fills),
    }


def _net_with_capital(made: NightBacktests, recipe: Recipe, model: str, capital_usd: float) -> float:
    costs = replace(recipe.costs, capital_usd=capital_usd)
    return float(run_ledger(made.dense[model], made.window.market, recipe.position, costs).net.sum())


def _buy_and_hold(window: EvaluationWindow, recipe: Recipe) -> dict[str, float]:
    """Return what equal parts of all instruments earn, bought at the first bar and held to the end."""
    market = window.market
    steps = market.price.shape[1]
    rule = replace(recipe.position, threshold=0.0, hold_bars=steps, capacity_share=None)
    # A move of any size opens a position above a threshold of 0.
    ledger = run_ledger(np.ones(market.price.shape), market, rule, recipe.costs)
    return {"net": float(ledger.net.sum()), "largest_fall": largest_fall(ledger.net.cumsum())}


def _importance(
    folder: NightArtifacts,
    fold: Fold,
    data: NightData,
    recipe: Recipe,
    model: str,
    device: torch.device,
) -> list[tuple[str, float]]:
    """Return the IC that the model of the newest fold loses on its test rows if one feature is that of another time.

    Each feature is moved in a circle along the time of its instrument, which keeps its values and their order.
    """
    if recipe.predictions == model:
        return []  # predictions that were made elsewhere have no model here
    saved = load_checkpoint(folder.path / folder.model_path(fold.index, model), expect={})
    part = folder.read_predictions(folder.model_path(fold.index, model))
    draw = np.random.default_rng(derive_seed(folder.facts["seed"], "importance"))
    known = np.flatnonzero(np.isfinite(part.label))
    if len(known) < 2:
        return []
    chosen = np.sort(draw.choice(known, min(_IMPORTANCE_ROWS, len(known)), replace=False))
    label = part.label[chosen].astype(np.float64)
    index = torch.from_numpy(
        part.instrument[chosen].astype(np.int64) * data.panel.n_steps + part.step[chosen]
    )
    values, mask = data.block.values.clone(), data.block.mask.clone()
    moved = replace(data, block=replace(data.block, values=values, mask=mask), lessons=None)
    fitted = load_model(
        make_fold_context(moved, Normaliser.from_plain(saved.normaliser), recipe, device), saved
    )
    whole = _ic(fitted.predict(index).numpy(), label)
    found = []
    for place, name in enumerate(data.block.names):
        shift = int(draw.integers(data.panel.n_steps // 4, 3 * data.panel.n_steps // 4 + 1))
        for tensor in (values, mask):
            tensor[..., place] = tensor[..., place].roll(shift, dims=1)
        found.append((name, whole - _ic(fitted.predict(index).numpy(), label)))
        values[..., place], mask[..., place] = data.block.values[..., place], data.block.mask[..., place]
    return sorted(found, key=lambda item: -item[1] if math.isfinite(item[1]) else math.inf)


def _ic(prediction: np.ndarray, label: np.ndarray) -> float:
    if np.ptp(prediction) == 0 or np.ptp(label) == 0:
        return 0.0
    return float(np.corrcoef(prediction, label)[0, 1])
