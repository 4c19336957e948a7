"""The control that extrapolates the trailing return."""

from __future__ import annotations

import torch

from training.models.baseline import BarRows


class Momentum:
    """The trailing return over one horizon times one coefficient; a negative coefficient means reversal."""

    budget = 0

    def __init__(self, coefficient: torch.Tensor) -> None:
        self._coefficient = coefficient

    @classmethod
    def fit(cls, train: BarRows) -> Momentum:
        """Fit the coefficient by least squares without a constant."""
        past = torch.nan_to_num(train.past)
        weighted = past if train.weight is None else past * train.weight.to(torch.float64)
        variance = float((weighted * past).sum())
        covariance = float((weighted * train.label.to(torch.float64)).sum())
        return cls(torch.tensor([covariance / variance if variance > 0 else 0.0], dtype=torch.float64))

    def predict(self, table: BarRows) -> torch.Tensor:
        return (torch.nan_to_num(table.past) * self._coefficient).to(torch.float32)

    def weights(self) -> dict[str, torch.Tensor]:
        return {"coefficient": self._coefficient}
