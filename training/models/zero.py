"""The control that never trades."""

from __future__ import annotations

import torch

from training.models.baseline import BarRows


class Zero:
    """The prediction of no move, which never trades."""

    budget = 0

    def predict(self, table: BarRows) -> torch.Tensor:
        return torch.zeros(len(table.x))

    def weights(self) -> dict[str, torch.Tensor]:
        return {}
