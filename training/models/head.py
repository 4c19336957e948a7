"""The last layer of every network."""

from __future__ import annotations

from torch import nn


def zero_head(width: int, outputs: int = 1) -> nn.Linear:
    """Return a linear layer that predicts zero until it is trained.

    Labels are mostly noise, so zero is the best constant prediction, and the head starts there.
    """
    head = nn.Linear(width, outputs)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head
