"""Ridge regression on one bar."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

from training.models.baseline import BarRows

# Candidates for the shrinkage, compared on valid rows; the unit is rows of uninformative prior data.
_ALPHAS: Final = (100, 1_000, 10_000, 100_000, 1_000_000)


class Ridge:
    """Ridge regression on features and masks; closed form in float64 (Hoerl and Kennard, 1970)."""

    def __init__(self, coefficients: torch.Tensor, *, shrinkage: int) -> None:
        # The budget of a refit is the shrinkage that valid rows chose.
        self._coefficients, self.budget = coefficients, shrinkage

    @classmethod
    def fit(cls, train: BarRows, valid: BarRows | None, *, shrinkage: int | None = None) -> Ridge:
        """Fit to train rows, with the shrinkage that does best on valid rows, or exactly `shrinkage` without them."""
        design = cls._design(train)
        weighted = design if train.weight is None else design * train.weight.to(torch.float64)[:, None]
        gram, moment = weighted.T @ design, weighted.T @ train.label.to(torch.float64)
        penalty = torch.eye(len(gram), dtype=torch.float64)
        penalty[-1, -1] = 0.0  # the constant is not shrunk

        def solve(alpha: int) -> Ridge:
            return cls(torch.linalg.solve(gram + alpha * penalty, moment), shrinkage=alpha)

        if valid is None:
            return solve(shrinkage or _ALPHAS[0])
        fits = [solve(alpha) for alpha in _ALPHAS]
        weight = 1.0 if valid.weight is None else valid.weight
        errors = [float((weight * (fit.predict(valid) - valid.label) ** 2).sum()) for fit in fits]
        return fits[int(np.argmin(errors))]

    def predict(self, table: BarRows) -> torch.Tensor:
        return (self._design(table) @ self._coefficients).to(torch.float32)

    def weights(self) -> dict[str, torch.Tensor]:
        return {"coefficients": self._coefficients, "shrinkage": torch.tensor([self.budget])}

    @staticmethod
    def _design(table: BarRows) -> torch.Tensor:
        one = torch.ones(len(table.x), 1)
        return torch.cat((table.x, table.mask, one), dim=1).to(torch.float64)
