"""Fixtures shared by the tests of `serving`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from storage.settings import Settings


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, str]:
    """The settings and the id of a small judged night; its lake may grow, its folder stays."""
    from tests.serving.nights import make_night  # loads torch, which most of the room's tests do without

    return make_night(tmp_path_factory.mktemp("home"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in, with no settings of the person who runs the tests."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TICKWALK_")]:
        monkeypatch.delenv(name)
    return tmp_path
