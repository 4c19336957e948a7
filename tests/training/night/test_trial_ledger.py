"""The trial ledger: which evaluations are one trial, and that each counts once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pytest

from storage.lake.lake import Lake
from storage.settings import Settings
from training.data.folds import Fold, FoldGeometry, walk_forward_folds
from training.evaluation.positions import MarketData
from training.night.scoring import EvaluationWindow, backtest
from training.night.trial_ledger import EvaluatedMember, evaluated_member, trial_rows
from training.recipe import RECIPES, Recipe

MINUTE_NS: Final = 60 * 10**9
HOUR_NS: Final = 60 * MINUTE_NS
RECIPE: Final = RECIPES["demo"]
FOLDS: Final = walk_forward_folds(
    0,
    8 * HOUR_NS,
    width_ns=MINUTE_NS,
    geometry=FoldGeometry(n_folds=2, embargo_bars=5, unit="hour", test_units=2, valid_units=2, train_units=2),
)


def window_of(*, instruments: int = 2, lead: int = 0) -> EvaluationWindow:
    """Return four hours of minutes from the first test on, and `lead` bars before."""
    steps = 240 + lead
    shape = (instruments, steps)
    moves = np.random.default_rng(5).standard_normal((4, 300))[:instruments, 300 - steps :] * 2e-3
    market = MarketData(
        instruments=tuple(f"hyperliquid|perp|C{i}" for i in range(instruments)),
        ts_close_ns=FOLDS[0].test.start_ns
        + MINUTE_NS * np.arange(1 - lead, steps - lead + 1, dtype=np.int64),
        price=100 * np.exp(moves.cumsum(axis=1)),
        half_spread=np.full(shape, 1e-5),
        notional=np.full(shape, 1e12),
        taker_fee_bps=np.full(shape, 0.5),
        scale=np.full(shape, 4e-3),
        funding_paid=None,
        delay_bars=1,
    )
    return EvaluationWindow(0, steps, market)


PREDICTION: Final = np.random.default_rng(1).standard_normal((2, 240))


def evaluate(
    prediction: np.ndarray = PREDICTION,
    *,
    window: EvaluationWindow | None = None,
    model: str = "mlp",
    seed: int = 0,
    folds: list[Fold] = FOLDS,
    recipe: Recipe = RECIPE,
) -> EvaluatedMember:
    window = window or window_of()
    ledger = backtest(prediction, window, recipe)
    return evaluated_member(model, seed, prediction, window, folds, recipe, ledger=ledger)


def padded(**more: int) -> EvaluatedMember:
    """Return the same predictions in a longer window with more instruments, which have none."""
    window = window_of(**more)
    wide = np.full(window.market.price.shape, np.nan)
    wide[:2, -240:] = PREDICTION
    return evaluate(wide, window=window)


def swapped() -> EvaluatedMember:
    window = window_of()
    names = window.market.instruments[::-1]
    turned = replace(window, market=replace(window.market, instruments=names))
    return evaluate(PREDICTION[::-1], window=turned)


SAME: Final[dict[str, Callable[[], EvaluatedMember]]] = {
    "another name and seed": lambda: evaluate(model="exported", seed=3),
    "another name of the recipe": lambda: evaluate(
        recipe=replace(RECIPE, name="other", challengers=("mlp",))
    ),
    "more bars and instruments without predictions": lambda: padded(instruments=4, lead=30),
    "another order of the instruments": swapped,
}


@pytest.mark.parametrize("other", SAME.values(), ids=SAME)
def test_equal_predictions_on_the_same_tests_are_one_trial(other: Callable[[], EvaluatedMember]) -> None:
    first, second = evaluate(), other()
    assert second.trial == first.trial
    assert second.instruments == first.instruments == ("hyperliquid|perp|C0", "hyperliquid|perp|C1")
    assert (first.tested_since_ns, first.tested_until_ns) == (FOLDS[0].test.start_ns, FOLDS[-1].test.stop_ns)


def nudged() -> np.ndarray:
    other = PREDICTION.copy()
    other[1, 100] = np.nextafter(other[1, 100], np.inf)
    return other


OTHER: Final[dict[str, Callable[[], EvaluatedMember]]] = {
    "one bit of one prediction": lambda: evaluate(nudged()),
    "one prediction less": lambda: evaluate(np.where(np.arange(240) == 7, np.nan, PREDICTION)),
    "one bar later": lambda: evaluate(np.roll(PREDICTION, 1, axis=1)),
    "swapped instruments": lambda: evaluate(PREDICTION[::-1].copy()),
    "another position rule": lambda: evaluate(
        recipe=replace(RECIPE, position=replace(RECIPE.position, hold_bars=6))
    ),
    "other costs": lambda: evaluate(recipe=replace(RECIPE, costs=replace(RECIPE.costs, half_spread_bps=0.5))),
    "fewer tests": lambda: evaluate(folds=FOLDS[:1]),
}


@pytest.mark.parametrize("other", OTHER.values(), ids=OTHER)
def test_anything_else_is_another_trial(other: Callable[[], EvaluatedMember]) -> None:
    assert other().trial != evaluate().trial


def test_zero_has_one_sign() -> None:
    zero = np.zeros((2, 240))
    assert evaluate(-zero).trial == evaluate(zero).trial
    assert evaluate(zero).sharpe is None or np.isfinite(evaluate(zero).sharpe)


def commit(lake: Lake, members: list[EvaluatedMember], run: str, **more: Any) -> tuple[int, int]:
    """Commit members as evaluated by a night, and return how many rows were added and quarantined."""
    rows = trial_rows(members, source="night", run=run, recipe=RECIPE, now_ns=7, **more)
    done = lake.commit(rows, batch_id=f"trials-{run}")
    return done.rows.get("trials", 0), done.refused


def test_a_trial_counts_once_whoever_repeats_it(settings: Settings) -> None:
    first, second = evaluate(), evaluate(nudged(), seed=1)
    with Lake.open(settings) as lake:
        assert commit(lake, [first, replace(first, model="twin"), second], "one") == (2, 0)
        again = [replace(first, model="other", net=None, sharpe=None), second]
        assert commit(lake, again, "two", who="me@here") == (0, 0)
        rows = lake.query("SELECT model, seed, run, net, sharpe, instruments FROM trials ORDER BY seed")
    assert rows.to_pylist()[0] == {
        "model": "mlp",
        "seed": 0,
        "run": "one",
        "net": first.net,
        "sharpe": first.sharpe,
        "instruments": '["hyperliquid|perp|C0", "hyperliquid|perp|C1"]',
    }
    assert rows.num_rows == 2


def test_no_member_makes_no_row() -> None:
    assert trial_rows([], source="judge", run="f", recipe=RECIPE, now_ns=7) == {}
