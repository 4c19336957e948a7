"""A pytest plugin that does once for all worker processes what each needs: compile the tests, and numba's loops.

A worker collects the tests while it holds a lock. The first one compiles every module, and then the loops, into
caches from which the others, and every process that a test starts, load what is compiled.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[object]:
    """Collect the tests, one worker after another."""
    if not hasattr(session.config, "workerinput"):
        return (yield)
    with Path(__file__).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = yield
        compile_loops()
    return result


def compile_loops() -> None:
    """Compile what numba compiles, or load it; it is imported late, for those who run one file without it."""
    from features.build import build_features
    from ingest.pipeline import dedupe
    from ingest.venues.hyperliquid import scanner
    from tests.features.panels import random_panel

    scanner.warm_up()
    dedupe.warm_up()
    build_features(random_panel(5, 200), "live")
