"""Backtests of a night: every model and seed over all tests, and the path of the lineage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from storage.lake.lake import Lake
from training.data.folds import Fold
from training.evaluation.positions import MarketData, PositionLedger
from training.night.artifacts import VALID_PREDICTIONS, NightArtifacts, NightData
from training.night.lineage_evidence import GateRecord, Lineage, lineage_of, read_gate_record
from training.night.lineage_path import LineagePath, nets_before_first_test, period_of, stitch_path
from training.night.market_data import make_market
from training.night.scoring import EvaluationWindow, backtest, evaluation_window, to_dense
from training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class NightBacktests:
    """What the models of a night would have earned over its tests.

    Args:
        market: prices and costs of all steps of the panel.
        window: of all tests.
        dense: (S, T) predictions over the window by model and seed; NaN where there is none.
        ledgers: their backtests.
        lineage: of the night.
        record: evidence of earlier nights.
        period_ns: length of a day of the lineage.
        path: of the lineage.
        earlier: by fold, then model: net by period before all tests (see `nets_before_first_test`).
    """

    market: MarketData
    window: EvaluationWindow
    dense: Mapping[str, np.ndarray]
    ledgers: Mapping[str, PositionLedger]
    lineage: Lineage
    record: GateRecord
    period_ns: int
    path: LineagePath
    earlier: Sequence[Mapping[str, np.ndarray]]


def backtest_night(
    folder: NightArtifacts,
    folds: Sequence[Fold],
    data: NightData,
    recipe: Recipe,
    lake: Lake,
    *,
    order: Sequence[str] = (),
) -> NightBacktests:
    """Return the backtests of all members, and the path of the models that were chosen before each test.

    Args:
        folder: with the predictions of every fold.
        folds: oldest first; their tests follow each other.
        data: of the night.
        recipe: its members, position rule and costs.
        lake: has the evidence of earlier nights.
        order: models to choose among, simplest first (default: those of the recipe).
    """
    width_ns, decided_ns = data.panel.width_ns, data.labels.ts_decided_ns
    market = make_market(data, recipe, folder.fees, grace_ns=folder.facts["grace_ms"] * 1_000_000)
    window = evaluation_window(market, folds, decided_ns)
    dense = {
        folder.model_name(*fit): to_dense(
            [folder.read_predictions(folder.model_path(fold.index, *fit)) for fold in folds],
            window,
            recipe,
        )
        for fit in recipe.model_seeds
    }
    ledgers = {name: backtest(prediction, window, recipe) for name, prediction in dense.items()}
    lineage, record = lineage_of(recipe), read_gate_record(lake, night=folder.path.name)
    period_ns = record.period_ns(lineage.name) or period_of(recipe.folds, width_ns=width_ns)
    validated = [
        {
            name: folder.read_predictions(folder.model_path(fold.index, name), VALID_PREDICTIONS)
            for name in recipe.models
        }
        for fold in folds
    ]
    earlier = nets_before_first_test(
        validated, market, folds, recipe, decided_ns, width_ns=width_ns, period_ns=period_ns
    )
    path = stitch_path(
        dense,
        ledgers,
        market,
        window,
        folds,
        recipe,
        decided_ns,
        earlier=earlier,
        width_ns=width_ns,
        period_ns=period_ns,
        seed=folder.facts["seed"],
        order=order,
    )
    return NightBacktests(market, window, dense, ledgers, lineage, record, period_ns, path, earlier)
