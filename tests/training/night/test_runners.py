"""Runners of a night's jobs: equal bits wherever they are done, whatever dies, and errors as they were raised."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import pytest

from storage.errors import FitError, SettingsError
from tests.drills.forked_worker import ForkedWorker
from tests.paths import ROOT
from tests.training.builders import fill_lake, settings_in, walk
from tests.training.night.test_fit_store import RECIPE, STEPS
from training.models.estimators import OnEpoch
from training.models.trainer import EpochLog
from training.night import fit_job, preparation, runners
from training.night.artifacts import NightArtifacts, fits_file
from training.night.fit_job import FitJob, FitProcess, list_jobs
from training.night.fold_training import FoldFits, train_models
from training.night.job_deaths import ATTEMPTS
from training.night.pool_runner import PoolRunner
from training.night.ray_runner import RayRunner
from training.night.runners import (
    FitRunner,
    SequentialRunner,
    count_workers,
    make_runner,
)
from training.night.steps import build_panel, open_night, plan_folds, train_folds
from training.night.worker_process import WorkerProcess

EXAMPLE: Final = ROOT / "docs" / "examples" / "ddp_fold.py"
MEMBERS: Final = {(fold, model) for fold in (0, 1) for model in ("ridge", "mlp")}


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the home and the name of a night of two folds and two models, with all done before its training."""
    settings = settings_in(Path(tmp_path_factory.mktemp("planned")) / "home")
    fill_lake(settings, walk(instruments=2, steps=STEPS, seed=3, signal=0.8, volatility=5e-3))
    recipe = settings.home / "shared.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    name = open_night(settings, recipe=str(recipe))
    with pytest.MonkeyPatch.context() as patched:  # proofs take most of the time, and have tests of their own
        patched.setattr(
            preparation, "prove_features", lambda night, *_, **__: night.write("proof.json", {"passed": True})
        )
        build_panel(settings, name)
    plan_folds(settings, name)
    return settings.home, name


@pytest.fixture
def night(planned: tuple[Path, str], tmp_path: Path) -> NightArtifacts:
    """Return the planned night in a home of its own."""
    home, name = planned
    shutil.copytree(home / "models", tmp_path / "models")
    return NightArtifacts.find(settings_in(tmp_path), name)


@pytest.fixture(scope="module")
def expected(planned: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files of the night, trained one after another."""
    home, name = planned
    models = shutil.copytree(home / "models", tmp_path_factory.mktemp("sequential") / "models")
    folder = NightArtifacts(models / "nights" / name)
    SequentialRunner().run(list_jobs(folder))
    return files_of(folder)


def files_of(folder: NightArtifacts) -> dict[str, bytes]:
    """Return the files of a night and of all fits, except timings and locks."""
    root = folder.path.parent.parent
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "timings" not in path.parts and path.name != ".lock"
    }


def assert_equal(folder: NightArtifacts, expected: dict[str, bytes]) -> None:
    found = files_of(folder)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
    assert sum(name.endswith("/fit.json") for name in found) == 2 * len(MEMBERS)
    # A fit whose process died between its last file and its entry counts as reused.
    for fold in (0, 1):
        entries = folder.read(fits_file(fold))
        assert set(entries) == {model for at, model in MEMBERS if at == fold}


def pool(count: int, *, launched: list[WorkerProcess] | None = None) -> PoolRunner:
    """Return a pool of forked processes, which are added to a list as they start."""

    def start(number: int, *, gpu: str | None = None) -> WorkerProcess:
        worker = ForkedWorker(number, gpu=gpu)
        if launched is not None:
            launched.append(worker)
        return worker

    return PoolRunner(count, start=start)


def die_at(epoch: float, *, fold: int, marker: Path | None = None) -> Callable[..., Any]:
    """Return `train_models`, but a process is killed at a validation point; with a marker, once only."""

    def train(own: FoldFits, *, on_epoch: OnEpoch, **options: Any) -> Any:
        def note(model: str, at: int, log: EpochLog) -> None:
            on_epoch(model, at, log)
            if at == fold and log.epoch >= epoch and not (marker and marker.exists()):
                if marker is not None:
                    marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        return train_models(own, on_epoch=note, **options)

    return train


def test_pool_leaves_the_bits_of_one_process_although_a_worker_is_killed_in_a_fit(
    night: NightArtifacts, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_job, "train_models", die_at(0.5, fold=1, marker=tmp_path / "killed"))
    launched: list[WorkerProcess] = []
    epochs: list[tuple[int, float]] = []
    done: list[FitJob] = []
    pool(2, launched=launched).run(
        list_jobs(night),
        on_epoch=lambda model, fold, log: epochs.append((fold, log.epoch)),
        on_done=lambda job, _: done.append(job),
    )
    assert len(launched) == 3
    assert {(job.folds[0], job.model) for job in done} == MEMBERS
    assert len(done) == len(MEMBERS)
    # The second process continues at the checkpoint of the first.
    assert [epoch for fold, epoch in epochs if fold == 1] == [epoch for fold, epoch in epochs if fold == 0]
    assert_equal(night, expected)
    assert list_jobs(night) == []


def test_jobs_done_again_change_nothing_and_a_deleted_link_is_found_by_its_content(
    night: NightArtifacts, expected: dict[str, bytes]
) -> None:
    jobs = list_jobs(night)
    assert [FitJob.from_plain(json.loads(json.dumps(job.to_plain()))) for job in jobs] == jobs
    process = FitProcess()
    assert {process.run(job) for job in jobs} == {night.path}
    trained = [night.read(fits_file(fold)) for fold in (0, 1)]
    assert all(not entry["is_reused"] and entry["seconds"] > 0 for fold in trained for entry in fold.values())
    shutil.rmtree(night.path / "fold-01" / "mlp")
    [left] = list_jobs(night)
    assert (left.model, left.folds) == ("mlp", (1,))
    for job in jobs:
        process.run(job)
    assert night.read(fits_file(1))["mlp"]["is_reused"]
    assert_equal(night, expected)


def test_a_process_that_dies_again_and_again_is_an_error_that_names_fold_model_and_exit_code(
    night: NightArtifacts, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[WorkerProcess] = []
    with monkeypatch.context() as patched:
        patched.setattr(fit_job, "train_models", die_at(0.0, fold=1))
        with pytest.raises(
            FitError, match=r"trains mlp on fold 1 died 3 times, .* exit code -9, SIGKILL"
        ) as caught:
            pool(2, launched=launched).run(list_jobs(night))
    assert len(launched) == 1 + ATTEMPTS
    assert caught.value.facts == {"model": "mlp", "fold": 1, "exit_code": -signal.SIGKILL}
    assert "fewer processes" in caught.value.hint
    SequentialRunner().run(list_jobs(night))
    assert_equal(night, expected)


@pytest.mark.parametrize("runner", [SequentialRunner(), pool(2)], ids=["sequential", "pool"])
def test_error_of_a_job_is_raised_with_its_facts_and_the_rest_can_be_resumed(
    night: NightArtifacts, expected: dict[str, bytes], runner: FitRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **facts: Any) -> None:
        raise FitError("it diverged", hint="lower the rate", model="mlp", fold=1, epoch=2.0)

    with monkeypatch.context() as patched:
        patched.setattr("training.night.fold_training.check_predictions", fail)
        with pytest.raises(FitError, match="it diverged") as caught:
            runner.run(list_jobs(night))
    assert caught.value.facts == {"model": "mlp", "fold": 1, "epoch": 2.0}
    assert caught.value.hint == "lower the rate"
    SequentialRunner().run(list_jobs(night))
    assert_equal(night, expected)


def test_an_interrupted_pool_ends_its_processes_and_is_resumed(
    night: NightArtifacts, expected: dict[str, bytes]
) -> None:
    launched: list[WorkerProcess] = []

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool(2, launched=launched).run(list_jobs(night), on_epoch=interrupt)
    for worker in launched:
        with pytest.raises(ProcessLookupError):
            os.kill(worker.pid, 0)
    SequentialRunner().run(list_jobs(night))
    assert_equal(night, expected)


def test_training_of_all_folds_by_real_processes_writes_its_share_of_the_time(
    planned: tuple[Path, str], expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(Path(shutil.copytree(planned[0], tmp_path / "home")))
    folder = NightArtifacts.find(settings, planned[1])
    SequentialRunner().run([job for job in list_jobs(folder) if job.folds != (1,) or job.model != "mlp"])
    monkeypatch.setattr(runners, "usable_cores", lambda: 2)
    seen: list[tuple[str, int]] = []
    train_folds(settings, planned[1], on_epoch=lambda model, fold, log: seen.append((model, fold)))
    assert set(seen) == {("mlp", 1)}
    timing = folder.read("timings/train_fold-01.json")
    assert timing["seconds"] > 0
    assert timing["busy_s"] > 0
    assert not folder.has("timings/train_fold-00.json"), "it was trained before"
    assert_equal(folder, expected)


def test_workers_fit_the_cores_and_a_pool_of_one_is_no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "usable_cores", lambda: 8)
    assert count_workers("pool", 0, threads=1, device="cpu") == 8
    assert count_workers("pool", 0, threads=3, device="cpu") == 2
    assert count_workers("pool", 0, threads=0, device="cpu") == 1
    assert count_workers("pool", 0, threads=1, device="mps") == 1
    assert count_workers("sequential", 4, threads=1, device="cpu") == 1
    assert isinstance(make_runner("pool", 0, threads=8, device="cpu"), SequentialRunner)
    with pytest.raises(SettingsError, match="workers is 3, with 4 threads each, and this process may use 8"):
        count_workers("pool", 3, threads=4, device="cpu")
    with pytest.raises(SettingsError, match=r"training.runner is 'dask'"):
        make_runner("dask", 0, threads=1, device="cpu")


def test_stacked_folds_are_divided_among_the_processes(night: NightArtifacts) -> None:
    facts = json.loads((night.path / "night.json").read_bytes())
    (night.path / "night.json").write_text(json.dumps(facts | {"stacking": {"mlp": 16}}), encoding="utf-8")

    def of_mlp(workers: int) -> list[tuple[int, ...]]:
        return [job.folds for job in list_jobs(night, workers=workers) if job.model == "mlp"]

    assert of_mlp(1) == [(0, 1)]
    assert of_mlp(2) == [(0,), (1,)]


@pytest.mark.drill
@pytest.mark.timeout(3_600)
def test_thirty_killed_workers(
    planned: tuple[Path, str], expected: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kill real processes of the pool at random moments; a night with kills equals one without."""
    draw, kills, rounds = random.Random(2026), 0, 0
    while kills < 30:
        home = tmp_path / str(rounds)
        shutil.copytree(planned[0] / "models", home / "models")
        folder = NightArtifacts(home / "models" / "nights" / planned[1])
        launched: list[WorkerProcess] = []

        def start(
            number: int, *, gpu: str | None = None, into: list[WorkerProcess] = launched
        ) -> WorkerProcess:
            into.append(WorkerProcess(number, gpu=gpu))
            return into[-1]

        def kill(model: str, fold: int, log: EpochLog, among: list[WorkerProcess] = launched) -> None:
            nonlocal kills
            busy = [worker for worker in among if worker.job is not None]
            if len(among) < 4 and busy and draw.random() < 0.3:
                os.kill(draw.choice(busy).pid, signal.SIGKILL)
                kills += 1

        PoolRunner(2, start=start).run(list_jobs(folder), on_epoch=kill)
        assert_equal(folder, expected)
        shutil.rmtree(home)
        rounds += 1
    with capsys.disabled():
        print(f"\nkill -9 of training processes: {kills} in {rounds} nights")


def is_task(process: psutil.Process) -> bool:
    """Return whether a process does a job of a night for Ray."""
    try:
        return any("ray::_train" in part for part in process.cmdline())
    except psutil.Error:
        return False  # it has ended


@pytest.mark.drill
@pytest.mark.timeout(1_200)
def test_ray_leaves_the_bits_of_one_process_although_workers_are_killed(
    planned: tuple[Path, str], expected: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run jobs on a real cluster of this machine, and kill the processes of tasks at random moments."""
    pytest.importorskip("ray", reason="Ray is not installed (extra ray)")
    draw, kills, rounds = random.Random(2026), 0, 0
    while kills < 5:
        shutil.copytree(planned[0] / "models", tmp_path / str(rounds) / "models")
        folder = NightArtifacts(tmp_path / str(rounds) / "models" / "nights" / planned[1])
        seen: list[tuple[str, int]] = []
        of_round = 0

        def kill(model: str, fold: int, log: EpochLog, seen: list[tuple[str, int]] = seen) -> None:
            nonlocal kills, of_round
            seen.append((model, fold))
            tasks = [child for child in psutil.Process().children(recursive=True) if is_task(child)]
            if of_round < ATTEMPTS - 1 and tasks and draw.random() < 0.5:
                draw.choice(tasks).kill()
                kills, of_round = kills + 1, of_round + 1

        RayRunner(2, threads=1, gpus=0).run(list_jobs(folder), on_epoch=kill)
        assert set(seen) == {("mlp", 0), ("mlp", 1)}
        assert_equal(folder, expected)
        rounds += 1
    with capsys.disabled():
        print(f"\nkill -9 of processes of Ray: {kills} in {rounds} nights")


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_absent_ray_names_the_extra() -> None:
    with pytest.raises(
        SettingsError, match=r"Ray is not installed \(install it: pip install 'tickwalk\[ray\]'\)"
    ):
        make_runner("ray", 0, threads=1, device="cpu")


def losses(output: str) -> list[list[float]]:
    """Return train and validation loss of each epoch, from the lines of the example."""
    return [
        [float(found) for found in re.findall(r"loss ([0-9.]+)", line)]
        for line in output.splitlines()
        if "epoch" in line
    ]


@pytest.mark.drill
def test_the_example_of_one_fold_on_several_gpus_trains_a_fold(
    planned: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [str(EXAMPLE), str(planned[0]), planned[1], "--fold", "1"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    found = losses(capsys.readouterr().out)
    assert [len(epoch) for epoch in found] == [2, 2]
    assert found[1][0] < found[0][0]


@pytest.mark.drill
def test_the_example_of_one_fold_on_several_gpus_has_the_losses_of_one_process(
    planned: tuple[Path, str],
) -> None:
    command = [str(EXAMPLE), str(planned[0]), planned[1], "--fold", "1"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    one, two = (
        losses(
            subprocess.run(
                [sys.executable, *start, *command], cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout
        )
        for start in ([], torchrun)
    )
    assert len(two) == 2
    # Sums over a batch are added in another order.
    assert np.allclose(one, two, rtol=1e-4)
