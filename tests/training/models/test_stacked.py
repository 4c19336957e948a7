"""Many fits as one program: equal to single fits, independent of each other, and resumable."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from storage.errors import FitError, SettingsError
from tests.training.builders import block_of
from training.data.panel import Normaliser, PanelWindows
from training.models.device import prepare_device
from training.models.fit_rule import FitRule
from training.models.mlp import WindowMLP
from training.models.networks import make_network
from training.models.stacked import StackedFit, fit_stacked
from training.models.trainer import TrainingProgress, TrainingRows, fit_network

RULE = FitRule(epochs=3, batch=16, checks=2, patience=5, learning_rate=1e-2)
LANES = 3


@pytest.fixture(scope="module")
def windows() -> PanelWindows:
    made = block_of()
    rows = torch.ones(made.mask.shape[:2], dtype=torch.bool)
    normaliser = Normaliser.fit(made.values, made.mask, rows)
    return PanelWindows(made, normaliser, window_bars=4, device=prepare_device("cpu", threads=1))


def rows_of(windows: PanelWindows, first: int, stop: int) -> TrainingRows:
    index = torch.arange(first, stop)
    x, _ = windows.batch(index)
    label = x[:, -1, 0] - 0.5 * x[:, -2, 1]
    mask = index % 7 != 0
    return TrainingRows(index, torch.where(mask, label, 0.0), mask)


def fits_of(windows: PanelWindows, *, dropout: float) -> list[StackedFit]:
    """Return fits with different seeds, numbers of rows and steps."""
    found = []
    for number in range(4):
        torch.manual_seed(number)
        network = WindowMLP(windows.window_bars, windows.n_features, dropout=dropout)
        nn.init.normal_(network.head.weight, std=0.1)
        train = rows_of(windows, 0, 24 + 6 * number)
        found.append(StackedFit(network, windows, train, rows_of(windows, 46, 56 + number), seed=number))
    return found


def is_same(a: TrainingProgress, b: TrainingProgress) -> bool:
    weights = all(torch.equal(a.best[name], b.best[name]) for name in a.best)
    return weights and repr(a.cursor()) == repr(b.cursor())


@pytest.mark.parametrize(
    "rule",
    [
        RULE,
        replace(RULE, schedule="cosine", warmup_epochs=0.7),
        replace(RULE, loss="time_ic", order="chronological"),
    ],
    ids=["huber", "scheduled", "time_ic"],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_stacked_fits_equal_single_ones_up_to_rounding(
    rule: FitRule, weighted: bool, windows: PanelWindows
) -> None:
    def fits() -> list[StackedFit]:
        made = fits_of(windows, dropout=0.0)
        if not weighted:
            return made
        return [
            replace(fit, train=replace(fit.train, weight=0.5 + torch.arange(len(fit.train.index)) % 3))
            for fit in made
        ]

    stacked = fit_stacked(fits(), rule, lanes=LANES)
    for fit, done in zip(fits(), stacked, strict=True):
        alone = fit_network(fit.network, windows, fit.train, fit.valid, rule, seed=fit.seed)
        assert alone.best_point == done.best_point
        for name, weights in alone.best.items():
            torch.testing.assert_close(done.best[name], weights, rtol=0, atol=2e-6)
        for mine, theirs in zip(done.history, alone.history, strict=True):
            assert mine.valid_loss == pytest.approx(theirs.valid_loss, abs=1e-6)


def test_a_fit_has_the_same_bits_whatever_it_is_stacked_with(windows: PanelWindows) -> None:
    together = fit_stacked(fits_of(windows, dropout=0.25), RULE, lanes=LANES)
    backwards = fit_stacked(fits_of(windows, dropout=0.25)[::-1], RULE, lanes=LANES)[::-1]
    alone = [fit_stacked([fit], RULE, lanes=LANES)[0] for fit in fits_of(windows, dropout=0.25)]
    for one, other, single in zip(together, backwards, alone, strict=True):
        assert is_same(one, other)
        assert is_same(one, single)


def test_stopped_fits_continue_with_the_same_bits(windows: PanelWindows) -> None:
    whole = fit_stacked(fits_of(windows, dropout=0.25), RULE, lanes=LANES)
    fits = fits_of(windows, dropout=0.25)
    stopped = [
        fit_stacked([replace(fit, points=1 + number)], RULE, lanes=LANES)[0]
        for number, fit in enumerate(fits)
    ]
    resumed = [
        replace(fit, resume=replace(progress, is_done=False))
        for fit, progress in zip(fits_of(windows, dropout=0.25), stopped, strict=True)
    ]
    for one, other in zip(whole, fit_stacked(resumed, RULE, lanes=LANES), strict=True):
        assert is_same(one, other)


def test_each_fit_stops_on_its_own_and_gets_its_best_weights(windows: PanelWindows) -> None:
    rule = replace(RULE, epochs=6, patience=1, learning_rate=0.06)
    fits = fits_of(windows, dropout=0.0)
    done = fit_stacked(fits, rule, lanes=LANES)
    assert len({progress.point for progress in done}) > 1
    for fit, progress in zip(fits, done, strict=True):
        assert progress.best_point == min(
            range(len(progress.history)), key=lambda point: progress.history[point].valid_loss
        )
        for name, weights in fit.network.state_dict().items():
            assert torch.equal(weights, progress.best[name])


def test_progress_is_saved_at_each_point(windows: PanelWindows) -> None:
    points: dict[int, list[int]] = {0: [], 1: []}
    fits = [
        replace(fit, save=lambda progress, number=number: points[number].append(progress.point))
        for number, fit in enumerate(fits_of(windows, dropout=0.25)[:2])
    ]
    fit_stacked(fits, RULE, lanes=LANES)
    assert points == {0: list(range(7)), 1: list(range(7))}


def test_an_error_names_the_fit_and_its_row(windows: PanelWindows) -> None:
    fits = fits_of(windows, dropout=0.0)
    broken = fits[2].train
    label = broken.label.clone()
    label[5] = torch.nan
    fits[2] = replace(fits[2], train=replace(broken, label=label))
    with pytest.raises(FitError) as caught:
        fit_stacked(fits, RULE, lanes=LANES)
    assert (caught.value.facts["place"], caught.value.facts["row"]) == (2, 5)


def test_a_stack_needs_two_lanes(windows: PanelWindows) -> None:
    with pytest.raises(SettingsError, match="1 lanes"):
        fit_stacked(fits_of(windows, dropout=0.0), RULE, lanes=1)


def test_a_network_that_cannot_be_stacked_is_refused(windows: PanelWindows) -> None:
    network = make_network("lstm", window_bars=4, n_features=windows.n_features, seed=0)
    fit = replace(fits_of(windows, dropout=0.0)[0], network=network)
    with pytest.raises(SettingsError, match="cannot be stacked"):
        fit_stacked([fit], RULE, lanes=LANES)
