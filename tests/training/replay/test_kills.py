"""Kill -9 at random moments of a replay: what is continued equals the undisturbed replay to the bit.

The short forms are in test_policy.py, where a night is interrupted as it is judged, and after its commit.
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.training.replay.small_replay import home_with, prices, replay_in
from tests.training.replay.test_policy import files_of
from training.replay.policy import FinishedReplay

RUN = """
import sys
from pathlib import Path
from tests.training.builders import settings_in
from tests.training.replay.small_replay import replay_in
replay_in(settings_in(Path(sys.argv[1])))
"""
KILLS = 10


@pytest.mark.drill
def test_a_replay_that_is_killed_ten_times_equals_an_undisturbed_one(
    replayed: FinishedReplay, tmp_path: Path
) -> None:
    settings = home_with(tmp_path, prices())
    draw = random.Random(5)
    kills = 0
    for _ in range(KILLS):
        process = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path)], cwd=ROOT)
        try:
            process.wait(draw.uniform(3.0, 9.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    assert kills > 0
    found = replay_in(settings)
    assert (found.replay, found.nights, found.result) == (
        replayed.replay,
        replayed.nights,
        replayed.result,
    )
    for night in found.nights:
        assert files_of(found.folder.night(night.night).path) == files_of(
            replayed.folder.night(night.night).path
        )
    assert files_of(found.folder.path / "nights") == files_of(replayed.folder.path / "nights")
