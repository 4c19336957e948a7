"""Comparison of two models of nights on what both were tested on: `tickwalk compare`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from storage.clock import width_ns
from storage.errors import GateError
from storage.lake.lake import Lake
from storage.settings import Settings
from training.data.folds import Fold
from training.evaluation.comparison import ic_difference, mean_difference
from training.evaluation.metrics import Estimate, standardise
from training.evaluation.period_net import complete_periods, net_by_period
from training.evaluation.positions import PositionLedger
from training.models.device import derive_seed
from training.night.artifacts import NightArtifacts, NightData
from training.night.backtests import backtest_night
from training.night.lineage_path import least_block, period_of
from training.night.preparation import read_fold
from training.recipe import Recipe

_BLOCK_HORIZONS: Final = 4
_INSTRUMENT_BITS: Final = 16
_NOTHING: Final = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """What b has more than a, on the same rows and in the same periods.

    Args:
        a, b: night and model of each, as `NIGHT:MODEL`.
        rows: labelled test rows of both.
        only_a, only_b: test rows that were left out, as the other lacks them.
        since_ns, until_ns: first and last decision of the rows; 0 without rows.
        ic: of b less that of a; undefined where their labels differ.
        same_labels: both were tested against the same labels.
        periods: complete periods of both.
        period_ns: length of one.
        net: of b less that of a, by period.
    """

    a: str
    b: str
    rows: int
    only_a: int
    only_b: int
    since_ns: int
    until_ns: int
    ic: Estimate
    same_labels: bool
    periods: int
    period_ns: int
    net: Estimate

    @staticmethod
    def answer(figure: Estimate) -> str:
        """Return what an interval says: `B is better`, `A is better`, `no difference seen`, or `too short to say`."""
        if math.isnan(figure.low):
            return "too short to say"
        if figure.low > 0:
            return "B is better"
        return "A is better" if figure.high < 0 else "no difference seen"


@dataclass(frozen=True, slots=True)
class _TestedModel:
    """One model of a night: its labelled test rows, and its net by start of each complete period.

    `key` is a row's bar on the clock and its instrument in one number, the same in every night.
    """

    name: str
    key: np.ndarray
    prediction: np.ndarray
    label: np.ndarray
    fold: np.ndarray
    recipe: Recipe
    net: dict[int, float]
    period_ns: int
    least_block: int


def compare_models(settings: Settings, a: str, b: str) -> PairedComparison:
    """Compare two models of finished nights.

    Args:
        settings: the home.
        a, b: `NIGHT` for the night's challenger, or `NIGHT:MODEL`.

    Raises:
        GateError: no such night or model, the night is not judged, or the two have no test in common.
    """
    instruments: dict[str, int] = {}
    with Lake.open(settings, read_only=True) as lake:
        one, other = (_read(settings, lake, name, instruments) for name in (a, b))
    if (one.recipe.width, one.period_ns) != (other.recipe.width, other.period_ns):
        raise GateError(
            f"{one.name} has bars of {one.recipe.width} and {other.name} of {other.recipe.width}, which share no row",
            hint="compare nights of one width and unit of folds",
        )
    _, left, right = np.intersect1d(one.key, other.key, assume_unique=True, return_indices=True)
    starts = sorted(one.net.keys() & other.net.keys())
    if not len(left) and not starts:
        raise GateError(
            f"{one.name} and {other.name} were tested on no row in common",
            hint="compare models of one night, or nights whose tests overlap: tickwalk nights list",
        )
    seed = derive_seed(0, one.name, other.name)
    same = one.recipe.label == other.recipe.label
    nets = [np.array([part.net[at] for at in starts]) for part in (one, other)]
    width = width_ns(one.recipe.width)
    bars = one.key[left] >> _INSTRUMENT_BITS
    return PairedComparison(
        a=one.name,
        b=other.name,
        rows=len(left),
        only_a=len(one.key) - len(left),
        only_b=len(other.key) - len(left),
        since_ns=int(bars.min()) * width if len(left) else 0,
        until_ns=(int(bars.max()) + 1) * width if len(left) else 0,
        ic=_paired_ic(one, other, left, right, seed=seed) if same else _NOTHING,
        same_labels=same,
        periods=len(starts),
        period_ns=one.period_ns,
        net=mean_difference(*nets, least_block=max(one.least_block, other.least_block), seed=seed),
    )


def _paired_ic(
    one: _TestedModel, other: _TestedModel, left: np.ndarray, right: np.ndarray, *, seed: int
) -> Estimate:
    # Values are standardised where both have one model each: within the folds of both.
    fold = one.fold[left] * (int(other.fold.max(initial=0)) + 1) + other.fold[right]
    a, b, label = (
        standardise(values.astype(np.float64), fold)
        for values in (one.prediction[left], other.prediction[right], one.label[left])
    )
    block = _BLOCK_HORIZONS * one.recipe.label.horizon_bars
    return ic_difference(a, b, label, one.key[left] >> _INSTRUMENT_BITS, block_steps=block, seed=seed)


def _read(settings: Settings, lake: Lake, name: str, instruments: dict[str, int]) -> _TestedModel:
    """Read one side; `instruments` numbers their ids for both."""
    night, _, model = name.partition(":")
    folder = NightArtifacts.find(settings, night)
    verdict, recipe, data = folder.read("verdict.json", step="judge_night"), folder.recipe, folder.read_data()
    model = model or str(verdict["challenger"])
    if model not in recipe.models:
        raise GateError(
            f"night {night} has no model {model!r}", hint=f"name one of: {', '.join(recipe.models)}"
        )
    folds = [read_fold(entry) for entry in folder.read("folds.json")["folds"]]
    width = data.panel.width_ns
    parts = [folder.read_predictions(folder.model_path(fold.index, model)) for fold in folds]
    number = np.array([instruments.setdefault(item, len(instruments)) for item in data.panel.instruments])
    keys = [
        (data.panel.ts_open_ns[part.step] // width << _INSTRUMENT_BITS) + number[part.instrument]
        for part in parts
    ]
    label = np.concatenate([part.label for part in parts])
    known = np.isfinite(label)
    ledger = backtest_night(folder, folds, data, recipe, lake).ledgers[model]
    return _TestedModel(
        name=f"{night}:{model}",
        key=np.concatenate(keys)[known],
        prediction=np.concatenate([part.prediction for part in parts])[known],
        label=label[known],
        fold=np.repeat(np.arange(len(parts)), [len(part.step) for part in parts])[known],
        recipe=recipe,
        **_net_of(ledger, data, folds, recipe),
    )


def _net_of(ledger: PositionLedger, data: NightData, folds: Sequence[Fold], recipe: Recipe) -> dict[str, Any]:
    """Return net by period, length of a period and least block of a ledger over all tests."""
    width = data.panel.width_ns
    period_ns = period_of(recipe.folds, width_ns=width)
    first_step = int(np.searchsorted(data.labels.ts_decided_ns, folds[0].test.start_ns))
    closes = data.panel.ts_close_ns[first_step : first_step + len(ledger.net)]
    first, bars = complete_periods(closes, width_ns=width, period_ns=period_ns)
    net = net_by_period(ledger.net, first, bars)
    return {
        "net": dict(zip((closes[first] - width).tolist(), net.tolist(), strict=True)),
        "period_ns": period_ns,
        "least_block": least_block(recipe, width_ns=width, period_ns=period_ns),
    }
