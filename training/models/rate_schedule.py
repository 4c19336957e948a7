"""The learning rate as a function of the place in a run: linear warm-up, then constant or along a cosine."""

from __future__ import annotations

import math
from typing import Final, Literal

RateSchedule = Literal["constant", "cosine"]
RATE_SCHEDULES: Final[tuple[RateSchedule, ...]] = ("constant", "cosine")


def rate_factor(
    schedule: RateSchedule, epoch: float, *, epochs: int, warmup_epochs: float, final: float
) -> float:
    """Return the factor of the learning rate at a place in a run.

    It depends on nothing but the place, so an interrupted run continues with the same rates, and a refit of fewer
    epochs follows the beginning of the same schedule. The cosine is that of Loshchilov and Hutter, SGDR, 2017.

    Args:
        schedule: after the warm-up.
        epoch: epochs done before the step, in parts of an epoch; places after the last epoch have its factor.
        epochs: of the rule.
        warmup_epochs: the factor rises linearly over these, and is above 0 from the first step on.
        final: factor at the end of the cosine.

    >>> [round(rate_factor("cosine", e, epochs=4, warmup_epochs=1, final=0.1), 3) for e in (0, 0.5, 1, 2.5, 4)]
    [0.01, 0.505, 1.0, 0.55, 0.1]
    """
    if epoch < warmup_epochs:
        return 0.01 + 0.99 * epoch / warmup_epochs
    if schedule == "constant":
        return 1.0
    share = min((epoch - warmup_epochs) / (epochs - warmup_epochs), 1.0)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share))
