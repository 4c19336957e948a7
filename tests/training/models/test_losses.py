"""Losses: equal to independent formulas, finite where training starts, and fair to weights and members."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from storage.errors import SettingsError
from training.models.fit_rule import FitRule
from training.models.losses import (
    LOSSES,
    QUANTILES,
    LossName,
    LossRows,
    group_by_time,
    n_outputs,
    point_prediction,
    prediction_loss,
)

N = 60


def rows_of(*, seed: int = 0, hidden: float = 0.3) -> LossRows:
    draw = torch.Generator().manual_seed(seed)
    mask = torch.rand(N, generator=draw) > hidden
    label = torch.where(mask, torch.randn(N, generator=draw), math.nan)
    return LossRows(label, mask, None, group_by_time(torch.randint(0, 9, (N,), generator=draw)))


def output_of(name: LossName, *, seed: int = 1, scale: float = 1.0) -> torch.Tensor:
    count = n_outputs(name)
    shape = (N, count) if count > 1 else (N,)
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def loss_of(name: LossName, output: torch.Tensor, rows: LossRows) -> torch.Tensor:
    return prediction_loss(name, output, rows, delta=1.0)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_finite_and_not_zero_where_training_starts(name: LossName) -> None:
    output = output_of(name, scale=0.0).requires_grad_()
    loss = loss_of(name, output, rows_of())
    loss.backward()
    assert output.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(output.grad).all()
    assert output.grad.abs().max() > 0


@pytest.mark.parametrize("name", LOSSES)
def test_without_labels_the_gradient_is_zero(name: LossName) -> None:
    output = output_of(name).requires_grad_()
    loss_of(name, output, replace(rows_of(), mask=torch.zeros(N, dtype=torch.bool))).backward()
    assert output.grad is not None
    assert output.grad.abs().max() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_rows_without_a_label_change_nothing(name: LossName) -> None:
    rows, output = rows_of(), output_of(name)
    assert rows.group is not None
    kept = rows.mask
    alone = LossRows(rows.label[kept], rows.mask[kept], None, group_by_time(rows.group[kept]))
    torch.testing.assert_close(loss_of(name, output, rows), loss_of(name, output[kept], alone))


@pytest.mark.parametrize("name", LOSSES)
def test_a_weight_of_two_is_a_row_twice(name: LossName) -> None:
    rows, output = rows_of(), output_of(name)
    assert rows.group is not None
    twice = torch.arange(N) % 3 == 0
    # Every time has enough rows, so that repeated ones make no new time.
    group = rows.group % 3
    weighted = replace(rows, weight=1.0 + twice.float(), group=group)
    both = torch.cat((torch.arange(N), torch.nonzero(twice).squeeze(1)))
    repeated = LossRows(rows.label[both], rows.mask[both], None, group[both])
    torch.testing.assert_close(loss_of(name, output, weighted), loss_of(name, output[both], repeated))


@pytest.mark.parametrize("name", LOSSES)
def test_loss_of_members_is_the_mean_of_their_losses(name: LossName) -> None:
    rows, members = rows_of(), [output_of(name, seed=seed) for seed in range(4)]
    expected = torch.stack([loss_of(name, member, rows) for member in members]).mean()
    torch.testing.assert_close(loss_of(name, torch.stack(members, dim=1), rows), expected)


@pytest.mark.parametrize("name", ["ic", "time_ic"])
def test_ic_equals_that_of_numpy_beside_the_relative_error(name: LossName) -> None:
    """numpy.corrcoef; with predictions far wider than the added spread of 0.05 to 1e-5."""
    rows, output = rows_of(), output_of("ic", scale=100.0)
    assert rows.group is not None
    x, y = output[rows.mask].double().numpy(), rows.label[rows.mask].double().numpy()
    group = np.zeros(len(x)) if name == "ic" else rows.group[rows.mask].numpy()
    parts = [(group == g) for g in np.unique(group) if (group == g).sum() >= 3]
    if name == "time_ic":
        assert len(parts) > 3
    ic = np.average([np.corrcoef(x[p], y[p])[0, 1] for p in parts], weights=[p.sum() for p in parts])
    error = ((x - y) ** 2).sum() / (y**2).sum()
    assert loss_of(name, output, rows).item() - error == pytest.approx(1 - ic, abs=error * 1e-6 + 1e-5)


def test_ic_prefers_the_scale_of_least_squares() -> None:
    """A correlation has no scale; positions need one."""
    rows, signal = rows_of(hidden=0.0), output_of("ic", seed=3)
    rows = replace(rows, label=0.3 * signal + rows.label)
    best = float((signal * rows.label).sum() / (signal**2).sum())
    losses = {scale: loss_of("ic", scale * best * signal, rows).item() for scale in (0.25, 1.0, 4.0)}
    assert min(losses, key=lambda scale: losses[scale]) == 1.0


def test_the_best_constants_of_pinball_are_the_quantiles_of_numpy() -> None:
    label = torch.randn(2_000, generator=torch.Generator().manual_seed(2))
    rows = LossRows(label, torch.ones(len(label), dtype=torch.bool))
    quantiles = torch.tensor(np.quantile(label.numpy(), QUANTILES))
    best = loss_of("quantiles", quantiles.expand(len(label), 3).float(), rows).item()
    for place in range(3):
        for move in (-0.1, 0.1):
            moved = quantiles.clone()
            moved[place] += move
            assert loss_of("quantiles", moved.expand(len(label), 3).float(), rows).item() > best


def test_point_prediction_of_quantiles_is_their_median_even_where_they_cross() -> None:
    assert point_prediction(torch.tensor([[0.0, 1.0, 2.0], [5.0, -1.0, 3.0]])).tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "mse"}, r"fit.loss is 'mse'.*huber, ic, time_ic, r2, quantiles"),
        ({"schedule": "linear"}, r"fit.schedule is 'linear'.*constant, cosine"),
        ({"warmup_epochs": 12.0}, r"fit.warmup_epochs is 12.0.*0 .. 12"),
        ({"final_rate": 1.5}, r"final_rate 1.5"),
        ({"loss": "time_ic"}, r"time_ic.*fit.order = \"chronological\""),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        FitRule(**change)  # type: ignore[arg-type]
