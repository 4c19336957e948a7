"""How wrong is a prediction, where there is a label to say so?"""

from __future__ import annotations

import torch


def masked_huber(
    prediction_B: torch.Tensor, label_B: torch.Tensor, mask_B: torch.Tensor, *, delta: float = 1.0
) -> torch.Tensor:
    """Return the mean Huber loss over rows whose label was observed; 0 with a zero gradient where none was.

    Labels are in units of volatility, so `delta` is too: beyond it a row pulls with constant strength
    (P. J. Huber, Robust Estimation of a Location Parameter, 1964).

    Args:
        prediction_B, label_B: (B,) float32; a label that is masked may hold anything, also NaN.
        mask_B: (B,) bool.
    """
    error_B = torch.where(mask_B, prediction_B - label_B, torch.zeros_like(prediction_B))
    size_B = error_B.abs()
    loss_B = torch.where(size_B <= delta, 0.5 * error_B**2, delta * (size_B - 0.5 * delta))
    return loss_B.sum() / mask_B.sum().clamp(min=1)
