"""The choice before each test: what it reads, and that no value of its test or of later ones matters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pytest

from training.data.folds import Fold, FoldGeometry, walk_forward_folds
from training.evaluation.positions import MarketData
from training.night.artifacts import Predictions
from training.night.lineage_path import LineagePath, nets_before_first_test, stitch_path
from training.night.scoring import backtest, evaluation_window, to_dense
from training.recipe import RECIPES

WIDTH_NS: Final = 300 * 10**9
HOUR_NS: Final = 3_600 * 10**9
GRACE_NS: Final = 2 * 10**9
STEPS: Final = 12 * 100
RECIPE: Final = replace(RECIPES["demo"], controls=("zero", "ridge"), challengers=("lightgbm", "mlp"), seeds=1)
GEOMETRY: Final = FoldGeometry(
    n_folds=4, embargo_bars=6, unit="hour", test_units=12, valid_units=30, train_units=12
)


@dataclass(frozen=True)
class World:
    """Prices, and predictions of three models of unequal skill for all steps."""

    market: MarketData
    prediction: dict[str, np.ndarray]
    folds: list[Fold]
    decided_ns: np.ndarray


def world_of(*, skill: dict[str, float], seed: int = 0) -> World:
    rng = np.random.default_rng(seed)
    moves = rng.standard_normal((3, STEPS)) * 2e-3
    price = 100 * np.exp(moves.cumsum(axis=1))
    closes = WIDTH_NS * (1 + np.arange(STEPS, dtype=np.int64))
    shape = price.shape
    market = MarketData(
        instruments=tuple(f"hyperliquid|perp|C{i}" for i in range(3)),
        ts_close_ns=closes,
        price=price,
        half_spread=np.full(shape, 1e-5),
        notional=np.full(shape, 1e12),
        taker_fee_bps=np.full(shape, 0.5),
        scale=np.full(shape, 4e-3),
        funding_paid=None,
        delay_bars=1,
    )
    ahead = np.concatenate([moves[:, 2:], np.zeros((3, 2))], axis=1)
    ahead = np.lib.stride_tricks.sliding_window_view(np.pad(ahead, ((0, 0), (0, 4))), 5, axis=1).sum(axis=-1)
    prediction = {
        name: share * ahead / 4e-3 + (1 - share) * rng.standard_normal(shape) for name, share in skill.items()
    }
    prediction["zero"] = np.zeros(shape)
    folds = walk_forward_folds(0, STEPS * WIDTH_NS, width_ns=WIDTH_NS, geometry=GEOMETRY)
    return World(market, prediction, folds, closes + GRACE_NS)


def rows_in(world: World, name: str, start_ns: int, stop_ns: int) -> Predictions:
    steps = np.flatnonzero((world.decided_ns >= start_ns) & (world.decided_ns < stop_ns))
    instrument, step = np.repeat(np.arange(3), len(steps)), np.tile(steps, 3)
    values = world.prediction[name][instrument, step]
    return Predictions(instrument.astype(np.int32), step.astype(np.int32), values, values)


def earlier_of(world: World) -> tuple[dict[str, np.ndarray], ...]:
    validated = [
        {name: rows_in(world, name, fold.valid.start_ns, fold.valid.stop_ns) for name in RECIPE.models}
        for fold in world.folds
    ]
    return nets_before_first_test(
        validated, world.market, world.folds, RECIPE, world.decided_ns, width_ns=WIDTH_NS, period_ns=HOUR_NS
    )


def path_of(world: World) -> LineagePath:
    window = evaluation_window(world.market, world.folds, world.decided_ns)
    dense = {
        name: to_dense(
            [rows_in(world, name, f.test.start_ns, f.test.stop_ns) for f in world.folds], window, RECIPE
        )
        for name in RECIPE.models
    }
    ledgers = {name: backtest(values, window, RECIPE) for name, values in dense.items()}
    return stitch_path(
        dense, ledgers, world.market, window, world.folds, RECIPE, world.decided_ns,
        earlier=earlier_of(world), width_ns=WIDTH_NS, period_ns=HOUR_NS, seed=7,
    )  # fmt: skip


def garbled(world: World, fold: Fold) -> World:
    """Replace every price, cost and prediction from the start of a fold's test on."""
    rng = np.random.default_rng(1)
    late = world.market.ts_close_ns - WIDTH_NS >= fold.test.start_ns
    decided_late = world.decided_ns >= fold.test.start_ns

    def replaced(values: np.ndarray, steps: np.ndarray, low: float, high: float) -> np.ndarray:
        return np.where(steps, rng.uniform(low, high, values.shape), values)

    columns: dict[str, Any] = {
        "price": (1.0, 1e4),
        "half_spread": (0.0, 0.1),
        "notional": (1.0, 1e3),
        "taker_fee_bps": (0.0, 99.0),
        "scale": (1e-6, 1.0),
    }
    return replace(
        world,
        market=replace(
            world.market,
            **{name: replaced(getattr(world.market, name), late, *ends) for name, ends in columns.items()},
        ),
        prediction={
            name: replaced(values, decided_late, -99.0, 99.0) for name, values in world.prediction.items()
        },
    )


SKILL: Final = {"ridge": 0.0, "lightgbm": 0.1, "mlp": 0.9}


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_garbage_in_a_test_changes_no_choice_of_its_fold_or_an_earlier_one(place: int) -> None:
    world = world_of(skill=SKILL)
    before, after = path_of(world), path_of(garbled(world, world.folds[place]))
    assert {choice.model for choice in before.by_fold} >= {"mlp"}, "some choice is not the first"
    assert after.by_fold[: place + 1] == before.by_fold[: place + 1]
    assert after.last != before.last


def test_choice_before_the_first_test_reads_its_validation() -> None:
    by_skill = [path_of(world_of(skill=SKILL | {"mlp": share})).by_fold[0] for share in (0.0, 0.9)]
    assert [choice.model for choice in by_skill] == ["ridge", "mlp"]
    assert all(choice.comparisons for choice in by_skill)


def test_no_period_counts_twice() -> None:
    """30 hours of validation and tests of 12: the second fold adds the 18 hours before the first test."""
    periods = [{len(net) for net in nets.values()} for nets in earlier_of(world_of(skill=SKILL))]
    assert periods == [{30}, {18}, {6}, {0}]
