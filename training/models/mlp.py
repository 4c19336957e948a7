"""A multi-layer perceptron over the flattened window."""

from __future__ import annotations

import torch
from torch import nn

from training.models.head import prediction_of, zero_head


class WindowMLP(nn.Module):
    """Two hidden layers over the flattened window."""

    def __init__(
        self, window_bars: int, n_features: int, *, hidden: int = 32, dropout: float = 0.25, outputs: int = 1
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(window_bars * n_features * 2, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden // 2),
            nn.GELU(),
        )
        self.head = zero_head(hidden // 2, outputs)

    def forward(self, x_BTF: torch.Tensor, mask_BTF: torch.Tensor) -> torch.Tensor:
        return self.forward_whole(torch.cat((x_BTF, mask_BTF), dim=-1))

    def forward_whole(self, both_BTG: torch.Tensor) -> torch.Tensor:
        """Return the prediction for features and masks that are joined along the last axis, (B, T, 2F)."""
        return prediction_of(self.head(self.body(both_BTG.flatten(1))))
