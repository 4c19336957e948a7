"""The path of a night's lineage: the models chosen before each test, and what they would have earned in turn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from storage.clock import DAY_NS, HOUR_NS
from training.data.folds import Fold, FoldGeometry
from training.evaluation.period_net import PeriodNet, complete_periods, measure_path, net_by_period
from training.evaluation.positions import MarketData, PositionLedger
from training.evaluation.selection import NEVER_SERVE, ModelChoice, choose
from training.models.device import derive_seed
from training.night.artifacts import Predictions
from training.night.scoring import EvaluationWindow, backtest, to_dense
from training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class LineagePath:
    """The path of a night's lineage.

    Args:
        by_fold: the choice before each test.
        last: the choice after all tests, which is refitted.
        ledger: positions and earnings of the path.
        net: net and risk of the path by complete period.
        members: (P, K) net of every model and seed that may serve, in the same periods.
    """

    by_fold: tuple[ModelChoice, ...]
    last: ModelChoice
    ledger: PositionLedger
    net: PeriodNet
    members: np.ndarray


def period_of(geometry: FoldGeometry, *, width_ns: int) -> int:
    """Return the length of a period: a UTC day, or an hour where the folds are hourly."""
    return HOUR_NS if geometry.unit == "hour" and HOUR_NS % width_ns == 0 else DAY_NS


def least_block(recipe: Recipe, *, width_ns: int, period_ns: int) -> int:
    """Return the periods that horizon and holding cover together."""
    bars = recipe.label.horizon_bars + recipe.position.hold_bars
    return max(1, math.ceil(bars * width_ns / period_ns))


def nets_before_first_test(
    predictions: Sequence[Mapping[str, Predictions]],
    market: MarketData,
    folds: Sequence[Fold],
    recipe: Recipe,
    decided_ns: np.ndarray,
    *,
    width_ns: int,
    period_ns: int,
) -> tuple[dict[str, np.ndarray], ...]:
    """Return what each fold's models earned in their own valid window, in the complete periods before all tests.

    Where a valid window covers an earlier test, the models of that earlier fold count, which had not seen it; so no
    period counts twice, and none is of a later fold.

    Args:
        predictions: by fold, then model: for the rows of its valid window.
        market: prices of all steps of the panel.
        folds: oldest first.
        recipe: models, position rule and costs.
        decided_ns: (T',) times of the decisions of all steps of the panel.
        width_ns: width of a bar.
        period_ns: length of a period.

    Returns:
        By fold, then model: (P,) net of P periods; none where the window lies behind the first test's start.
    """
    stop_ns, found = folds[0].test.start_ns, []
    for fold, of_models in zip(folds, predictions, strict=True):
        nets = {name: np.zeros(0) for name in recipe.models}
        if fold.valid.start_ns < stop_ns:
            start = int(np.searchsorted(decided_ns, fold.valid.start_ns))
            # The bar that closes as the test starts is known then, and ends the last period.
            stop = int(np.searchsorted(market.ts_close_ns, fold.valid.stop_ns, side="right"))
            window = EvaluationWindow(start, stop, market.window(start, stop))
            closes = window.market.ts_close_ns
            first, bars = complete_periods(closes, width_ns=width_ns, period_ns=period_ns)
            first = first[closes[first] - width_ns + period_ns <= stop_ns]
            for name in recipe.models:
                ledger = backtest(to_dense([of_models[name]], window, recipe), window, recipe)
                nets[name] = net_by_period(ledger.net, first, bars)
        found.append(nets)
    return tuple(found)


def stitch_path(
    dense: Mapping[str, np.ndarray],
    ledgers: Mapping[str, PositionLedger],
    market: MarketData,
    window: EvaluationWindow,
    folds: Sequence[Fold],
    recipe: Recipe,
    decided_ns: np.ndarray,
    *,
    earlier: Sequence[Mapping[str, np.ndarray]],
    width_ns: int,
    period_ns: int,
    seed: int,
    order: Sequence[str] = (),
) -> LineagePath:
    """Choose a model before each test from the periods that end before it, and run the position rule on all of them.

    The choice before a test reads the tests of earlier folds, and the part of its own fold's valid window that precedes
    all tests.

    Args:
        dense: (S, T) predictions over the window by model and seed.
        ledgers: their backtests.
        market: prices of all steps of the panel.
        window: of all tests.
        folds: oldest first.
        recipe: order of the models, position rule and costs.
        decided_ns: (T',) times of the decisions of all steps of the panel.
        earlier: by fold, the result of `nets_before_first_test`.
        width_ns: width of a bar.
        period_ns: length of a period.
        seed: of the night.
        order: models to choose among, simplest first (default: those of the recipe).
    """
    first, bars = complete_periods(window.market.ts_close_ns, width_ns=width_ns, period_ns=period_ns)
    end_ns = window.market.ts_close_ns[first] - width_ns + period_ns
    nets = {name: net_by_period(ledger.net, first, bars) for name, ledger in ledgers.items()}
    block = least_block(recipe, width_ns=width_ns, period_ns=period_ns)

    def choose_before(at_ns: float, own: Mapping[str, np.ndarray]) -> ModelChoice:
        known = end_ns <= at_ns
        return choose(
            {name: np.concatenate([own[name], nets[name][known]]) for name in recipe.models},
            order=order or recipe.models,
            least_block=block,
            seed=derive_seed(seed, "choice"),
        )

    choices = tuple(choose_before(fold.test.start_ns, own) for fold, own in zip(folds, earlier, strict=True))
    decided = decided_ns[window.first : window.stop]
    prediction = np.full(window.market.price.shape, np.nan)
    for fold, choice in zip(folds, choices, strict=True):
        steps = (decided >= fold.test.start_ns) & (decided < fold.test.stop_ns)
        prediction[:, steps] = dense[choice.model][:, steps]
    ledger = backtest(prediction, window, recipe)
    members = [net for name, net in nets.items() if name not in NEVER_SERVE]
    return LineagePath(
        by_fold=choices,
        last=choose_before(math.inf, earlier[-1]),
        ledger=ledger,
        net=measure_path(ledger, market, offset=window.first, width_ns=width_ns, period_ns=period_ns),
        members=np.stack(members, axis=1),
    )
