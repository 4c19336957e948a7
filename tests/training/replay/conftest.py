"""Fixture of the replay's tests: one small replay, which takes seconds."""

from __future__ import annotations

import pytest

from tests.training.replay.small_replay import home_with, prices, replay_in
from training.replay.policy import FinishedReplay


@pytest.fixture(scope="session")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> FinishedReplay:
    """A finished replay in a home of its own."""
    return replay_in(home_with(tmp_path_factory.mktemp("replayed"), prices()))
