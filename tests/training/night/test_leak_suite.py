"""The leak suite: silent on honest markets, and a leak in a feature, in a label or in the training is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from storage.errors import LeakError
from tests.training.builders import panel_of, walk
from tests.training.memory_night import RECIPE, bounce, data_of, fold_of
from training.data.folds import Fold
from training.models.baseline import BarRows
from training.models.ridge import Ridge
from training.night import leak_suite
from training.night.artifacts import Lessons, NightData
from training.night.label_shifts import price_windows
from training.night.leak_suite import MOST_EXTRA, LeakSuiteResult, ShiftedLabel, run_leak_suite

STEPS = 1300
MARKETS: dict[str, Callable[[int], np.ndarray]] = {
    "random walks": lambda seed: walk(instruments=3, steps=STEPS, seed=seed),
    "trends": lambda seed: walk(instruments=3, steps=STEPS, seed=seed, signal=0.5),
    "drifts": lambda seed: (
        walk(instruments=3, steps=STEPS, seed=seed)
        + np.arange(STEPS) * np.random.default_rng(seed).normal(0, 2e-4, (3, 1))
    ),
    "one market": lambda seed: (
        walk(instruments=1, steps=STEPS, seed=seed, signal=0.3)
        + 0.3 * walk(instruments=3, steps=STEPS, seed=seed + 10_000)
    ),
    "hours": lambda seed: (
        walk(instruments=3, steps=STEPS, seed=seed)
        + np.cumsum(5e-4 * np.sin(np.arange(STEPS) * 2 * np.pi / 240))
    ),
}


def market(seed: int = 3, kind: str = "random walks") -> NightData:
    return data_of(panel_of(np.exp(MARKETS[kind](seed))))


def with_feature(data: NightData, values: torch.Tensor, mask: torch.Tensor) -> NightData:
    """Return the data with one feature more."""
    block = data.block
    known = mask & torch.isfinite(values)
    added = torch.where(known, values, 0.0).to(torch.float32)[..., None]
    return replace(
        data,
        block=replace(
            block,
            names=(*block.names, "planted"),
            values=torch.cat((block.values, added), dim=-1),
            mask=torch.cat((block.mask, known[..., None]), dim=-1),
        ),
    )


def run(data: NightData, folds: Sequence[Fold] = (), *, seed: int = 1) -> LeakSuiteResult:
    return run_leak_suite(data, folds or [fold_of(data.panel.n_steps)], RECIPE, seed=seed)


def own(result: LeakSuiteResult) -> ShiftedLabel:
    return next(item for item in result.shifts if item.bars == 0)


@pytest.mark.parametrize("seeds", [1, pytest.param(200, marks=pytest.mark.drill)])
@pytest.mark.parametrize("kind", MARKETS)
def test_honest_markets_raise_no_alarm(kind: str, seeds: int) -> None:
    extras, scatter = [], []
    for seed in range(3, 3 + seeds):
        result = run(market(seed, kind), seed=seed)
        assert result.reason == ""
        assert result.is_decided
        assert result.shuffled is not None
        assert result.shuffled.mean == 0.0
        assert result.shuffled.kept < 0.6
        scatter.append(np.std(result.shuffled.ic))
        extras.append(max(item.skill.extra for item in result.shifts if item.is_later))
    assert min(scatter) > 0.001, "single shuffles scatter"
    assert max(extras) < MOST_EXTRA / 3
    print(f"{kind}, {seeds} seeds: largest share {max(extras):.3f}, scatter {np.mean(scatter):.3f}")


def test_prices_know_the_share_of_a_label_that_is_over_and_nothing_of_a_random_walk_to_come() -> None:
    result = run(data_of(panel_of(np.exp(walk(instruments=3, steps=4000, seed=3)))))
    for item in result.shifts:
        assert item.skill.prices == pytest.approx(item.over**0.5, abs=0.1)
        assert item.skill.features == pytest.approx(item.skill.prices, abs=0.05)
    assert [item.over for item in result.shifts] == [1.0, 1.0, pytest.approx(0.4), 0, 0, 0, 0]


def test_bounce_is_predictable_from_prices_and_no_leak() -> None:
    result = run(data_of(bounce()))
    assert own(result).skill.prices > 0.8
    assert result.reason == ""


@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("bars", [0, 5])
def test_a_feature_that_contains_part_of_a_later_label_is_named(share: float, bars: int) -> None:
    """The part is the first bars of the label's span, as of a join with a clock that is some bars fast."""
    data = market()
    horizon = RECIPE.label.horizon_bars
    start, stop = 1 + bars, 1 + bars + round(share * horizon)
    price = torch.log(data.panel.column("close"))
    leaked = torch.full_like(price, torch.nan)
    leaked[:, :-stop] = price[:, stop:] - price[:, start : start + price.shape[1] - stop]
    result = run(with_feature(data, leaked / data.labels.scale, data.labels.mask))
    assert result.reason.startswith("shifted labels: features explain")
    assert f"begin {bars} bars after the row's own" in result.reason
    assert "most of all planted, correlated +" in result.reason


def test_a_label_that_reaches_back_is_found() -> None:
    """Labels that are over by the decision, under the clock of labels to come."""
    data = market()
    back = RECIPE.label.horizon_bars + 1
    labels = data.labels
    moved = {
        name: torch.roll(getattr(labels, name), back, dims=1) for name in ("label", "mask", "basis", "scale")
    }
    result = run(replace(data, labels=replace(labels, **moved)))
    item = own(result)
    assert item.skill.prices > 0.9, "price history alone explains it"
    assert result.reason == "", "which is the business of the proof of labels: features add nothing to prices"


def test_test_labels_in_the_training_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit that some of its true labels reach by another way than its argument, as through a cache."""
    data = market(kind="trends")
    true = Ridge.fit
    kept: list[Ridge] = []

    def leaky(train: BarRows, valid: BarRows | None, *, shrinkage: int | None = None) -> Ridge:
        fit = true(train, valid, shrinkage=shrinkage)
        coefficients = fit.weights()["coefficients"]
        shapes = [item.weights()["coefficients"].shape for item in kept]
        if coefficients.shape not in shapes:
            kept.append(fit)
        first = next(item for item in kept if item.weights()["coefficients"].shape == coefficients.shape)
        return Ridge(coefficients + 0.05 * first.weights()["coefficients"], shrinkage=fit.budget)

    monkeypatch.setattr(leak_suite.Ridge, "fit", leaky)
    monkeypatch.setattr(leak_suite, "SHUFFLES", 10)
    result = run(data)
    assert result.shuffled is not None
    assert not result.shuffled.passed
    assert "shuffled labels: models trained on them have a mean skill of" in result.reason


def test_a_suite_that_misses_its_planted_leak_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(label: torch.Tensor, noise: float, draw: np.random.Generator) -> BarRows:
        x = torch.zeros(len(label), 1)
        return BarRows(x, torch.ones_like(x), torch.zeros(len(label)), label)

    monkeypatch.setattr(leak_suite, "_planted", blind)
    with pytest.raises(LeakError, match="leak suite is broken: it did not find a planted feature") as caught:
        run(market())
    assert caught.value.facts["check"] == "planted leak"


def test_a_suite_whose_shuffle_keeps_the_labels_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        leak_suite,
        "_shuffle",
        lambda table, instrument, share, sign: replace(table, label=sign * table.label),
    )
    with pytest.raises(
        LeakError, match=r"suite is broken: shuffled labels still have a correlation of 1\.00"
    ):
        run(market())


def test_tests_that_are_too_short_promote_nothing() -> None:
    data = market()
    short = data_of(data.panel.steps(0, 500))
    result = run(short)
    assert not result.is_decided
    assert "cannot be checked: the tests have" in result.reason
    empty = replace(short, block=replace(short.block, mask=torch.zeros_like(short.block.mask)))
    assert run(empty).reason == "cannot be checked: no fold has train, valid and test rows"
    assert run(empty).to_dict()["planted"] is None


def test_lessons_teach_and_served_rows_judge() -> None:
    """Where `available` rows teach, those of the served bars alone are tested."""
    data = market()
    lessons = Lessons(data.block, data.labels, data.past)
    taught = replace(data, lessons=lessons)
    assert run(taught).to_dict() == run(data).to_dict()


def test_results_are_equal_for_equal_seeds() -> None:
    first = run(market()).to_dict()
    assert run(market()).to_dict() == first
    assert run(market(), seed=2).to_dict() != first


def test_differences_of_price_windows_give_the_labels_that_are_over() -> None:
    for horizon in (1, 2, 5, 12, 30):
        windows = price_windows(horizon)
        assert {horizon, 2 * horizon, horizon - horizon // 2} <= set(windows)
        assert min(windows) == 1
