"""What all baselines share: rows of single bars as a table, and the protocol of a fitted baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class BarRows:
    """Rows as a table.

    Args:
        x: (N, F) float32, standardised, 0 where masked.
        mask: (N, F) float32, 1 where valid.
        past: (N,) float64, the trailing return over one horizon in units of the label; NaN where unknown.
        label: (N,) float32; for fitting, every row must have one.
        weight: (N,) float32, weight of the row in a fit; `None`: all equal.
    """

    x: torch.Tensor
    mask: torch.Tensor
    past: torch.Tensor
    label: torch.Tensor
    weight: torch.Tensor | None = None


class Baseline(Protocol):
    """A fitted model whose input is one bar."""

    def predict(self, table: BarRows) -> torch.Tensor:
        """Return predictions, (N,) float32."""

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the weights that describe the model completely."""

    @property
    def budget(self) -> int:
        """Rounds or shrinkage that valid rows chose, for a refit without them; 0 where there is no such choice."""
