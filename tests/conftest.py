"""What every test may ask for: a home of its own, and the recorded data where it is there.

The long form of a drill carries `@pytest.mark.drill` alone; it runs where `DRILL` is set, as `make drill` does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from storage.logs import configure_logs
from storage.settings import Settings, load_settings
from tests.paths import SHARED

pytest_plugins = [
    "tests.plugins.absent_calls",
    "tests.plugins.cheap_lakes",
    "tests.plugins.cpu_report",
    "tests.plugins.groups",
    "tests.plugins.property_tests",
    "tests.plugins.shared_work",
    "tests.plugins.short_proofs",
    "tests.plugins.tls_context",
]


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Leave out the long forms unless they are asked for."""
    if not os.environ.get("DRILL"):
        for item in items:
            if item.get_closest_marker("drill"):
                item.add_marker(pytest.mark.skip(reason="the long form: DRILL=1, as make drill sets it"))


@pytest.fixture(autouse=True)
def _logs() -> None:
    configure_logs(level="warning")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a fresh home; no file and no variable of the person who runs the tests is read."""
    return load_settings(overrides={"home": tmp_path / "home"}, environ={})


def recorded(name: str) -> Path:
    """Return a file of recorded data, or skip the test, naming it."""
    path = SHARED / "data" / name
    if not path.exists():
        pytest.skip(f"recorded data not here: {name}")
    return path


def case(name: str) -> Path:
    """Return one of the small inputs with known right values, or skip the test, naming it."""
    path = SHARED / "cases" / name
    if not path.exists():
        pytest.skip(f"case not here: {name}")
    return path
