"""A recurrent network over the window."""

from __future__ import annotations

import torch
from torch import nn

from training.models.head import prediction_of, zero_head


class WindowLSTM(nn.Module):
    """One recurrent layer over the window, with a linear head on its last state."""

    def __init__(self, window_bars: int, n_features: int, *, hidden: int = 32, outputs: int = 1) -> None:
        super().__init__()
        self.window_bars = window_bars
        self.cell = nn.LSTM(n_features * 2, hidden, batch_first=True)
        self.head = zero_head(hidden, outputs)

    def forward(self, x_BTF: torch.Tensor, mask_BTF: torch.Tensor) -> torch.Tensor:
        return self.forward_whole(torch.cat((x_BTF, mask_BTF), dim=-1))

    def forward_whole(self, both_BTG: torch.Tensor) -> torch.Tensor:
        """Return the prediction for features and masks that are joined along the last axis, (B, T, 2F)."""
        states_BTH, _ = self.cell(both_BTG)
        return prediction_of(self.head(states_BTH[:, -1]))
