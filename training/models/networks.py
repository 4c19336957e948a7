"""Registry of the networks that a recipe can name, each in a file of its own.

All have one signature: `(x_BTF, mask_BTF) -> y_B`. Axes: B rows, T bars of the window (oldest first), F features.
`x` is standardised and 0 where masked; `mask` is 1.0 where the feature was valid. Both are inputs, so a network can
distinguish "zero" from "missing".

A network may also have

- a keyword `outputs` of its constructor, which the loss `quantiles` sets to 3; its output is then (B, 3);
- `forward_whole(both_BTG)`, the same as `forward` for `[x | mask]` joined along the last axis (2F wide).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Final

import torch
from torch import nn

from storage.errors import ProjectError, SettingsError
from storage.project import is_user_code, merge_registry, project_code, project_code_of, user_code
from training.models.controls import BASELINES
from training.models.lstm import WindowLSTM
from training.models.mlp import WindowMLP
from training.models.tabm import TabM
from training.models.transformer import WindowTransformer

NETWORKS: Final[dict[str, Callable[..., nn.Module]]] = {
    "mlp": WindowMLP,
    "lstm": WindowLSTM,
    "transformer": WindowTransformer,
    "tabm": TabM,
}


def networks() -> dict[str, Callable[..., nn.Module]]:
    """Return all networks by name: the built-in ones, and those of the user's project.

    Raises:
        ProjectError: the project cannot be imported, defines a name a second time, or a value cannot be called.
    """
    taken = dict.fromkeys(BASELINES, "training/models/controls.py")
    added = merge_registry(
        NETWORKS, "NETWORKS", kind="model", where="training/models/networks.py", taken=taken
    )
    found: dict[str, Callable[..., nn.Module]] = dict(NETWORKS)
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


def make_network(name: str, *, window_bars: int, n_features: int, seed: int, outputs: int = 1) -> nn.Module:
    """Return a network with weights drawn from `seed`, without changing the process's random state.

    Args:
        name: of the network.
        window_bars, n_features: of its input.
        seed: of its weights.
        outputs: values per row (`training.models.losses.n_outputs`).

    Raises:
        SettingsError: no network has that name, or it can have one output only.
        ProjectError: code of the project failed.
    """
    found = networks()
    if name not in found:
        raise SettingsError(f"no network is called {name!r}", hint=f"use one of: {', '.join(sorted(found))}")
    if outputs > 1 and not _has_outputs(found[name]):
        raise SettingsError(
            f"network {name!r} has one output, and the loss needs {outputs}",
            hint='give its constructor a keyword outputs, or set fit.loss = "huber"',
        )
    more = {"outputs": outputs} if outputs > 1 else {}
    with torch.random.fork_rng(devices=[]), user_code(f"network {name!r} cannot be made"):
        torch.manual_seed(seed)
        network = found[name](window_bars, n_features, **more)
    if not isinstance(network, nn.Module):
        raise ProjectError(
            f"network {name!r} of the project returned {type(network).__name__}, not a torch module",
            hint="return a torch.nn.Module with forward(x_BTF, mask_BTF) -> y_B",
        )
    return network


def _has_outputs(make: Callable[..., nn.Module]) -> bool:
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):
        return False  # a callable without a signature
    return any(part.name == "outputs" or part.kind == part.VAR_KEYWORD for part in parameters)
