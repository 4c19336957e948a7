"""Homes that the tests of the public interface read."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Final

import pytest

from tests.paths import ROOT

FIXTURE: Final = ROOT / "tests" / "fixtures" / "home_0_1_0.tar.gz"


def unpack_home(folder: Path) -> Path:
    """Unpack the fixture home of release 0.1.0 below a folder; return the home."""
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "home"


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fixture home, for tests that only read."""
    return unpack_home(tmp_path_factory.mktemp("fixture"))


@pytest.fixture(autouse=True)
def _plain_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in an empty folder, without the settings of the person who runs the tests."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TICKWALK_")]:
        monkeypatch.delenv(name)
