"""A recurrent network over the window."""

from __future__ import annotations

import torch
from torch import nn

from training.models.head import zero_head


class WindowLSTM(nn.Module):
    """One recurrent layer over the window, with a linear head on its last state."""

    def __init__(self, window_bars: int, n_features: int, *, hidden: int = 32) -> None:
        super().__init__()
        self.window_bars = window_bars
        self.cell = nn.LSTM(n_features * 2, hidden, batch_first=True)
        self.head = zero_head(hidden)

    def forward(self, x_BTF: torch.Tensor, mask_BTF: torch.Tensor) -> torch.Tensor:
        states_BTH, _ = self.cell(torch.cat((x_BTF, mask_BTF), dim=-1))
        y_B: torch.Tensor = self.head(states_BTH[:, -1]).squeeze(-1)
        return y_B
