"""The perturbation proof: it passes for every set, and names every kind of leak."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import count

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

import features.leakage.parity
import features.leakage.perturbation
from features.build import build_features
from features.feature import Feature, FeatureBlock, feature
from features.inputs import CLOCK, INPUTS, Input
from features.leakage.perturbation import canary_looks_ahead, prove, prove_features
from features.live import LiveFeatures, LiveRow
from features.ops.rolling import sum_over
from features.panel.panel import Panel
from features.sets import FEATURE_SETS, get_set
from features.versioning.fingerprint import fingerprint
from storage.clock import iso
from storage.errors import LeakError, RangeError
from tests.features.panels import CODE, random_panel

PANEL = random_panel(5, 420, seed=2)


def planted(function: object, *, lookback_bars: int = 0, inputs: tuple[str, ...] = ("log_price",)) -> Feature:
    """Declare a function that breaks a rule as a feature."""
    function.__doc__ = "Planted.\n\nFormula: none\n\nMissing: never"
    return feature(lookback_bars=lookback_bars, inputs=inputs, unit="1", source="a test")(function)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FEATURE_SETS)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.drill)])
def test_every_set_is_proven(name: str, seed: int) -> None:
    result = prove(random_panel(5, 420, seed=seed + 10), name, seed=seed)
    assert result.fingerprint == fingerprint(get_set(name))
    assert set(result.compared) == {
        "future",
        "past",
        "cut",
        "blocks",
        "stream",
        "build",
        "live",
        "shuffle",
        "shift",
    }
    assert min(result.compared.values()) > 1_000, "too little was compared"
    assert result.canaries_caught == 7
    assert result.unproven == ()


@pytest.mark.drill
def test_the_same_seed_proves_the_same() -> None:
    first = prove(PANEL, "candles", seed=5)
    assert first == prove(PANEL, "candles", seed=5)
    assert first != prove(PANEL, "candles", seed=6)


# Leaks: three that look ahead, and one of each other kind.


def centred_window(log_price: Tensor) -> Tensor:
    return pad(log_price, (2, 2), value=math.nan).unfold(1, 5, 1).nanmean(dim=2)


def full_sample_z_score(log_price: Tensor) -> Tensor:
    there = torch.nan_to_num(log_price)
    return (log_price - there.mean(dim=1, keepdim=True)) / there.std(dim=1, keepdim=True)


def label_among_features(log_price: Tensor) -> Tensor:
    return pad(log_price, (0, 15), value=math.nan)[:, 15:] - log_price


def running_sum(volume: Tensor) -> Tensor:
    total = torch.nan_to_num(volume).cumsum(dim=1)
    return total - pad(total, (5, 0))[:, : total.shape[1]]


def understated_lookback(volume: Tensor) -> Tensor:
    return sum_over(torch.nan_to_num(volume), 11)


def position_in_the_panel(volume: Tensor) -> Tensor:
    return volume * torch.arange(volume.shape[1])


def first_instrument(log_price: Tensor) -> Tensor:
    return log_price - log_price[:1]


def unordered_sum(log_price: Tensor) -> Tensor:
    return log_price - torch.nan_to_num(log_price).sum(dim=0)


@pytest.mark.parametrize(
    ("function", "lookback_bars", "inputs", "check"),
    [
        (centred_window, 5, ("log_price",), "future"),
        (full_sample_z_score, 5, ("log_price",), "future"),
        (label_among_features, 15, ("log_price",), "future"),
        (running_sum, 5, ("volume",), "past"),
        (understated_lookback, 9, ("volume",), "past"),
        (position_in_the_panel, 0, ("volume",), "cut"),
        (first_instrument, 0, ("log_price",), "shuffle"),
    ],
)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.drill)])
def test_a_planted_leak_is_caught_and_named(
    function: object, lookback_bars: int, inputs: tuple[str, ...], check: str, seed: int
) -> None:
    leak = planted(function, lookback_bars=lookback_bars, inputs=inputs)
    with pytest.raises(LeakError) as caught:
        prove_features(PANEL, [*get_set("candles"), leak], seed=seed)
    facts = caught.value.facts
    assert (facts["check"], facts["feature"]) == (check, leak.name)
    assert facts["instrument"] in PANEL.instruments
    assert facts["ts_open_ns"] in PANEL.ts_open_ns
    prefix = f"feature {leak.name} of {facts['instrument']} moved at bar {iso(int(str(facts['ts_open_ns'])))}"
    assert prefix in caught.value.message


def test_a_float_sum_over_instruments_is_caught() -> None:
    """Its last bits depend on the order of the instruments, or on the position in a vector register."""
    with pytest.raises(LeakError) as caught:
        prove_features(PANEL, [planted(unordered_sum)], seed=0)
    assert caught.value.facts["check"] in ("cut", "shuffle")


def test_a_sufficient_lookback_is_not_a_leak() -> None:
    prove_features(PANEL, [planted(understated_lookback, lookback_bars=10, inputs=("volume",))], seed=0)


def test_an_undeclared_clock_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def date(ts_close_ns: Tensor) -> Tensor:
        return ts_close_ns.to(torch.float64)

    monkeypatch.setitem(INPUTS, "date", Input("date", date, (CLOCK,)))
    leak = planted(lambda day: day, inputs=("date",))
    prove_features(PANEL, [leak], seed=0)
    monkeypatch.setattr("features.feature.reads_clock", lambda names: False)
    with pytest.raises(LeakError, match=r"moved at bar .* when the clock was moved by"):
        prove_features(PANEL, [leak], seed=0)


def test_a_feature_that_is_not_pure_is_caught() -> None:
    calls = count()
    with pytest.raises(LeakError, match="moved at bar"):
        prove_features(PANEL, [planted(lambda volume: volume + next(calls), inputs=("volume",))], seed=0)


def test_a_block_that_differs_from_the_proven_values_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit of one cell of 50,000, and one mask."""
    for part in ("values", "mask"):

        def nudged(panel: Panel, feature_set: str, part: str = part) -> FeatureBlock:
            block = build_features(panel, feature_set)
            changed = getattr(block, part).clone()
            cell = (1, 300, block.names.index("log_return_5"))
            changed[cell] = (
                torch.nextafter(changed[cell], torch.tensor(1.0)) if part == "values" else ~changed[cell]
            )
            return replace(block, **{part: changed})

        monkeypatch.setattr(features.leakage.parity, "build_features", nudged)
        with pytest.raises(LeakError, match=r"log_return_5 of \S+ moved .*\(step 300\) when it was built"):
            prove(PANEL, "candles", seed=0)


def test_a_live_step_that_differs_from_the_proven_values_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that forgets one bar."""

    class Forgetful(LiveFeatures):
        def step(self, bar: Panel) -> LiveRow:
            row = super().step(bar)
            if row.ts_open_ns == int(PANEL.ts_open_ns[-20]):
                self._run = LiveFeatures(get_set("candles"), PANEL.instruments, PANEL.width_ns)._run
            return row

    monkeypatch.setattr(features.leakage.parity, "LiveFeatures", Forgetful)
    with pytest.raises(
        LeakError, match=r"feature log_return_1 of \S+ moved .*\(step 401\) when it was stepped live"
    ):
        prove(PANEL, "candles", seed=0)


def test_a_proof_that_changes_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        features.leakage.perturbation._Proof, "_replace", lambda self, start, stop: self._panel
    )
    with pytest.raises(
        LeakError, match="the proof is blind: its check of the future did not catch canary_looks"
    ):
        prove(PANEL, "live", seed=0)


def test_a_canary_that_does_not_leak_fails_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    tame = replace(canary_looks_ahead, function=lambda log_price: log_price)
    monkeypatch.setattr(features.leakage.perturbation, "canary_looks_ahead", tame)
    with pytest.raises(LeakError, match="did not catch canary_looks_ahead"):
        prove(PANEL, "live", seed=0)


def test_the_canaries_are_caught_on_a_panel_that_was_never_watched() -> None:
    blind = replace(PANEL, status=torch.full_like(PANEL.status, CODE["blind"]))
    result = prove(blind, "live", seed=0)
    assert result.canaries_caught == 7
    assert set(result.unproven) == {item.name for item in get_set("live") if not item.is_clock}


@pytest.mark.parametrize("cut", [lambda panel: panel.steps(0, 100), lambda panel: panel.select([])])
def test_a_panel_too_small_to_prove_is_refused(cut: object) -> None:
    small: Panel = cut(PANEL)  # type: ignore[operator]
    with pytest.raises(RangeError, match="is too small to prove features that reach 151 bars back"):
        prove(small, "live", seed=0)
