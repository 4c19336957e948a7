"""Baselines: zero, momentum and ridge as controls, and LightGBM.

They use the same rows as the networks, but only each row's own bar: standardised features with their mask. Each is
fitted in one call, and its weights describe it completely.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import lightgbm
import numpy as np
import torch

from storage.errors import SettingsError

Weights = Mapping[str, torch.Tensor]

# Candidates for the shrinkage, compared on valid rows; the unit is rows of uninformative prior data.
_ALPHAS: Final = (100, 1_000, 10_000, 100_000, 1_000_000)
_MOST_ROUNDS: Final = 200


@dataclass(frozen=True, slots=True)
class BarRows:
    """Rows as a table.

    Args:
        x: (N, F) float32, standardised, 0 where masked.
        mask: (N, F) float32, 1 where valid.
        past: (N,) float64, the trailing return over one horizon in units of the label; NaN where unknown.
        label: (N,) float32; for fitting, every row must have one.
    """

    x: torch.Tensor
    mask: torch.Tensor
    past: torch.Tensor
    label: torch.Tensor


class Baseline(Protocol):
    """A fitted model whose input is one bar."""

    def predict(self, table: BarRows) -> torch.Tensor:
        """Return predictions, (N,) float32."""

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the weights that describe the model completely."""

    @property
    def budget(self) -> int:
        """Rounds or shrinkage that valid rows chose, for a refit without them; 0 where there is no such choice."""


class Zero:
    """The prediction of no move, which never trades."""

    budget = 0

    def predict(self, table: BarRows) -> torch.Tensor:
        return torch.zeros(len(table.x))

    def weights(self) -> dict[str, torch.Tensor]:
        return {}


class Momentum:
    """The trailing return over one horizon times one coefficient; a negative coefficient means reversal."""

    budget = 0

    def __init__(self, coefficient: torch.Tensor) -> None:
        self._coefficient = coefficient

    @classmethod
    def fit(cls, train: BarRows) -> Momentum:
        """Fit the coefficient by least squares without a constant."""
        past = torch.nan_to_num(train.past)
        variance = float((past**2).sum())
        covariance = float((past * train.label.to(torch.float64)).sum())
        return cls(torch.tensor([covariance / variance if variance > 0 else 0.0], dtype=torch.float64))

    def predict(self, table: BarRows) -> torch.Tensor:
        return (torch.nan_to_num(table.past) * self._coefficient).to(torch.float32)

    def weights(self) -> dict[str, torch.Tensor]:
        return {"coefficient": self._coefficient}


class Ridge:
    """Ridge regression on features and masks; closed form in float64 (Hoerl and Kennard, 1970)."""

    def __init__(self, coefficients: torch.Tensor, *, shrinkage: int) -> None:
        # The budget of a refit is the shrinkage that valid rows chose.
        self._coefficients, self.budget = coefficients, shrinkage

    @classmethod
    def fit(cls, train: BarRows, valid: BarRows | None, *, shrinkage: int | None = None) -> Ridge:
        """Fit to train rows, with the shrinkage that does best on valid rows, or exactly `shrinkage` without them."""
        design = cls._design(train)
        gram, moment = design.T @ design, design.T @ train.label.to(torch.float64)
        penalty = torch.eye(len(gram), dtype=torch.float64)
        penalty[-1, -1] = 0.0  # the constant is not shrunk

        def solve(alpha: int) -> Ridge:
            return cls(torch.linalg.solve(gram + alpha * penalty, moment), shrinkage=alpha)

        if valid is None:
            return solve(shrinkage or _ALPHAS[0])
        fits = [solve(alpha) for alpha in _ALPHAS]
        errors = [float(((fit.predict(valid) - valid.label) ** 2).sum()) for fit in fits]
        return fits[int(np.argmin(errors))]

    def predict(self, table: BarRows) -> torch.Tensor:
        return (self._design(table) @ self._coefficients).to(torch.float32)

    def weights(self) -> dict[str, torch.Tensor]:
        return {"coefficients": self._coefficients, "shrinkage": torch.tensor([self.budget])}

    @staticmethod
    def _design(table: BarRows) -> torch.Tensor:
        one = torch.ones(len(table.x), 1)
        return torch.cat((table.x, table.mask, one), dim=1).to(torch.float64)


class BoostedTrees:
    """LightGBM on one bar's features, with missing ones as NaN; valid rows choose the number of trees."""

    def __init__(self, booster: lightgbm.Booster, *, rounds: int) -> None:
        self._booster, self.budget = booster, rounds

    @classmethod
    def fit(
        cls, train: BarRows, valid: BarRows | None, *, seed: int, threads: int, rounds: int = _MOST_ROUNDS
    ) -> BoostedTrees:
        """Fit trees up to the best round on valid rows, or exactly `rounds` without them."""
        params = {
            "objective": "huber",
            "alpha": 1.0,
            "learning_rate": 0.03,
            "num_leaves": 15,
            "min_data_in_leaf": 200,
            "feature_fraction": 0.8,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "lambda_l2": 10.0,
            "seed": seed % 2**31,
            "num_threads": threads,
            "deterministic": True,
            "force_col_wise": True,
            "verbosity": -1,
        }
        data = lightgbm.Dataset(cls._design(train), train.label.numpy())
        if valid is None:
            return cls(lightgbm.train(params, data, max(rounds, 1)), rounds=max(rounds, 1))
        booster = lightgbm.train(
            params,
            data,
            rounds,
            valid_sets=[data.create_valid(cls._design(valid), valid.label.numpy())],
            callbacks=[lightgbm.early_stopping(20, verbose=False)],
        )
        return cls(booster, rounds=booster.best_iteration)

    def predict(self, table: BarRows) -> torch.Tensor:
        if len(table.x) == 0:
            return torch.zeros(0)
        predictions = self._booster.predict(self._design(table), num_iteration=self.budget)
        return torch.from_numpy(np.asarray(predictions, dtype=np.float32))

    def weights(self) -> dict[str, torch.Tensor]:
        text = self._booster.model_to_string(num_iteration=self.budget)
        return {"booster": torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)}

    @staticmethod
    def _design(table: BarRows) -> np.ndarray:
        design: np.ndarray = torch.where(table.mask > 0, table.x, torch.nan).numpy()
        return design


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
        rounds = budget if valid is None and budget is not None else _MOST_ROUNDS
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
