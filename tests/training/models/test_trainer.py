"""The training loop: losses, early stopping, seeds and resuming after a kill."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from features.feature import FeatureBlock
from storage.errors import SettingsError
from tests.training.builders import block_of, stamp_of
from training.data.panel import Normaliser, PanelWindows
from training.models.checkpoint import load_checkpoint, save_checkpoint
from training.models.device import derive_seed, prepare_device
from training.models.losses import masked_huber
from training.models.networks import NETWORKS, make_network
from training.models.trainer import (
    FitRule,
    TrainingProgress,
    TrainingRows,
    fit_network,
    mean_loss,
    predict_network,
)

N = 60
RULE = FitRule(epochs=5, batch=16, patience=5, learning_rate=1e-2)


def windows_of(made: FeatureBlock) -> PanelWindows:
    rows = torch.ones(made.mask.shape[:2], dtype=torch.bool)
    normaliser = Normaliser.fit(made.values, made.mask, rows)
    return PanelWindows(made, normaliser, window_bars=4, device=prepare_device("cpu", threads=1))


def rows_of(windows: PanelWindows, first: int, stop: int) -> TrainingRows:
    index = torch.arange(first, stop)
    x, _ = windows.batch(index)
    label = x[:, -1, 0] - 0.5 * x[:, -2, 1]
    return TrainingRows(index, label, torch.ones(len(index), dtype=torch.bool))


def network_of(name: str, windows: PanelWindows, seed: int = 3) -> torch.nn.Module:
    return make_network(name, window_bars=windows.window_bars, n_features=windows.n_features, seed=seed)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_masked_huber_equals_torch_on_observed_labels() -> None:
    draw = torch.Generator().manual_seed(0)
    prediction, label = torch.randn(50, generator=draw), torch.randn(50, generator=draw) * 3
    mask = torch.rand(50, generator=draw) < 0.6
    label[~mask] = math.nan
    expected = torch.nn.functional.huber_loss(prediction[mask], label[mask], delta=0.7)
    torch.testing.assert_close(masked_huber(prediction, label, mask, delta=0.7), expected)


def test_masked_huber_without_labels_is_zero_with_zero_gradient() -> None:
    prediction = torch.ones(3, requires_grad=True)
    loss = masked_huber(prediction, torch.full((3,), math.nan), torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert prediction.grad is not None
    assert prediction.grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_network_learns_a_planted_signal(name: str) -> None:
    windows = windows_of(block_of())
    train = rows_of(windows, 0, N)
    network = network_of(name, windows)
    before = mean_loss(network, windows, train, RULE)
    fit_network(network, windows, train, None, FitRule(epochs=30, batch=16, learning_rate=1e-2), seed=1)
    assert mean_loss(network, windows, train, RULE) < before / 2


def test_early_stopping_returns_the_best_weights_not_the_last() -> None:
    windows = windows_of(block_of())
    train, valid = rows_of(windows, 0, 30), rows_of(windows, 30, N)
    # Valid labels opposed to the train labels: after some epochs every step increases their loss.
    against = TrainingRows(valid.index, -valid.label + 1.0, valid.mask)
    kept: dict[int, dict[str, torch.Tensor]] = {}
    network = network_of("mlp", windows)

    def save(progress: TrainingProgress) -> None:
        kept[progress.epoch] = dict(progress.state["weights"])

    rule = FitRule(epochs=30, batch=8, patience=3, learning_rate=1e-2)
    done = fit_network(network, windows, train, against, rule, seed=1, save=save)
    losses = [entry.valid_loss for entry in done.history]
    assert done.best_epoch == losses.index(min(losses)) + 1
    assert done.epoch == done.best_epoch + rule.patience < rule.epochs
    assert same(dict(network.state_dict()), kept[done.best_epoch])
    assert not same(dict(network.state_dict()), kept[done.epoch])
    assert mean_loss(network, windows, against, rule) == min(losses)


def test_loss_that_is_nan_is_never_the_best() -> None:
    windows = windows_of(block_of())
    train = rows_of(windows, 0, 30)
    broken = TrainingRows(train.index, torch.full_like(train.label, math.inf), train.mask)
    network = network_of("mlp", windows)
    first = {name: value.clone() for name, value in network.state_dict().items()}
    done = fit_network(network, windows, broken, train, FitRule(epochs=3, patience=2), seed=1)
    assert done.best_epoch == 0
    assert same(dict(network.state_dict()), first)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_same_seed_gives_same_bits_and_another_does_not(name: str) -> None:
    windows = windows_of(block_of())
    train, valid = rows_of(windows, 0, 40), rows_of(windows, 40, N)

    def run(seed: int) -> TrainingProgress:
        torch.rand(seed)  # other draws of the process must not matter
        return fit_network(network_of(name, windows), windows, train, valid, RULE, seed=seed)

    first, second, other = run(1), run(1), run(2)
    assert same(first.best, second.best)
    assert first.history == second.history
    assert not same(first.best, other.best)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_resumed_training_equals_uninterrupted_training_to_the_bit(name: str, tmp_path: Path) -> None:
    windows = windows_of(block_of())
    train, valid = rows_of(windows, 0, 40), rows_of(windows, 40, N)
    whole = fit_network(network_of(name, windows), windows, train, valid, RULE, seed=1)

    def save_then_die(progress: TrainingProgress) -> None:
        save_checkpoint(
            tmp_path,
            stamp_of(),
            weights=progress.best,
            normaliser={},
            cursor=progress.cursor(),
            state=progress.state,
        )
        if progress.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_network(network_of(name, windows), windows, train, valid, RULE, seed=1, save=save_then_die)
    saved = load_checkpoint(tmp_path, expect=stamp_of().expectations())
    assert saved.cursor["epoch"] == 2
    resume = TrainingProgress.resume(saved.cursor, best=saved.weights, state=saved.state)
    fresh = network_of(name, windows, seed=99)
    resumed = fit_network(fresh, windows, train, valid, RULE, seed=1, resume=resume)
    assert same(resumed.best, whole.best)
    assert same(resumed.state["weights"], whole.state["weights"])
    assert resumed.history == whole.history


def test_training_leaves_the_processs_random_state_alone() -> None:
    windows = windows_of(block_of())
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fit_network(network_of("mlp", windows), windows, rows_of(windows, 0, 40), None, RULE, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_prediction_uses_no_dropout_and_keeps_no_graph() -> None:
    windows = windows_of(block_of())
    network = network_of("mlp", windows)
    fit_network(network, windows, rows_of(windows, 0, 40), None, RULE, seed=1)
    network.train()
    first, second = (predict_network(network, windows, torch.arange(N)) for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert len(predict_network(network, windows, torch.arange(0))) == 0


def test_unknown_network_is_refused_with_the_names() -> None:
    with pytest.raises(SettingsError, match=r"no network is called 'gru'.*lstm, mlp"):
        make_network("gru", window_bars=4, n_features=2, seed=0)


def test_unavailable_device_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(SettingsError, match=r"training.device is 'cuda'.*cpu"):
        prepare_device("cuda")


def test_seeds_differ_by_the_names_of_the_draw() -> None:
    seeds = {derive_seed(7, model, fold) for model in ("mlp", "lstm") for fold in range(5)}
    assert len(seeds) == 10
