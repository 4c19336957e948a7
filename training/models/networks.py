"""The networks that a recipe can name.

All have one signature: `(x_BTF, mask_BTF) -> y_B`. Axes: B rows, T bars of the window (oldest first), F features.
`x` is standardised and 0 where masked; `mask` is 1.0 where the feature was valid. Both are inputs, so a network can
distinguish "zero" from "missing".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import nn

from storage.errors import SettingsError


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
        self.head = _head(hidden // 2)

    def forward(self, x_BTF: torch.Tensor, mask_BTF: torch.Tensor) -> torch.Tensor:
        flat_BI = torch.cat((x_BTF, mask_BTF), dim=-1).flatten(1)
        y_B: torch.Tensor = self.head(self.body(flat_BI)).squeeze(-1)
        return y_B


class WindowLSTM(nn.Module):
    """One recurrent layer over the window, with a linear head on its last state."""

    def __init__(self, window_bars: int, n_features: int, *, hidden: int = 32) -> None:
        super().__init__()
        self.window_bars = window_bars
        self.cell = nn.LSTM(n_features * 2, hidden, batch_first=True)
        self.head = _head(hidden)

    def forward(self, x_BTF: torch.Tensor, mask_BTF: torch.Tensor) -> torch.Tensor:
        states_BTH, _ = self.cell(torch.cat((x_BTF, mask_BTF), dim=-1))
        y_B: torch.Tensor = self.head(states_BTH[:, -1]).squeeze(-1)
        return y_B


def _head(width: int) -> nn.Linear:
    # Labels are mostly noise, so zero is the best constant prediction, and the head starts there.
    head = nn.Linear(width, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


NETWORKS: Final[dict[str, Callable[[int, int], nn.Module]]] = {"mlp": WindowMLP, "lstm": WindowLSTM}


def make_network(name: str, *, window_bars: int, n_features: int, seed: int) -> nn.Module:
    """Return a network with weights drawn from `seed`, without changing the process's random state.

    Raises:
        SettingsError: no network has that name.
    """
    if name not in NETWORKS:
        raise SettingsError(
            f"no network is called {name!r}", hint=f"use one of: {', '.join(sorted(NETWORKS))}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name](window_bars, n_features)
