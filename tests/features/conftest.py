"""Fixtures of the features tests: torch limited to one thread, as synchronization costs more, and the recorded day."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from tests.features.recorded_day import Day


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    """Record four and a half hours: the longest lookback, then an outage, silence and late prints."""
    from tests.features.recorded_day import (
        make_day,  # loads the recorder, which most of these tests do without
    )

    return make_day(tmp_path_factory.mktemp("day"), 4.5)
