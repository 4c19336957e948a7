"""A pytest plugin that does once for all worker processes what each needs: compile the tests, and numba's loops.

A worker collects the tests while it holds a lock. The first one compiles every module, and then the loops, into
caches from which the others, and every process that a test starts, load what is compiled.
"""

from __future__ import annotations

import fcntl
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[object]:
    """Collect the tests, one worker after another."""
    if not hasattr(session.config, "workerinput"):
        with _imports_kept():
            return (yield)
    with Path(__file__).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with _imports_kept():
            result = yield
        compile_loops()
    return result


@contextmanager
def _imports_kept() -> Iterator[None]:
    """Let Python's garbage collector pass over all that is made in a block: it stays to the end."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def compile_loops() -> None:
    """Compile what numba compiles, or load it; it is imported late, for those who run one file without it."""
    from features.build import build_features
    from ingest.pipeline import dedupe
    from ingest.venues.hyperliquid import scanner
    from tests.features.panels import random_panel
    from training.data import panel

    scanner.warm_up()
    dedupe.warm_up()
    panel.warm_up()
    build_features(random_panel(5, 200), "live")
