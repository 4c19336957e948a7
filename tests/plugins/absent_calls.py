"""A pytest plugin that removes what macOS lacks: `pytest --without-linux-calls tests/ingest/journal tests/training`.

The tests then run as they would there, as far as calls of the system decide: files are synced, cores counted and
caches dropped by the other ways. Tests that read `/proc` themselves skip, or fail, on their own account.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Final

import pytest

ABSENT: Final = (
    (os, "fdatasync"),
    (os, "sched_getaffinity"),
    (os, "sched_setaffinity"),
    (os, "posix_fadvise"),
    (os, "posix_fallocate"),
    (os, "splice"),
    (os, "copy_file_range"),
    (os, "memfd_create"),
    (os, "eventfd"),
    (os, "pidfd_open"),
    (os, "pipe2"),
    (os, "O_DIRECT"),
    (os, "O_NOATIME"),
    (time, "CLOCK_BOOTTIME"),
)
"""Names of the standard library that are absent on macOS."""


def remove_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the names of `ABSENT` until the patch ends."""
    for module, name in ABSENT:
        monkeypatch.delattr(module, name, raising=False)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption("--without-linux-calls", action="store_true", help="run tests without what macOS lacks")


@pytest.fixture(autouse=True)
def _absent_calls(request: pytest.FixtureRequest) -> Iterator[None]:
    """Remove the calls for a test, if the option asks for it."""
    if not request.config.getoption("--without-linux-calls"):
        yield
        return
    with pytest.MonkeyPatch.context() as patched:
        remove_calls(patched)
        yield
