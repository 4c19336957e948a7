"""Data of a night and one fold of it, made in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from features.feature import FeatureBlock
from features.panel.panel import Panel
from tests.training.builders import GRACE_NS, MINUTE_NS, START_NS, panel_of, stamp_of
from training.data.folds import Fold, TimeSpan, split_rows
from training.data.labels import make_labels, prices_at_close, trailing_return
from training.models.device import prepare_device
from training.models.estimators import FittedModel, FoldContext, fit_model
from training.night.artifacts import NightData
from training.night.fold_training import FoldRows, fit_normaliser, fold_rows
from training.night.scoring import make_fold_context
from training.recipe import RECIPES, Recipe

RECIPE = replace(RECIPES["demo"], window_bars=4)


def data_of(panel: Panel, recipe: Recipe = RECIPE) -> NightData:
    """Return a night's data with two features: the returns over one and two bars."""
    labels = make_labels(panel, recipe.label, grace_ns=GRACE_NS)
    returns = [trailing_return(prices_at_close(panel), bars) for bars in (1, 2)]
    values = torch.stack(returns, dim=-1)
    mask = torch.isfinite(values)
    block = FeatureBlock(
        names=("one", "two"),
        values=torch.where(mask, values, 0.0).to(torch.float32),
        mask=mask,
        instruments=panel.instruments,
        width_ns=panel.width_ns,
        ts_open_ns=panel.ts_open_ns,
        fingerprint="f",
    )
    return NightData(panel, block, labels, returns[0] / labels.scale, None)


def fold_of(steps: int) -> Fold:
    """Return a fold of a range of minutes: 60% train, 20% valid, 20% test."""

    def at(share: float) -> int:
        return START_NS + int(steps * share) * MINUTE_NS

    return Fold(
        0, TimeSpan(at(0), at(0.6)), TimeSpan(at(0.6), at(0.8)), TimeSpan(at(0.8), at(1)), 6 * MINUTE_NS
    )


def bounce(*, steps: int = 1500, bp: float = 12.0) -> Panel:
    """Return prints that alternate between bid and ask around the random walks of two mids."""
    rng = np.random.default_rng(0)
    mid = np.cumsum(rng.standard_normal((2, steps)) * 3e-4, axis=1)
    side = np.where(np.arange(steps) % 2 == 0, 1.0, -1.0)
    return panel_of(np.exp(np.log(100) + mid + side * bp / 2e4))


def rows_in(data: NightData, fold: Fold, recipe: Recipe = RECIPE) -> FoldRows:
    """Return the rows of a fold."""
    parts = split_rows(fold, data.labels.ts_decided_ns, data.labels.ts_span_end_ns)
    return fold_rows(data, parts, recipe)


def context_of(data: NightData, rows: FoldRows, recipe: Recipe = RECIPE) -> FoldContext:
    """Return windows and labels under the normaliser of a fold's train rows, on one thread of a CPU."""
    return make_fold_context(data, fit_normaliser(data, rows.seen), recipe, prepare_device("cpu", threads=1))


def fitted(
    model: str, context: FoldContext, rows: FoldRows, folder: Path, recipe: Recipe = RECIPE
) -> FittedModel:
    """Return a fitted model."""
    stamp = replace(stamp_of(), model=model, fold=0)
    return fit_model(context, rows.seen, rows.valid, stamp, recipe.fit, folder=folder, fold=0)
