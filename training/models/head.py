"""The last layer of every network."""

from __future__ import annotations

import torch
from torch import nn


def zero_head(width: int, outputs: int = 1) -> nn.Linear:
    """Return a linear layer that predicts zero until it is trained.

    Labels are mostly noise, so zero is the best constant prediction, and the head starts there.
    """
    head = nn.Linear(width, outputs)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def prediction_of(output_BQ: torch.Tensor) -> torch.Tensor:
    """Return the output of a head, without its last axis where that has one value only."""
    return output_BQ.squeeze(-1) if output_BQ.shape[-1] == 1 else output_BQ
