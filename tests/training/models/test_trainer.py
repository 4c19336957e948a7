"""The training loop: losses, early stopping, seeds and resuming after a kill."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from features.feature import FeatureBlock
from storage.errors import SettingsError
from tests.training.builders import block_of, stamp_of
from training.data.panel import Normaliser, PanelWindows
from training.models.checkpoint import load_checkpoint, save_checkpoint
from training.models.device import derive_seed, prepare_device
from training.models.fit_rule import FitRule
from training.models.losses import masked_huber
from training.models.networks import NETWORKS, make_network
from training.models.trainer import (
    TrainingProgress,
    TrainingRows,
    fit_network,
    mean_loss,
    network_outputs,
    part_rates,
    predict_network,
)

N = 60
RULE = FitRule(epochs=3, batch=16, patience=5, learning_rate=1e-2)
SCHEDULED = replace(RULE, schedule="cosine", warmup_epochs=0.7, loss="time_ic", order="chronological")


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


def test_rates_rise_then_follow_the_cosine_of_torch() -> None:
    rule = FitRule(epochs=6, learning_rate=0.02, schedule="cosine", warmup_epochs=2, final_rate=0.1)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=0.02)
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=40, eta_min=0.002)
    rates = [rate for point in range(6 * rule.checks) for rate in part_rates(10, rule, point)]
    assert len(rates) == 60
    assert rates[0] == pytest.approx(0.0002)
    assert np.diff(rates[:21]) == pytest.approx(np.full(20, 0.02 * 0.99 / 20))
    for rate in rates[20:]:
        assert rate == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9)
        optimiser.step()
        torchs.step()


def test_a_refit_of_some_points_takes_the_first_steps_of_a_whole_run() -> None:
    windows = windows_of(block_of())
    train = rows_of(windows, 0, 40)
    found = {}
    fit_network(
        network_of("lstm", windows),
        windows,
        train,
        None,
        SCHEDULED,
        seed=1,
        save=lambda progress: found.update({progress.point: progress.best}),
    )
    refit = fit_network(network_of("lstm", windows), windows, train, None, SCHEDULED, seed=1, points=5)
    assert same(refit.best, found[5])


def test_rows_that_weigh_nothing_train_nothing() -> None:
    windows = windows_of(block_of())
    train = rows_of(windows, 0, 40)
    weight = (torch.arange(40) % 2).float()
    wrong = replace(train, label=torch.where(weight > 0, train.label, 50.0), weight=weight)
    right = replace(train, weight=weight)
    found = [
        fit_network(network_of("mlp", windows), windows, rows, None, RULE, seed=1).best
        for rows in (wrong, right, train)
    ]
    assert same(found[0], found[1])
    assert not same(found[1], found[2])


def test_history_says_how_the_run_went() -> None:
    windows = windows_of(block_of())
    train, valid = rows_of(windows, 0, 40), rows_of(windows, 40, N)
    done = fit_network(network_of("mlp", windows), windows, train, valid, SCHEDULED, seed=1)
    first, last = done.history[0], done.history[-1]
    assert (first.rows, first.learning_rate, math.isnan(first.valid_ic)) == (0, 0.0, True)
    assert sum(entry.rows for entry in done.history) == 40 * SCHEDULED.epochs
    assert last.learning_rate < max(entry.learning_rate for entry in done.history)
    network = network_of("mlp", windows)
    network.load_state_dict(done.best)
    predicted = predict_network(network, windows, valid.index).numpy()
    best = done.history[done.best_point].valid_ic
    assert best == pytest.approx(np.corrcoef(predicted, valid.label.numpy())[0, 1], abs=1e-5)


def test_quantiles_are_trained_and_cover_their_share() -> None:
    windows = windows_of(block_of(steps=400))
    draw = torch.Generator().manual_seed(5)
    train = replace(rows_of(windows, 0, 1_000), label=torch.randn(1_000, generator=draw))
    network = make_network("mlp", window_bars=4, n_features=windows.n_features, seed=1, outputs=3)
    rule = FitRule(epochs=8, batch=50, learning_rate=1e-2, loss="quantiles")
    fit_network(network, windows, train, None, rule, seed=1)
    low, middle, high = network_outputs(network, windows, train.index).unbind(1)
    assert 0.8 < float(((train.label > low) & (train.label < high)).float().mean()) < 0.97
    assert 0.4 < float((train.label > middle).float().mean()) < 0.6


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
    fit_network(
        network, windows, train, None, FitRule(epochs=30, batch=16, checks=1, learning_rate=1e-2), seed=1
    )
    assert mean_loss(network, windows, train, RULE) < before / 2


def test_early_stopping_returns_the_best_weights_not_the_last() -> None:
    windows = windows_of(block_of())
    train, valid = rows_of(windows, 0, 30), rows_of(windows, 30, N)
    # Valid labels opposed to the train labels: after some epochs every step increases their loss.
    against = TrainingRows(valid.index, -valid.label + 1.0, valid.mask)
    kept: dict[int, dict[str, torch.Tensor]] = {}
    network = network_of("mlp", windows)

    def save(progress: TrainingProgress) -> None:
        kept[progress.point] = dict(progress.state["weights"])

    rule = FitRule(epochs=30, batch=8, checks=2, patience=3, learning_rate=1e-2)
    done = fit_network(network, windows, train, against, rule, seed=1, save=save)
    losses = [entry.valid_loss for entry in done.history]
    assert done.best_point == losses.index(min(losses))
    assert done.point == done.best_point + 2 * rule.patience < 2 * rule.epochs
    assert same(dict(network.state_dict()), kept[done.best_point])
    assert not same(dict(network.state_dict()), kept[done.point])
    assert mean_loss(network, windows, against, rule) == min(losses)


def test_the_first_point_comes_before_the_first_step_and_wins_where_nothing_can_be_learned() -> None:
    windows = windows_of(block_of())
    train, valid = rows_of(windows, 0, 30), rows_of(windows, 30, N)
    opposed = replace(valid, label=-valid.label)
    network = network_of("mlp", windows)
    first = {name: value.clone() for name, value in network.state_dict().items()}
    done = fit_network(network, windows, train, opposed, replace(RULE, checks=2, patience=1), seed=1)
    assert (done.best_point, done.point) == (0, 2)
    assert [entry.epoch for entry in done.history] == [0.0, 0.5, 1.0]
    assert math.isnan(done.history[0].train_loss)
    assert same(dict(network.state_dict()), first)


def test_more_checks_follow_the_same_path_and_find_a_better_point_on_it() -> None:
    """Checked once per epoch, a night's LSTM did best at epoch 1 in 5 of 5 folds: its best point came earlier."""
    windows = windows_of(block_of(steps=200))
    draw = torch.Generator().manual_seed(5)
    train, valid = (rows_of(windows, 300 * part, 300 * (part + 1)) for part in (0, 1))
    train, valid = (
        replace(part, label=0.3 * part.label + torch.randn(300, generator=draw)) for part in (train, valid)
    )
    rule = FitRule(epochs=2, batch=8, learning_rate=3e-2)
    coarse, fine = (
        fit_network(network_of("mlp", windows), windows, train, valid, replace(rule, checks=checks), seed=1)
        for checks in (1, 8)
    )
    assert [entry.valid_loss for entry in fine.history[::8]] == [entry.valid_loss for entry in coarse.history]
    assert 0 < fine.history[-1].best_epoch < 1
    assert min(entry.valid_loss for entry in fine.history) < min(entry.valid_loss for entry in coarse.history)


def test_each_epoch_trains_one_phase_of_the_stride() -> None:
    empty = torch.zeros(6)
    rows = TrainingRows(empty, empty, empty, torch.tensor([0, 1, 2, 2, 0, 1]), 3)
    assert [rows.of_epoch(epoch).tolist() for epoch in range(4)] == [[0, 4], [1, 5], [2, 3], [0, 4]]


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


def save_point(folder: Path, progress: TrainingProgress) -> None:
    """Write the checkpoint of a validation point."""
    save_checkpoint(
        folder,
        stamp_of(),
        weights=progress.best,
        normaliser={},
        cursor=progress.cursor(),
        state=progress.state,
    )


@pytest.mark.parametrize("point", [0, 6])
@pytest.mark.parametrize("rule", [RULE, SCHEDULED], ids=["constant", "scheduled"])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_resumed_training_equals_uninterrupted_training_to_the_bit(
    name: str, rule: FitRule, point: int, tmp_path: Path
) -> None:
    windows = windows_of(block_of())
    train, valid = rows_of(windows, 0, 40), rows_of(windows, 40, N)
    whole = fit_network(network_of(name, windows), windows, train, valid, rule, seed=1)

    def save_then_die(progress: TrainingProgress) -> None:
        save_point(tmp_path, progress)
        if progress.point == point:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_network(network_of(name, windows), windows, train, valid, rule, seed=1, save=save_then_die)
    saved = load_checkpoint(tmp_path, expect=stamp_of().expectations())
    assert saved.cursor["point"] == point
    resume = TrainingProgress.resume(saved.cursor, best=saved.weights, state=saved.state)
    fresh = network_of(name, windows, seed=99)
    resumed = fit_network(fresh, windows, train, valid, rule, seed=1, resume=resume)
    assert same(resumed.best, whole.best)
    assert same(resumed.state["weights"], whole.state["weights"])
    assert resumed.history == whole.history


def test_run_killed_between_two_points_of_an_epoch_resumes_to_the_same_bits(tmp_path: Path) -> None:
    windows = windows_of(block_of())
    train, valid = rows_of(windows, 0, 40), rows_of(windows, 40, N)
    whole = fit_network(network_of("mlp", windows), windows, train, valid, RULE, seed=1)

    def save(progress: TrainingProgress) -> None:
        save_point(tmp_path, progress)

    def die(network: torch.nn.Module, inputs: object) -> None:
        if (tmp_path / "manifest.json").exists() and b'"point": 6' in (
            tmp_path / "manifest.json"
        ).read_bytes():
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        doomed = network_of("mlp", windows)
        doomed.body.register_forward_pre_hook(die)
        fit_network(doomed, windows, train, valid, RULE, seed=1, save=save)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    saved = load_checkpoint(tmp_path, expect=stamp_of().expectations())
    assert saved.cursor["history"][-1]["epoch"] == 1.5
    resume = TrainingProgress.resume(saved.cursor, best=saved.weights, state=saved.state)
    resumed = fit_network(
        network_of("mlp", windows, seed=9), windows, train, valid, RULE, seed=1, resume=resume
    )
    assert same(resumed.best, whole.best)
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
    with pytest.raises(
        SettingsError, match=r"training.device is 'cuda'.*torch .*CUDA.*(driver|nvidia-smi).*cpu"
    ):
        prepare_device("cuda")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            "echo 'NVIDIA-SMI has failed: no driver' >&2; exit 9",
            r"driver says 'NVIDIA-SMI has failed: no driver'.*9",
        ),
        ("echo 'H100, 580.65'", r"driver says 'H100, 580.65'.*code 0"),
        ("exec sleep 30", "driver did not answer nvidia-smi within 0.1 s"),
    ],
)
def test_missing_gpu_is_reported_with_the_answer_of_the_driver(
    answer: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{answer}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("training.models.device._DRIVER_TIMEOUT_S", 0.1 if "sleep" in answer else 20)
    with pytest.raises(SettingsError, match=said):
        prepare_device("cuda")


def test_auto_says_what_it_chose() -> None:
    asked = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("training.models.device._log_device", lambda *facts: asked.append(facts))
        device = prepare_device("auto", threads=1)
    assert asked == [(device.type, 1, "auto")]


def test_seeds_differ_by_the_names_of_the_draw() -> None:
    seeds = {derive_seed(7, model, fold) for model in ("mlp", "lstm") for fold in range(5)}
    assert len(seeds) == 10


def test_chronological_order_gives_the_same_bits_and_other_weights_than_a_shuffle() -> None:
    windows = windows_of(block_of())
    train = rows_of(windows, 0, N)

    def trained(rule: FitRule, seed: int = 1) -> dict[str, torch.Tensor]:
        network = network_of("lstm", windows)  # without dropout, so the seed decides the order alone
        return fit_network(network, windows, train, None, rule, seed=seed).best

    by_time = replace(RULE, order="chronological")
    assert same(trained(by_time), trained(by_time))
    assert same(trained(by_time, seed=1), trained(by_time, seed=2))
    assert not same(trained(by_time), trained(RULE))
    assert not same(trained(RULE, seed=1), trained(RULE, seed=2))
