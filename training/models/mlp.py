"""A multi-layer perceptron over the flattened window."""

from __future__ import annotations

import torch
from torch import nn

from training.models.head import zero_head


class WindowMLP(nn.Module):
    """Two hidden layers over the flattened window."""

    def __init__(self, window_bars: int, n_features: int, *, hidden: int = 32, dropout: float = 0.25) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(window_bars * n_features * 2, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden // 2),
            nn.GELU(),
        )
        self.head = zero_head(hidden // 2)

    def forward(self, x_BTF: torch.Tensor, mask_BTF: torch.Tensor) -> torch.Tensor:
        flat_BI = torch.cat((x_BTF, mask_BTF), dim=-1).flatten(1)
        y_B: torch.Tensor = self.head(self.body(flat_BI)).squeeze(-1)
        return y_B
