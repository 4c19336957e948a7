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

from storage.errors import ProjectError, SettingsError
from storage.project import is_user_code, merge_registry, project_code, project_code_of, user_code
from training.models.controls import BASELINES


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


def networks() -> dict[str, Callable[[int, int], nn.Module]]:
    """Return all networks by name: the built-in ones, and those of the user's project.

    Raises:
        ProjectError: the project cannot be imported, defines a name a second time, or a value cannot be called.
    """
    taken = dict.fromkeys(BASELINES, "training/models/controls.py")
    added = merge_registry(
        NETWORKS, "NETWORKS", kind="model", where="training/models/networks.py", taken=taken
    )
    found: dict[str, Callable[[int, int], nn.Module]] = dict(NETWORKS)
    for name, make in added.items():
        if not callable(make):
            raise ProjectError(
                f"network {name!r} of the project is {make!r}",
                hint="name a class or function that takes (window_bars, n_features) and returns a torch module",
            )
        found[name] = make
    return found


def network_code(name: str) -> str:
    """Return a hash of the project's code that a model uses; empty for a built-in model."""
    make = networks().get(name)
    if make is None or name in NETWORKS:
        return ""
    # What is defined elsewhere, such as a partial, may use any module of the project.
    return project_code_of([make.__module__]) if is_user_code(make) else project_code()


def make_network(name: str, *, window_bars: int, n_features: int, seed: int) -> nn.Module:
    """Return a network with weights drawn from `seed`, without changing the process's random state.

    Raises:
        SettingsError: no network has that name.
        ProjectError: code of the project failed.
    """
    found = networks()
    if name not in found:
        raise SettingsError(f"no network is called {name!r}", hint=f"use one of: {', '.join(sorted(found))}")
    with torch.random.fork_rng(devices=[]), user_code(f"network {name!r} cannot be made"):
        torch.manual_seed(seed)
        network = found[name](window_bars, n_features)
    if not isinstance(network, nn.Module):
        raise ProjectError(
            f"network {name!r} of the project returned {type(network).__name__}, not a torch module",
            hint="return a torch.nn.Module with forward(x_BTF, mask_BTF) -> y_B",
        )
    return network
