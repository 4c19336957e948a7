"""Leak checks on predictions alone: planted peeks are named, and honest skill of any kind passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pytest

from training.night.artifacts import Predictions
from training.night.outside_leaks import PredictionMarket, check_leaks

HORIZON: Final = 5
DELAY: Final = 1
STEPS: Final = 1600


@dataclass(frozen=True)
class Prices:
    """Log prices of two instruments, (2, T), with a drift that some model may know."""

    rng: np.random.Generator
    log: np.ndarray
    drift: np.ndarray

    @property
    def returns(self) -> np.ndarray:
        return np.diff(self.log, axis=1, prepend=self.log[:, :1])

    @property
    def label(self) -> np.ndarray:
        found = np.full(self.log.shape, np.nan)
        last = self.log.shape[1] - DELAY - HORIZON
        found[:, :last] = self.log[:, DELAY + HORIZON :] - self.log[:, DELAY : DELAY + last]
        return found / np.nanstd(found)

    def ahead(self, bars: int) -> np.ndarray:
        """Return the standardised return of a later bar."""
        return np.roll(self.returns, -bars, axis=1) / self.returns.std()

    def noise(self) -> np.ndarray:
        return self.rng.standard_normal(self.log.shape)


def prices_of(
    *, memory: float = 0.9, signal: float = 0.0, bounce: float = 0.0, flip: float = 0.9, seed: int = 0
) -> Prices:
    """Return prices with a planted drift of some memory, and a bounce between bid and ask."""
    rng = np.random.default_rng(seed)
    drift = np.zeros((2, STEPS))
    shocks = rng.standard_normal((2, STEPS)) * (1 - memory**2) ** 0.5
    for step in range(1, STEPS):
        drift[:, step] = memory * drift[:, step - 1] + shocks[:, step]
    moves = signal * np.roll(drift, 1, axis=1) + (1 - signal**2) ** 0.5 * rng.standard_normal((2, STEPS))
    side = np.cumprod(np.where(rng.random((2, STEPS)) < flip, -1.0, 1.0), axis=1)
    return Prices(rng, np.log(100) + np.cumsum(moves * 1e-3, axis=1) + bounce * 1e-3 * side, drift)


def failed(prices: Prices, prediction: np.ndarray, *, revised: np.ndarray | None = None) -> list[str]:
    """Return the names of the checks that fail, for predictions of two folds."""
    label, scale = prices.label, np.full(prices.log.shape, prices.returns.std() * HORIZON**0.5)
    parts = []
    for first, stop in ((100, 800), (800, STEPS - 20)):
        instrument = np.repeat([0, 1], stop - first).astype(np.int32)
        step = np.tile(np.arange(first, stop, dtype=np.int32), 2)
        values = (prediction[instrument, step], label[instrument, step])
        parts.append(Predictions(instrument, step, *(value.astype(np.float32) for value in values)))
    price = np.exp(prices.log)
    could_know = np.ones(price.shape, dtype=bool)
    could_know[1, :50] = False
    market = PredictionMarket(price, price if revised is None else revised, scale, could_know, DELAY, HORIZON)
    rules, skill = check_leaks(parts, parts, market)
    assert len(rules) == 5
    assert len(skill) == 2 * (DELAY + HORIZON) + 2
    return [rule.name.removeprefix("leak: ") for rule in rules if not rule.passed]


def mixed(share: float, peek: Callable[[Prices], np.ndarray]) -> Callable[[Prices], np.ndarray]:
    """Return predictions of which a share is a peek, and the rest noise."""
    return lambda prices: share * np.nan_to_num(peek(prices)) + (1 - share**2) ** 0.5 * prices.noise()


def some_rows(prices: Prices) -> np.ndarray:
    return np.where(prices.rng.random(prices.log.shape) < 0.05, np.nan_to_num(prices.label), prices.noise())


PEEKS: Final[dict[str, tuple[Callable[[Prices], np.ndarray], set[str]]]] = {
    "label": (lambda prices: np.nan_to_num(prices.label), {"own labels", "abrupt end of skill"}),
    "scaled label": (lambda prices: -3 * np.nan_to_num(prices.label), {"own labels", "abrupt end of skill"}),
    "noisy label": (mixed(0.6, lambda prices: prices.label), {"abrupt end of skill"}),
    "side of the label": (lambda prices: np.sign(np.nan_to_num(prices.label)), {"abrupt end of skill"}),
    "label of the next bar": (
        mixed(0.7, lambda prices: np.roll(prices.label, -1, axis=1)),
        {"abrupt end of skill"},
    ),
    "some labels": (some_rows, {"own labels"}),
    "next price": (lambda prices: prices.ahead(1), {"later prices"}),
    "price after the fill": (lambda prices: prices.ahead(3), {"later prices", "abrupt end of skill"}),
    "two bars ahead": (
        mixed(0.6, lambda prices: prices.ahead(1) + prices.ahead(2)),
        {"abrupt end of skill"},
    ),
}


@pytest.mark.parametrize("peek", PEEKS)
@pytest.mark.parametrize("signal", [0.0, 0.5])
def test_a_planted_peek_is_named(peek: str, signal: float) -> None:
    prices = prices_of(signal=signal)
    make, names = PEEKS[peek]
    assert set(failed(prices, make(prices))) == names


@pytest.mark.parametrize("memory", [0.3, 0.6, 0.9, 0.98])
@pytest.mark.parametrize("signal", [0.1, 0.4])
def test_skill_that_fades_passes_however_strong(memory: float, signal: float) -> None:
    """Predictions are the planted drift itself, which a model may know and nobody can beat."""
    prices = prices_of(memory=memory, signal=signal)
    assert failed(prices, prices.drift) == []


@pytest.mark.parametrize("flip", [1.0, 0.9, 0.7, 0.5])
def test_a_bounce_that_past_prices_tell_passes(flip: float) -> None:
    prices = prices_of(bounce=1.5, flip=flip)
    known = np.stack([np.roll(prices.returns, bars, axis=1) for bars in range(4)], axis=-1)
    features = np.concatenate([known, np.sign(known)], axis=-1)[:, 10:-10]
    weights = np.linalg.lstsq(features.reshape(-1, 8), prices.label[:, 10:-10].flatten(), rcond=None)[0]
    prediction = np.zeros(prices.log.shape)
    prediction[:, 10:-10] = features @ weights
    assert failed(prices, prediction) == []


@pytest.mark.parametrize("seed", range(5))
def test_noise_and_past_returns_pass(seed: int) -> None:
    prices = prices_of(seed=seed)
    assert failed(prices, prices.noise()) == []
    assert failed(prices, np.cumsum(prices.noise(), axis=1) * 0.1 + prices.ahead(0)) == []
    assert failed(prices, np.zeros(prices.log.shape)) == []


def test_a_correction_that_came_later_is_named() -> None:
    """A tenth of the prices was corrected after the decision, and the predictions know by how much."""
    prices = prices_of()
    change = np.where(prices.rng.random(prices.log.shape) < 0.1, prices.noise() * 1e-3, 0.0)
    revised = np.exp(prices.log + change)
    assert failed(prices, prices.noise(), revised=revised) == []
    assert failed(prices, change * 1e3 + 0.1 * prices.noise(), revised=revised) == ["later corrections"]


def test_predictions_before_the_first_bar_are_named() -> None:
    prices = prices_of()
    price = np.exp(prices.log)
    could_know = np.ones(price.shape, dtype=bool)
    could_know[1, :300] = False
    market = PredictionMarket(price, price, np.full(price.shape, 1e-3), could_know, DELAY, HORIZON)
    instrument, step = (
        np.repeat([0, 1], 400).astype(np.int32),
        np.tile(np.arange(200, 600, dtype=np.int32), 2),
    )
    value = prices.noise()[instrument, step].astype(np.float32)
    part = Predictions(instrument, step, value, np.full(len(step), np.nan, dtype=np.float32))
    rules, _ = check_leaks([part], [part], market)
    assert [(rule.name, rule.value) for rule in rules if not rule.passed] == [("leak: unknown bars", 100.0)]
