"""A night with every loss, weights and excess labels passes its own audits, and reports its intervals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from storage.errors import LeakError
from tests.training.builders import GRACE_NS, panel_of, walk
from tests.training.memory_night import RECIPE, context_of, data_of, fitted, fold_of, rows_in
from training.data.labels import make_labels
from training.evaluation.conformal import interval_coverage
from training.models.losses import LOSSES, LossName
from training.night.fit_audit import _criterion
from training.night.fold_training import predict_rows, scored_rows
from training.night.input_audit import check_labels

STEPS = 700


@pytest.mark.parametrize("loss", LOSSES)
def test_the_audit_finds_the_validation_loss_of_every_loss(loss: LossName, tmp_path: Path) -> None:
    """Computed anew from stored predictions, as the audit of a night does, with weights."""
    recipe = replace(
        RECIPE,
        label=replace(RECIPE.label, weights="uniqueness"),
        fit=replace(RECIPE.fit, epochs=1, batch=128, learning_rate=5e-3, loss=loss, order="chronological"),
    )
    close = np.exp(walk(instruments=4, steps=STEPS, seed=5, signal=0.8, volatility=3e-3))
    close[1, 300:520:7] = np.nan
    data = data_of(panel_of(close), recipe)
    rows = rows_in(data, fold_of(STEPS), recipe)
    model = fitted("mlp", context_of(data, rows, recipe), rows, tmp_path, recipe)
    best = min(model.history, key=lambda entry: entry.valid_loss)
    assert best.epoch > 0
    valid = torch.zeros(data.labels.mask.numel(), dtype=torch.bool)
    valid[rows.valid] = True
    found = _criterion(
        predict_rows(model, rows.validated, data), valid.reshape(data.labels.mask.shape), recipe
    )
    given = best.valid_ic if loss == "quantiles" else best.valid_loss
    assert found == pytest.approx(given, rel=1e-4)
    parts = [
        scored_rows(model, index, predict_rows(model, index, data), data)
        for index in (rows.validated, rows.test)
    ]
    covered = interval_coverage(*parts)
    assert covered["calibration_rows"] > 300
    assert 0.75 < covered["adaptive"]["coverage"] < 1
    assert (parts[1].half_width > 0).any() == (loss == "quantiles")


def test_audit_of_labels_knows_the_market() -> None:
    panel = panel_of(np.exp(walk(instruments=4, steps=200, seed=2)))
    rule = replace(RECIPE.label, target="excess")
    labels = make_labels(panel, rule, grace_ns=GRACE_NS)
    assert check_labels(panel, labels, rule, grace_ns=GRACE_NS) == int(labels.mask.sum()) > 400
    with pytest.raises(LeakError, match="has the label"):
        check_labels(panel, labels, RECIPE.label, grace_ns=GRACE_NS)
