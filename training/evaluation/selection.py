"""Choice of the model that serves, from net returns on windows that end before it is judged.

The choice starts with ridge. In the recipe's order, simplest first, a model replaces the current choice only if its
net return was higher in the same periods, at a Romano-Wolf p-value of at most 5% over all models that are left.
Zero and momentum are references and never serve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from training.evaluation.multiple_testing import DRAWS, block_length, step_down

NEVER_SERVE: Final = ("zero", "momentum")
FIRST_CHOICE: Final = "ridge"
LEVEL: Final = 0.05


@dataclass(frozen=True, slots=True)
class ModelComparison:
    """One comparison of a model with the choice before it: the mean paired net a period, and its p-value."""

    model: str
    current: str
    mean: float
    p_value: float


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """The chosen model, and the comparisons in their order."""

    model: str
    comparisons: tuple[ModelComparison, ...]


def may_serve(order: Sequence[str]) -> tuple[str, ...]:
    """Return the models that may be chosen, the first choice first and the others in their order.

    >>> may_serve(("zero", "momentum", "ridge", "lightgbm"))
    ('ridge', 'lightgbm')

    Raises:
        ValueError: no model may serve.
    """
    models = [name for name in order if name not in NEVER_SERVE]
    if not models:
        raise ValueError(f"none of {', '.join(order) or 'no models'} may serve; add ridge or a challenger")
    return tuple(sorted(models, key=lambda name: name != FIRST_CHOICE))


def choose(
    nets: Mapping[str, np.ndarray],
    *,
    order: Sequence[str],
    least_block: int = 1,
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> ModelChoice:
    """Choose a model from net returns on earlier windows.

    Args:
        nets: by model, (N,) net returns of the same N periods (days, or hours), of all earlier windows in order; with
            too few periods for a test the first choice stays.
        order: models in the recipe's order, simplest first.
        least_block: periods that horizon and holding cover together.
        level: largest p-value of a replacement.
        draws: resamples of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: no model may serve, or returns differ in length.
    """
    models = may_serve(order)
    lengths = {len(nets[name]) for name in models}
    if len(lengths) > 1:
        raise ValueError(f"net returns have {sorted(lengths)} periods; all models need the same")
    current, left, comparisons = models[0], list(models[1:]), []
    while left:
        paired = np.stack([nets[name] - nets[current] for name in left], axis=1)
        block = block_length(len(paired), least=least_block)
        p_values = step_down(paired, block=block, draws=draws, seed=seed).p_values
        better = np.flatnonzero(p_values <= level)
        stop = int(better[0]) + 1 if len(better) else len(left)
        means = paired.mean(axis=0) if len(paired) else np.zeros(len(left))
        comparisons += [
            ModelComparison(left[i], current, float(means[i]), float(p_values[i])) for i in range(stop)
        ]
        if len(better):
            current = left[stop - 1]
        left = left[stop:]
    return ModelChoice(current, tuple(comparisons))
