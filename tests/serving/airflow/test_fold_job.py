"""Detached training of a fold: what its files say after it ends, dies or is stopped; and, as drills, real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from serving.airflow.fold_job import PID_FILE, STATUS, FoldJob, LostJobError, stop_all_jobs
from storage.errors import FitError, GateError
from storage.settings import Settings
from tests.dags.small_night import TRAINING, furnish
from tests.patience import HANG_S
from training.night.artifacts import NightArtifacts
from training.night.steps import build_panel, open_night, plan_folds, train_fold

NIGHT, ATTEMPT = "small-1a2b3c4d5e6f", "0123456789ab"


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline_s = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


class Attempt:
    """An attempt whose process is one of ours, and which reports what a test writes."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.job = settings, FoldJob(settings, NIGHT, 1)
        self.folder = self.job.log(ATTEMPT).parent
        self.folder.mkdir(parents=True)
        self.job.log(ATTEMPT).write_text("epoch 1\nepoch 2\n", encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
        )
        started_s = psutil.Process(self.process.pid).create_time()
        note = {"pid": self.process.pid, "started_s": started_s}
        (self.folder / PID_FILE).write_text(json.dumps(note), encoding="utf-8")

    def reports(self, **status: object) -> None:
        (self.folder / STATUS).write_text(json.dumps(status), encoding="utf-8")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def attempt(settings: Settings) -> Iterator[Attempt]:
    found = Attempt(settings)
    yield found
    found.kill()


def test_an_attempt_waits_then_runs_then_is_done(attempt: Attempt) -> None:
    assert attempt.job.status(ATTEMPT).state == "waiting"
    attempt.reports(state="running", text="epoch 3", progress={"epoch": 3})
    assert attempt.job.status(ATTEMPT).is_active
    attempt.reports(state="done", result={"mlp": 0.1})
    attempt.kill()
    assert (attempt.job.status(ATTEMPT).state, attempt.job.status(ATTEMPT).result) == ("done", {"mlp": 0.1})


@pytest.mark.parametrize("reported", [{}, {"state": "running", "text": "epoch 3", "progress": {"epoch": 3}}])
def test_a_killed_attempt_is_lost_and_may_be_tried_again(
    attempt: Attempt, reported: dict[str, object]
) -> None:
    if reported:
        attempt.reports(**reported)
    attempt.kill()
    assert attempt.job.status(ATTEMPT).state == "lost"
    error = attempt.job.failure(ATTEMPT)
    assert isinstance(error, LostJobError)
    assert "fold 1 was killed, or ran out of memory" in str(error)
    assert ("it had reached: epoch 3" in str(error)) == bool(reported)
    assert str(error).endswith("epoch 1\nepoch 2")


def test_a_pid_that_was_used_again_is_no_process_of_ours(attempt: Attempt) -> None:
    file = attempt.folder / PID_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"started_s": 1.0}), encoding="utf-8")
    assert attempt.job.status(ATTEMPT).state == "lost"
    attempt.job.stop(ATTEMPT)
    assert attempt.process.poll() is None


def test_an_attempt_of_which_nothing_is_left_is_lost(settings: Settings) -> None:
    job = FoldJob(settings, NIGHT, 0)
    assert job.status("gone").state == "lost"
    job.stop("gone")


def test_errors_keep_their_class_and_hint_so_that_the_retry_policy_applies(attempt: Attempt) -> None:
    trace = {"trace": "Traceback: ..."}
    attempt.reports(
        state="failed", error={"class": "FitError", "message": "diverged", "hint": "lower it"} | trace
    )
    attempt.kill()
    error = attempt.job.failure(ATTEMPT)
    assert (type(error), str(error)) == (FitError, "diverged (lower it)")
    attempt.reports(
        state="failed",
        error={"class": "OutOfMemoryError", "message": "CUDA out of memory", "hint": ""} | trace,
    )
    error = attempt.job.failure(ATTEMPT)
    assert type(error) is RuntimeError
    assert "OutOfMemoryError while fold 1 trained: CUDA out of memory\nTraceback" in str(error)


def test_every_living_process_of_the_home_is_stopped(attempt: Attempt) -> None:
    attempt.reports(state="running")
    assert stop_all_jobs(attempt.settings) == 1
    assert attempt.process.wait(HANG_S) == -signal.SIGTERM
    assert stop_all_jobs(attempt.settings) == 0


# Real processes.


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, str]:
    settings = Settings(home=tmp_path_factory.mktemp("fold"), training=TRAINING)
    recipe = furnish(settings)
    recipe.write_text(
        recipe.read_text(encoding="utf-8").replace("epochs = 1", "epochs = 400"), encoding="utf-8"
    )
    opened = open_night(settings, recipe=str(recipe))
    build_panel(settings, opened)
    assert plan_folds(settings, opened) == [0, 1]
    return settings, opened


def weights(settings: Settings, night: str, fold: int) -> dict[str, bytes]:
    """Return the trained files of a fold, by name."""
    folder = NightArtifacts.find(settings, night).path
    found = {path.name: path.read_bytes() for path in folder.glob(f"**/*{fold:02d}*/**/*.safetensors")}
    assert found
    return found


@pytest.mark.drill
def test_a_stopped_and_a_killed_attempt_are_continued_to_the_same_bits(
    night: tuple[Settings, str], tmp_path: Path
) -> None:
    settings, opened = night
    copy = replace(settings, home=tmp_path / "other")
    subprocess.run(["cp", "-r", str(settings.home), str(copy.home)], check=True)
    train_fold(copy, opened, 0)
    job = FoldJob(settings, opened, 0)
    for end in (signal.SIGTERM, signal.SIGKILL):
        attempt = job.start()
        until(lambda: bool(job.status(attempt).text) or not job.status(attempt).is_active)  # noqa: B023
        assert job.status(attempt).is_active, "it trains for long enough to be stopped"
        if end == signal.SIGTERM:
            job.stop(attempt)
        else:
            pid = json.loads((job.log(attempt).parent / PID_FILE).read_text())["pid"]
            os.kill(pid, signal.SIGKILL)
        until(lambda: not job.status(attempt).is_active)  # noqa: B023
        assert job.status(attempt).state == ("stopped" if end == signal.SIGTERM else "lost")
        assert isinstance(job.failure(attempt), LostJobError)
    attempt = job.start()
    until(lambda: not job.status(attempt).is_active)
    assert job.status(attempt).state == "done"
    assert weights(settings, opened, 0) == weights(copy, opened, 0)


@pytest.mark.drill
def test_two_attempts_at_once_train_a_fold_once(night: tuple[Settings, str]) -> None:
    settings, opened = night
    job = FoldJob(settings, opened, 1)
    first = job.start()
    until(lambda: job.status(first).state == "running")
    second = job.start()
    until(lambda: not job.status(first).is_active)
    until(lambda: not job.status(second).is_active)
    assert (job.status(first).state, job.status(second).state) == ("done", "done")
    assert job.status(second).result == job.status(first).result
    # The second one waits, and writes no file of the fold again.
    ended_ns = (job.log(first).parent / STATUS).stat().st_mtime_ns
    folder = NightArtifacts.find(settings, opened).path
    written_ns = [path.stat().st_mtime_ns for path in folder.glob("**/*01*/**/*.safetensors")]
    assert written_ns
    assert max(written_ns) <= ended_ns


@pytest.mark.drill
def test_a_fold_that_is_not_planned_fails_with_its_class(night: tuple[Settings, str]) -> None:
    job = FoldJob(*night, 7)
    attempt = job.start()
    until(lambda: not job.status(attempt).is_active)
    error = job.failure(attempt)
    assert isinstance(error, GateError)
    assert "has no fold 7 (its folds: [0, 1])" in str(error)
