"""Padding: masked bars and values under a mask change no prediction by a bit."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from features.feature import FeatureBlock
from tests.training.builders import MINUTE_NS, block_of, panel_of, walk
from tests.training.memory_night import RECIPE, context_of, data_of, fitted, fold_of, rows_in
from training.data.panel import Normaliser, PanelWindows
from training.models.device import prepare_device
from training.models.fit_rule import FitRule
from training.models.networks import NETWORKS, make_network
from training.models.trainer import TrainingRows, fit_network, predict_network
from training.night.fold_training import predict_rows
from training.night.scoring import score_folds

S, T, W = 3, 40, 8
GARBAGE = [1e9, -1e30, math.nan, math.inf]
RULE = FitRule(epochs=1, batch=16, learning_rate=1e-2)


def windows_of(made: FeatureBlock, first: int = 0) -> PanelWindows:
    """Return windows whose normaliser is fitted to the steps from `first` on."""
    rows = torch.zeros(made.mask.shape[:2], dtype=torch.bool)
    rows[:, first:] = True
    normaliser = Normaliser.fit(made.values, made.mask, rows)
    return PanelWindows(made, normaliser, window_bars=W, device=prepare_device("cpu", threads=1))


def trained(name: str, windows: PanelWindows, index: torch.Tensor) -> torch.nn.Module:
    """Return a network trained on rows, with a fixed label for each."""
    label = torch.randn(len(index), generator=torch.Generator().manual_seed(1))
    rows = TrainingRows(index, label, torch.ones(len(index), dtype=torch.bool))
    network = make_network(name, window_bars=W, n_features=windows.n_features, seed=3)
    fit_network(network, windows, rows, None, RULE, seed=1)
    return network


def padded(made: FeatureBlock, bars: int, value: float) -> FeatureBlock:
    """Return a block with masked bars before its first, whose values are garbage."""
    shape = (S, bars, made.values.shape[2])
    return replace(
        made,
        values=torch.cat((torch.full(shape, value), made.values), dim=1),
        mask=torch.cat((torch.zeros(shape, dtype=torch.bool), made.mask), dim=1),
        ts_open_ns=made.ts_open_ns[0] + MINUTE_NS * np.arange(-bars, T),
    )


@pytest.mark.parametrize("value", GARBAGE)
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_values_under_a_mask_change_no_weight_and_no_prediction(name: str, value: float) -> None:
    made = block_of(instruments=S, steps=T)
    dirty = replace(made, values=torch.where(made.mask, made.values, value))
    assert not torch.equal(dirty.values, made.values)
    index, found = torch.arange(S * T), []
    for block in (made, dirty):
        windows = windows_of(block)
        found.append(predict_network(trained(name, windows, index), windows, index))
    assert torch.equal(*found)
    assert found[0].std() > 0


@pytest.mark.parametrize("bars", [1, W - 1, W, 3 * W])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_masked_bars_before_the_first_change_no_weight_and_no_prediction(name: str, bars: int) -> None:
    made = block_of(instruments=S, steps=T)
    index, found = torch.arange(S * T), []
    for block, before in ((made, 0), (padded(made, bars, math.nan), bars)):
        rows = index // T * (T + before) + index % T + before
        windows = windows_of(block, before)
        found.append(predict_network(trained(name, windows, rows), windows, rows))
    assert torch.equal(*found)
    assert found[0].std() > 0


@pytest.mark.parametrize("name", ["ridge", "lightgbm", "mlp", "lstm"])
def test_instrument_that_lists_mid_range_trains_and_is_judged(name: str, tmp_path: Path) -> None:
    steps, listed = 900, 420
    close = np.exp(walk(instruments=3, steps=steps, seed=5, signal=0.8, volatility=3e-3))
    close[2, :listed] = math.nan
    status = [
        ["printed"] * steps,
        ["printed"] * steps,
        ["unlisted"] * listed + ["printed"] * (steps - listed),
    ]
    data = data_of(panel_of(close, status=status))
    recipe = replace(RECIPE, fit=replace(RECIPE.fit, epochs=3, batch=128, learning_rate=5e-3))
    rows = rows_in(data, fold_of(steps), recipe)
    late = [part[part // steps == 2] % steps for part in (rows.seen, rows.test)]
    assert len(late[0]) > 30
    assert int(late[0].min()) > listed
    assert len(late[1]) == (rows.test // steps == 0).sum()
    tested = predict_rows(
        fitted(name, context_of(data, rows, recipe), rows, tmp_path, recipe), rows.test, data
    )
    own = tested.instrument == 2
    assert np.isfinite(tested.prediction).all()
    assert np.ptp(tested.prediction[own]) > 0
    score = score_folds(
        [replace(tested, **{key: getattr(tested, key)[own] for key in tested.__slots__})], recipe, seed=1
    )
    assert score.rows > 100
    assert score.ic.value > 0.1
