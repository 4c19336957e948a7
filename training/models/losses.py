"""The training loss: Huber loss over rows with an observed label."""

from __future__ import annotations

import torch


def masked_huber(
    prediction_B: torch.Tensor, label_B: torch.Tensor, mask_B: torch.Tensor, *, delta: float = 1.0
) -> torch.Tensor:
    """Return the mean Huber loss over rows with an observed label; 0 with a zero gradient if there is none.

    Labels and `delta` are in units of volatility. Beyond `delta` the gradient of a row is constant
    (P. J. Huber, Robust Estimation of a Location Parameter, 1964).

    Args:
        prediction_B, label_B: (B,) float32; masked labels may have any value, also NaN.
        mask_B: (B,) bool, the label was observed.
    """
    error_B = torch.where(mask_B, prediction_B - label_B, torch.zeros_like(prediction_B))
    size_B = error_B.abs()
    loss_B = torch.where(size_B <= delta, 0.5 * error_B**2, delta * (size_B - 0.5 * delta))
    return loss_B.sum() / mask_B.sum().clamp(min=1)
