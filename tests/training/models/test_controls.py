"""Baselines: reference values, equal bits, and loading from weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from storage.errors import SettingsError
from training.models.baseline import BarRows
from training.models.controls import BASELINES, fit_baseline, load_baseline


def table(n: int = 800, *, seed: int = 0) -> BarRows:
    draw = torch.Generator().manual_seed(seed)
    mask = (torch.rand((n, 3), generator=draw) < 0.9).float()
    x = torch.randn((n, 3), generator=draw) * mask
    past = torch.randn(n, generator=draw, dtype=torch.float64)
    label = x[:, 0] - 0.5 * x[:, 1] + 0.3 * past.float() + 0.2 * torch.randn(n, generator=draw)
    return BarRows(x, mask, past, label)


TRAIN, VALID = table(seed=0), table(300, seed=1)


@pytest.mark.parametrize("name", BASELINES)
def test_baseline_is_restored_from_its_weights(name: str) -> None:
    fitted = fit_baseline(name, TRAIN, VALID, seed=3, threads=1)
    again = load_baseline(name, fitted.weights())
    assert torch.equal(fitted.predict(VALID), again.predict(VALID))
    assert fitted.predict(VALID).shape == (300,)
    assert fitted.predict(VALID).dtype == torch.float32
    assert again.predict(table(0)).shape == (0,)


@pytest.mark.parametrize("name", BASELINES)
def test_same_seed_gives_same_bits(name: str) -> None:
    first, second = (fit_baseline(name, TRAIN, VALID, seed=3, threads=1).weights() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_ridge_equals_least_squares_with_rows_for_the_shrinkage() -> None:
    fitted = fit_baseline("ridge", TRAIN, VALID, seed=0, threads=1)
    design = torch.cat((TRAIN.x, TRAIN.mask, torch.ones(800, 1)), dim=1).double().numpy()
    errors = []
    for alpha in (1e2, 1e3, 1e4, 1e5, 1e6):
        prior = np.sqrt(alpha) * np.eye(7)[:6]
        beta = np.linalg.lstsq(
            np.vstack([design, prior]), np.concatenate([TRAIN.label.numpy(), np.zeros(6)]), rcond=None
        )[0]
        predicted = torch.cat((VALID.x, VALID.mask, torch.ones(300, 1)), dim=1).double().numpy() @ beta
        errors.append((((predicted - VALID.label.numpy()) ** 2).sum(), beta))
    best = min(errors, key=lambda pair: pair[0])[1]
    np.testing.assert_allclose(fitted.weights()["coefficients"].numpy(), best, atol=1e-8)


def test_ridge_is_refitted_with_the_shrinkage_that_valid_rows_chose() -> None:
    fitted = fit_baseline("ridge", TRAIN, VALID, seed=0, threads=1)
    refit = fit_baseline("ridge", TRAIN, None, seed=0, threads=1, budget=fitted.budget)
    assert refit.budget == fitted.budget == load_baseline("ridge", fitted.weights()).budget
    assert torch.equal(refit.predict(VALID), fitted.predict(VALID))
    other = fit_baseline("ridge", TRAIN, None, seed=0, threads=1, budget=fitted.budget * 1_000)
    assert not torch.equal(other.predict(VALID), fitted.predict(VALID))


def test_momentum_is_one_coefficient_of_least_squares() -> None:
    past = TRAIN.past.clone()
    past[:10] = torch.nan
    fitted = fit_baseline(
        "momentum", BarRows(TRAIN.x, TRAIN.mask, past, TRAIN.label), VALID, seed=0, threads=1
    )
    expected = (past[10:] * TRAIN.label[10:]).sum() / (past[10:] ** 2).sum()
    assert fitted.weights()["coefficient"].item() == pytest.approx(expected.item())
    rows = BarRows(TRAIN.x, TRAIN.mask, past, TRAIN.label)
    assert (fitted.predict(rows)[:10] == 0).all()


def test_zero_predicts_zero() -> None:
    assert not fit_baseline("zero", TRAIN, VALID, seed=0, threads=1).predict(VALID).any()


def test_trees_learn_and_a_refit_grows_exactly_its_budget() -> None:
    fitted = fit_baseline("lightgbm", TRAIN, VALID, seed=0, threads=1)
    error = ((fitted.predict(VALID) - VALID.label) ** 2).mean()
    assert error < 0.6 * (VALID.label**2).mean()
    refit = fit_baseline("lightgbm", TRAIN, None, seed=0, threads=1, budget=7)
    assert refit.budget == 7
    assert load_baseline("lightgbm", refit.weights()).budget == 7


def test_unknown_baseline_or_missing_valid_rows_are_refused() -> None:
    with pytest.raises(SettingsError, match="no baseline 'arima' can be fitted with valid rows"):
        fit_baseline("arima", TRAIN, VALID, seed=0, threads=1)
    with pytest.raises(SettingsError, match="no baseline 'ridge' can be fitted without valid rows"):
        fit_baseline("ridge", TRAIN, None, seed=0, threads=1)
    with pytest.raises(SettingsError, match="no baseline is called 'arima'"):
        load_baseline("arima", {})
