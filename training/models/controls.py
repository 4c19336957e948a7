"""Registry of the baselines: zero, momentum and ridge as controls, and LightGBM, each in a file of its own.

They use the same rows as the networks, but only each row's own bar: standardised features with their mask. Each is
fitted in one call, and its weights describe it completely.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import lightgbm
import torch

from storage.errors import SettingsError
from training.models.baseline import BarRows, Baseline
from training.models.boosted_trees import MOST_ROUNDS, BoostedTrees
from training.models.momentum import Momentum
from training.models.ridge import Ridge
from training.models.zero import Zero

Weights = Mapping[str, torch.Tensor]

BASELINES: Final = ("zero", "momentum", "ridge", "lightgbm")


def fit_baseline(
    name: str, train: BarRows, valid: BarRows | None, *, seed: int, threads: int, budget: int | None = None
) -> Baseline:
    """Fit a baseline.

    Args:
        name: one of `BASELINES`.
        train: rows to fit to.
        valid: rows that choose shrinkage or rounds; `None` only for a refit of `ridge` or `lightgbm` with a
            `budget`.
        seed, threads: of LightGBM.
        budget: shrinkage or rounds of a refit.

    Raises:
        SettingsError: no baseline has that name, or it cannot be fitted without valid rows.
    """
    if name == "zero":
        return Zero()
    if name == "momentum":
        return Momentum.fit(train)
    if name == "ridge" and (valid is not None or budget is not None):
        return Ridge.fit(train, valid, shrinkage=budget)
    if name == "lightgbm" and (valid is not None or budget is not None):
        rounds = budget if valid is None and budget is not None else MOST_ROUNDS
        return BoostedTrees.fit(train, valid, seed=seed, threads=threads, rounds=rounds)
    raise SettingsError(
        f"no baseline {name!r} can be fitted {'with' if valid is not None else 'without'} valid rows",
        hint=f"use one of: {', '.join(BASELINES)}",
    )


def load_baseline(name: str, weights: Weights) -> Baseline:
    """Return the baseline with these weights.

    Raises:
        SettingsError: no baseline has that name.
    """
    if name == "zero":
        return Zero()
    if name == "momentum":
        return Momentum(weights["coefficient"])
    if name == "ridge":
        # Checkpoints of older releases lack the shrinkage; it matters to a refit only.
        shrinkage = weights.get("shrinkage", torch.zeros(1))
        return Ridge(weights["coefficients"], shrinkage=int(shrinkage))
    if name == "lightgbm":
        booster = lightgbm.Booster(model_str=bytes(weights["booster"].numpy()).decode())
        return BoostedTrees(booster, rounds=booster.num_trees())
    raise SettingsError(f"no baseline is called {name!r}", hint=f"use one of: {', '.join(BASELINES)}")
