"""Training losses: Huber, information coefficient, weighted R2 and three quantiles.

A loss is a pure function of a network's output and its rows (`LossRows`). Axis 0 is always rows. An output has

- (B,): one prediction per row,
- (B, M): one prediction of each of M members (training/models/tabm.py); the loss is the mean of the members' losses,
- with the loss `quantiles` one more axis, last, of the `QUANTILES`.

Every loss is 0 with a zero gradient where no label was observed, and is finite with a finite gradient at the
prediction zero, where all networks start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import torch

LossName = Literal["huber", "ic", "time_ic", "r2", "quantiles"]
LOSSES: Final[tuple[LossName, ...]] = ("huber", "ic", "time_ic", "r2", "quantiles")
QUANTILES: Final = (0.05, 0.5, 0.95)
"""Levels that a network predicts with the loss `quantiles`; the median is its prediction."""
LEAST_GROUP: Final = 3
"""Labelled rows that a time needs to have a correlation."""

_SPREAD: Final = 0.05
"""Deviation of predictions, in volatilities, that is added in the denominator of a correlation. Without it the
gradient has no limit at constant predictions, where a network starts."""


@dataclass(frozen=True, slots=True)
class LossRows:
    """Labels of the rows of a batch.

    Args:
        label: (B,) float32, in volatilities; masked ones may have any value, also NaN.
        mask: (B,) bool, the label was observed.
        weight: (B,) float32, or `None` for equal weights.
        group: (B,) int64 in [0, B), equal for rows of one time; used by `time_ic` only.
    """

    label: torch.Tensor
    mask: torch.Tensor
    weight: torch.Tensor | None = None
    group: torch.Tensor | None = None


def n_outputs(loss: LossName) -> int:
    """Return the number of values that a network predicts for each row."""
    return len(QUANTILES) if loss == "quantiles" else 1


def group_by_time(step_B: torch.Tensor) -> torch.Tensor:
    """Return numbers from 0 that are equal for equal steps, (B,) int64."""
    group_B: torch.Tensor = torch.unique(step_B, return_inverse=True)[1]
    return group_B


def prediction_loss(name: LossName, output: torch.Tensor, rows: LossRows, *, delta: float) -> torch.Tensor:
    """Return the loss of a batch.

    Args:
        name: of the loss.
        output: of the network, see above.
        rows: labels.
        delta: of the Huber loss.
    """
    if name == "quantiles":
        by_row = output.movedim(-1, 1) if output.dim() == 3 else output
        return _pinball(by_row, rows)
    if output.dim() == 2:
        return torch.stack([_single(name, member, rows, delta) for member in output.unbind(1)]).mean()
    return _single(name, output, rows, delta)


def point_prediction(output: torch.Tensor) -> torch.Tensor:
    """Return the prediction (B,) of an output in evaluation mode: itself, or the median of its quantiles."""
    return sorted_quantiles(output)[:, len(QUANTILES) // 2] if output.dim() == 2 else output


def sorted_quantiles(output: torch.Tensor) -> torch.Tensor:
    """Return quantiles (B, 3) that do not cross.

    Sorting never makes them worse (Chernozhukov, Fernandez-Val, Galichon, Quantile and Probability Curves Without
    Crossing, 2010).
    """
    return output.sort(dim=-1).values


def masked_huber(
    prediction_B: torch.Tensor,
    label_B: torch.Tensor,
    mask_B: torch.Tensor,
    weight_B: torch.Tensor | None = None,
    *,
    delta: float = 1.0,
) -> torch.Tensor:
    """Return the mean Huber loss over rows with an observed label; 0 with a zero gradient if there is none.

    Labels and `delta` are in units of volatility. Beyond `delta` the gradient of a row is constant
    (P. J. Huber, Robust Estimation of a Location Parameter, 1964).

    Args:
        prediction_B, label_B: (B,) float32; masked labels may have any value, also NaN.
        mask_B: (B,) bool, the label was observed.
        weight_B: (B,) float32, or `None` for equal weights.
    """
    error_B = torch.where(mask_B, prediction_B - label_B, torch.zeros_like(prediction_B))
    size_B = error_B.abs()
    loss_B = torch.where(size_B <= delta, 0.5 * error_B**2, delta * (size_B - 0.5 * delta))
    if weight_B is None:
        return loss_B.sum() / mask_B.sum().clamp(min=1)
    return (loss_B * weight_B).sum() / _total(mask_B, weight_B)


def _single(name: LossName, prediction_B: torch.Tensor, rows: LossRows, delta: float) -> torch.Tensor:
    if name == "huber":
        return masked_huber(prediction_B, rows.label, rows.mask, rows.weight, delta=delta)
    label_B = torch.where(rows.mask, rows.label, 0.0)
    weight_B = rows.mask.to(prediction_B.dtype) if rows.weight is None else rows.mask * rows.weight
    loss = _relative_error(prediction_B, label_B, weight_B)
    if name == "r2":
        return loss
    # A correlation says nothing about the scale of predictions, which positions need: the squared error sets it.
    group_B = torch.zeros_like(rows.mask, dtype=torch.int64)
    if name == "time_ic" and rows.group is not None:
        group_B = rows.group
    return loss + 1 - _mean_correlation(prediction_B, label_B, weight_B, group_B)


def _relative_error(
    prediction_B: torch.Tensor, label_B: torch.Tensor, weight_B: torch.Tensor
) -> torch.Tensor:
    """Return 1 - R2 against predicting zero; 1 at the prediction zero, whatever the labels."""
    size = (weight_B * label_B**2).sum()
    error = (weight_B * (prediction_B - label_B) ** 2).sum()
    return error / torch.where(size > 0, size, torch.ones_like(size))


def _mean_correlation(
    prediction_B: torch.Tensor, label_B: torch.Tensor, weight_B: torch.Tensor, group_B: torch.Tensor
) -> torch.Tensor:
    """Return the weighted mean of the correlations within groups; 0 where no group has `LEAST_GROUP` labels."""

    def total(values_B: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(values_B).index_add(0, group_B, values_B)

    mass_G, count_G = total(weight_B), total((weight_B > 0).to(weight_B.dtype))
    divisor_G = torch.where(mass_G > 0, mass_G, torch.ones_like(mass_G))

    def centred(values_B: torch.Tensor) -> torch.Tensor:
        return values_B - (total(weight_B * values_B) / divisor_G)[group_B]

    x_B, y_B = centred(prediction_B), centred(label_B)
    spread_x_G = total(weight_B * x_B**2) / divisor_G + _SPREAD**2
    spread_y_G = total(weight_B * y_B**2) / divisor_G
    is_used_G = (count_G >= LEAST_GROUP) & (spread_y_G > 0)
    # The root of a group without a spread has no gradient, so it is replaced before the root.
    root_G = torch.sqrt(spread_x_G * torch.where(is_used_G, spread_y_G, torch.ones_like(spread_y_G)))
    correlation_G = total(weight_B * x_B * y_B) / divisor_G / root_G
    mass_G = torch.where(is_used_G, mass_G, torch.zeros_like(mass_G))
    all_mass = mass_G.sum()
    return (correlation_G * mass_G).sum() / torch.where(all_mass > 0, all_mass, torch.ones_like(all_mass))


def _pinball(output: torch.Tensor, rows: LossRows) -> torch.Tensor:
    """Return the mean pinball loss of outputs (B, Q) or (B, Q, M) (Koenker and Bassett, Regression Quantiles, 1978)."""
    shape = (-1,) + (1,) * (output.dim() - 1)
    level = torch.tensor(QUANTILES, dtype=output.dtype, device=output.device)
    level = level.view(1, -1, *(1,) * (output.dim() - 2))
    mask, label = rows.mask.view(shape), rows.label.view(shape)
    error = torch.where(mask, label - output, torch.zeros_like(output))
    loss_B = torch.maximum(level * error, (level - 1) * error).flatten(1).mean(1)
    if rows.weight is None:
        return loss_B.sum() / rows.mask.sum().clamp(min=1)
    return (loss_B * rows.weight).sum() / _total(rows.mask, rows.weight)


def _total(mask_B: torch.Tensor, weight_B: torch.Tensor) -> torch.Tensor:
    total = (mask_B * weight_B).sum()
    return torch.where(total > 0, total, torch.ones_like(total))
