"""Lakes shared by the tests of backfills, since opening one takes some tenths of a second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from storage.lake.lake import Lake
from storage.settings import Settings


@pytest.fixture
def lake(settings: Settings) -> Iterator[Lake]:
    """The lake of the test's home."""
    with Lake.open(settings) as opened:
        yield opened


@pytest.fixture(scope="module")
def spare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Lake]]:
    """A home with its lake for tests that leave nothing behind, or nothing that others look at."""
    settings = Settings(home=tmp_path_factory.mktemp("spare"))
    with Lake.open(settings) as opened:
        yield settings, opened
