"""Skill beyond price history: the share that two nested predictions explain, its bound, and their limits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from training.evaluation.extra_skill import ExtraSkill, measure_extra_skill, t_quantile
from training.evaluation.metrics import LEAST_BLOCKS


def measured(
    *, known: float, added: float, blocks: int = 200, seed: int = 0, folds: int = 1, shuffled: bool = False
) -> ExtraSkill:
    """Return the skill for labels of which prices know a share of the variance, and features a share more."""
    draw = np.random.default_rng(seed)
    old, new, rest = draw.standard_normal((3, blocks * 20))
    label = math.sqrt(known) * old + math.sqrt(added) * new + math.sqrt(1 - known - added) * rest
    rows = np.arange(len(label))
    fold = rows * folds // len(rows)
    both = math.sqrt(known) * old + math.sqrt(added) * new
    order = draw.permutation(len(rows)) if shuffled else rows
    parts = (old, both * (1 + 9 * fold), label * (1 + 5 * fold), fold, rows // 20)
    prices, features, label, fold, block = (part[order] for part in parts)
    return measure_extra_skill(prices, features, label, fold=fold, block=block, level=0.001)


@pytest.mark.parametrize(("known", "added"), [(0.0, 0.3), (0.5, 0.25), (0.75, 0.0), (0.9, 0.08)])
def test_it_is_the_share_of_what_prices_leave(known: float, added: float) -> None:
    found = measured(known=known, added=added)
    assert found.prices**2 == pytest.approx(known, abs=0.03)
    assert found.extra == pytest.approx(added / (1 - known), abs=0.05)
    assert found.low <= found.extra
    assert (found.low > 0) == (added > 0)


def test_it_depends_neither_on_the_scale_of_a_fold_nor_on_the_order_of_rows() -> None:
    found = measured(known=0.2, added=0.2, folds=4)
    assert found.extra == pytest.approx(measured(known=0.2, added=0.2).extra, abs=0.01)
    other = measured(known=0.2, added=0.2, folds=4, shuffled=True)
    assert (other.extra, other.low) == pytest.approx((found.extra, found.low), abs=1e-9)


def test_few_blocks_have_no_bound_and_constant_predictions_no_skill() -> None:
    assert math.isnan(measured(known=0.2, added=0.2, blocks=LEAST_BLOCKS - 1).low)
    rows = np.arange(400)
    flat = measure_extra_skill(
        np.ones(400), np.zeros(400), rows % 7.0, fold=rows * 0, block=rows // 10, level=0.001
    )
    assert (flat.prices, flat.features, flat.extra, flat.low) == (0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("probability", "degrees", "exact"),
    [(0.95, 19, 1.7291), (0.999, 19, 3.5794), (0.999, 60, 3.2317), (0.999, 10, 4.1437)],
)
def test_quantiles_are_those_of_the_tables(probability: float, degrees: int, exact: float) -> None:
    assert t_quantile(probability, degrees) == pytest.approx(exact, abs=0.01)
