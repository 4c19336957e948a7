"""Health of fits: rows that cannot train, divergence, predictions, and agreement of a refit with its folds."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from storage.clock import iso
from storage.errors import FitError
from tests.training.builders import MINUTE_NS, START_NS, stamp_of
from tests.training.memory_night import RECIPE, bounce, context_of, data_of, fitted, fold_of, rows_in
from training.models.estimators import FoldContext, fit_model
from training.models.fit_health import (
    LEAST_AGREEMENT,
    check_agreement,
    check_predictions,
    check_training_rows,
)
from training.models.networks import NETWORKS

STEPS = 900
DATA, FOLD = data_of(bounce(steps=STEPS)), fold_of(STEPS)
ROWS = rows_in(DATA, FOLD)
CONTEXT = context_of(DATA, ROWS)
NONE = torch.arange(0)


def name_of(row: int) -> str:
    return f"hyperliquid|perp|C{row // STEPS} at {iso(START_NS + row % STEPS * MINUTE_NS)}"


def labels_with(change: dict[int, float]) -> FoldContext:
    label = CONTEXT.label.clone()
    for row, value in change.items():
        label[row] = value
    return replace(CONTEXT, label=label)


def features_with(change: dict[int, float]) -> FoldContext:
    block = replace(DATA.block, values=DATA.block.values.clone())
    for row, value in change.items():
        block.values[row // STEPS, row % STEPS] = value
        assert block.mask[row // STEPS, row % STEPS].all()
    return replace(context_of(replace(DATA, block=block), replace(ROWS, seen=ROWS.seen[:100])))


def check(
    context: FoldContext,
    train: torch.Tensor = ROWS.seen,
    valid: torch.Tensor | None = ROWS.valid,
    fold: int = 2,
) -> None:
    check_training_rows(context, train, valid, labelled=ROWS.labelled, fold=fold)


def test_sound_rows_pass() -> None:
    check(CONTEXT)
    check(CONTEXT, valid=None, fold=-1)
    assert ROWS.labelled >= len(ROWS.seen) > 500


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("part", ["train", "valid"])
def test_label_that_is_not_finite_under_its_mask_is_named(part: str, value: float) -> None:
    rows = ROWS.seen if part == "train" else ROWS.valid
    bad = int(rows[70])
    with pytest.raises(
        FitError, match=rf"fold 2 cannot train: 1 of {len(rows)} {part} labels are not"
    ) as caught:
        check(labels_with({bad: value}))
    assert name_of(bad) in caught.value.message
    assert caught.value.facts["instrument"] == f"hyperliquid|perp|C{bad // STEPS}"


@pytest.mark.parametrize("part", ["train", "valid"])
def test_constant_labels_are_refused(part: str) -> None:
    rows = ROWS.seen if part == "train" else ROWS.valid
    with pytest.raises(FitError, match=rf"all {len(rows)} {part} labels are 0.25"):
        check(labels_with(dict.fromkeys(rows.tolist(), 0.25)))


def test_empty_and_fully_masked_folds_are_refused() -> None:
    with pytest.raises(
        FitError, match=rf"every feature is masked on all {ROWS.labelled} labelled train rows"
    ):
        check(CONTEXT, train=NONE)
    with pytest.raises(FitError, match="the refit cannot train: it has no labelled train rows"):
        check_training_rows(CONTEXT, NONE, None, labelled=0, fold=-1)
    with pytest.raises(FitError, match="fold 2 cannot train: it has no labelled valid rows"):
        check(CONTEXT, valid=NONE)


def test_fully_masked_features_leave_no_rows_but_are_told_from_an_empty_fold() -> None:
    masked = replace(DATA, block=replace(DATA.block, mask=torch.zeros_like(DATA.block.mask)))
    rows = rows_in(masked, FOLD)
    assert (len(rows.seen), len(rows.valid), rows.labelled) == (0, 0, ROWS.labelled)


def test_constant_features_are_refused() -> None:
    block = replace(DATA.block, values=torch.full_like(DATA.block.values, 3.0))
    with pytest.raises(FitError, match="every feature is constant on all"):
        check(context_of(replace(DATA, block=block), ROWS))


def test_feature_that_is_nan_under_its_mask_is_named() -> None:
    bad = int(ROWS.seen[200])
    with pytest.raises(FitError, match="a valid feature is not finite") as caught:
        check(features_with({bad: math.nan}))
    assert name_of(bad) in caught.value.message


@pytest.mark.parametrize("rate", [1e20, 1e6])
@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("is_refit", [False, True])
def test_absurd_learning_rate_is_an_error_and_saves_no_weights(
    name: str, rate: float, is_refit: bool, tmp_path: Path
) -> None:
    """A rate of 1e20 gave NaN losses without an error, and a refit registered NaN weights."""
    stamp = replace(stamp_of(), model=name, fold=-1 if is_refit else 1)
    where = "the refit" if is_refit else "fold 1"
    with pytest.raises(
        FitError, match=rf"{name} failed on {where} in epoch [\d.]+ at learning rate 1e\+\d+"
    ) as caught:
        fit_model(
            CONTEXT,
            ROWS.seen,
            None if is_refit else ROWS.valid,
            stamp,
            replace(RECIPE.fit, learning_rate=rate),
            folder=tmp_path,
            fold=-1 if is_refit else 1,
            budget=8 if is_refit else None,
        )
    assert {
        "model",
        "fold",
        "epoch",
        "learning_rate",
        "instrument",
        "ts_open_ns",
    } <= caught.value.facts.keys()
    assert name_of(int(ROWS.seen[0]))[:16] in caught.value.message


@pytest.mark.parametrize("name", ["ridge", "mlp"])
def test_nan_label_that_passed_the_check_still_stops_the_fit(name: str, tmp_path: Path) -> None:
    bad = int(ROWS.seen[300])
    with pytest.raises(FitError) as caught:
        fitted(name, labels_with({bad: math.nan}), ROWS, tmp_path)
    assert name == "ridge" or f"first bad row: {name_of(bad)}" in caught.value.message
    assert not (tmp_path / "manifest.json").exists() or name == "mlp"


def test_prediction_that_is_not_finite_is_named() -> None:
    prediction = np.zeros(len(ROWS.test), dtype=np.float32)
    check_predictions(CONTEXT, ROWS.test, prediction, model="mlp", fold=1)
    prediction[5:7] = np.inf
    with pytest.raises(
        FitError, match=rf"mlp of fold 1 predicts inf on 2 of {len(ROWS.test)} rows"
    ) as caught:
        check_predictions(CONTEXT, ROWS.test, prediction, model="mlp", fold=1)
    assert name_of(int(ROWS.test[5])) in caught.value.message


LABEL = torch.where(CONTEXT.mask, CONTEXT.label, 0.0)[ROWS.test].numpy()
NOISE = np.random.default_rng(0).standard_normal((2, len(ROWS.test))).astype(np.float32)


def agree(refit: np.ndarray, fold: np.ndarray) -> float:
    """Return the agreement on a fold whose model has no opinion, and on one where both are given."""
    constant = np.zeros_like(fold)
    return check_agreement(
        CONTEXT,
        [ROWS.test, ROWS.test],
        [refit, refit],
        [constant, fold],
        model="mlp",
        learning_rate=0.1,
        epoch=2.0,
    )


def test_agreement_is_a_rank_correlation_over_folds_with_an_opinion() -> None:
    skilled = LABEL + NOISE[0]
    assert agree(np.exp(skilled), skilled) == pytest.approx(1.0)
    assert math.isnan(agree(NOISE[0], np.zeros_like(NOISE[0])))


def test_models_of_noise_may_disagree() -> None:
    # By luck, this noise predicts the labels a little; a refit has seen them, so its luck is not below that of a fold.
    assert agree(NOISE[0], -NOISE[0]) == pytest.approx(-1.0)
    assert abs(agree(NOISE[1], NOISE[0])) < 0.3


@pytest.mark.parametrize("case", ["opposed", "unrelated", "constant"])
def test_refit_that_lost_the_skill_of_its_folds_is_refused(case: str) -> None:
    skilled = LABEL + NOISE[0]
    refit = {"opposed": -skilled, "unrelated": NOISE[1], "constant": np.zeros_like(skilled)}[case]
    message = (
        r"refit of mlp \(epoch 2, learning rate 0.1\) disagrees with its folds.*first bad row: hyperliquid"
    )
    with pytest.raises(FitError, match=message) as caught:
        agree(refit, skilled)
    assert float(str(caught.value.facts["agreement"])) < LEAST_AGREEMENT
    assert caught.value.facts["fold"] == 1
