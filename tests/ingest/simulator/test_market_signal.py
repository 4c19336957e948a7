"""The planted signal: flow predicts returns with the specified strength, and nothing else does."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from ingest.simulator.market.spec import DEFAULT_COINS, MarketSpec
from storage.clock import NS
from tests.ingest.simulator.test_market import served
from tests.training.builders import GRACE_NS, MINUTE_NS, panel_of
from training.data.labels import LabelRule, delay_bars, make_labels
from training.evaluation.metrics import score_predictions

MINUTE_MS = 60_000


@lru_cache(maxsize=2)
def bars(spec: MarketSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return imbalance (S, T) from prints and log mid at the close (S, T) from quotes, as a recorder has them."""
    names = [coin.name for coin in spec.coins if coin.listed]
    minutes = round((spec.span_s or 0) / 60)
    buy, sell = np.zeros((2, len(names), minutes))
    mid = np.full((len(names), minutes), np.nan)
    for block in served(spec):
        minute = block.time_ms // MINUTE_MS - spec.start_ns // (60 * NS)
        for frame in block.frames:
            if frame.coin not in names:
                continue
            row = names.index(frame.coin)
            for item in frame.prints:
                (buy if '"side":"B"' in item.text else sell)[row, minute] += item.size
            if frame.quote is not None:
                mid[row, minute] = np.log((frame.quote.bid + frame.quote.ask) / 2)
    volume = buy + sell
    imbalance = np.divide(buy - sell, volume, out=np.zeros_like(volume), where=volume > 0)
    assert not np.isnan(mid).any()
    return imbalance, mid


def best_predictor(imbalance: np.ndarray, memory: float) -> np.ndarray:
    x: np.ndarray = imbalance / np.sqrt(np.mean(imbalance**2, axis=1, keepdims=True))
    signal: np.ndarray = np.zeros_like(x)
    signal[:, 0] = x[:, 0] * np.sqrt(1 - memory**2)
    for minute in range(1, x.shape[1]):
        signal[:, minute] = memory * signal[:, minute - 1] + np.sqrt(1 - memory**2) * x[:, minute]
    return signal


def correlation(signal: np.ndarray, mid: np.ndarray, horizon: int) -> float:
    """Return the pooled correlation with the return over `horizon` minutes, each coin scaled by its own."""
    returns = mid[:, horizon:] - mid[:, :-horizon]
    scaled = (returns - returns.mean(axis=1, keepdims=True)) / returns.std(axis=1, keepdims=True)
    return float(np.corrcoef(signal[:, 20:-horizon].ravel(), scaled[:, 20:].ravel())[0, 1])


def busy(strength: float) -> MarketSpec:
    return MarketSpec(
        seed=2, span_s=8 * 3_600.0, signal_strength=strength, coins=DEFAULT_COINS[:4], activity=0.5
    )


def test_flow_predicts_returns_with_the_specified_strength() -> None:
    spec = busy(0.3)
    imbalance, mid = bars(spec)
    signal = best_predictor(imbalance, spec.signal_memory)
    # 4 coins, 460 minutes, a shared factor: about 0.03 of sampling error, less where returns overlap less.
    assert correlation(signal, mid, 1) == pytest.approx(spec.expected_ic(1), abs=0.06)
    assert correlation(signal, mid, 5) == pytest.approx(spec.expected_ic(5), abs=0.12)
    assert correlation(imbalance, mid, 1) == pytest.approx(0.3 * 0.6, abs=0.06), "the newest bar alone"


def test_the_best_predictor_has_the_expected_ic_on_the_labels_of_a_night() -> None:
    """Five minutes ahead, entered a minute late, in units of a volatility that is estimated from the bars."""
    spec = busy(0.3)
    imbalance, mid = bars(spec)
    rule = LabelRule(horizon_bars=5, volatility_bars=60)
    labels = make_labels(panel_of(np.exp(mid)), rule, grace_ns=GRACE_NS)
    assert delay_bars(MINUTE_NS, grace_ns=GRACE_NS, delay_ms=rule.delay_ms) == 1
    shown = labels.mask.numpy()
    score = score_predictions(
        best_predictor(imbalance, spec.signal_memory)[shown],
        labels.label.numpy()[shown],
        np.nonzero(shown)[1],
        block_steps=20,
        seed=0,
    )
    assert score.ic.low < spec.expected_ic(5, delay_min=1) < score.ic.high
    assert score.ic.high - score.ic.low < 0.25


def test_without_strength_flow_predicts_nothing() -> None:
    imbalance, mid = bars(busy(0.0))
    assert abs(correlation(best_predictor(imbalance, 0.8), mid, 1)) < 0.06


def test_returns_do_not_predict_themselves() -> None:
    _, mid = bars(busy(0.0))
    before = np.diff(mid, axis=1, prepend=mid[:, :1])
    assert abs(correlation(before / before.std(axis=1, keepdims=True), mid, 1)) < 0.08


def test_expected_ic_at_one_minute_is_the_strength() -> None:
    spec = MarketSpec(signal_strength=0.15)
    assert spec.expected_ic(1) == pytest.approx(0.15)
    assert spec.expected_ic(5) == pytest.approx(0.2188, abs=5e-4)
    assert spec.expected_ic(5, delay_min=2) == pytest.approx(0.64 * spec.expected_ic(5))
