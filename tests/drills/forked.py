"""A server of forked processes that has imported what recorders, backfills and writers of a lake need.

Importing it takes two seconds of processor time. There is one server for all: a second list of imports would have no
effect once it runs. The forked processes are processes of their own in all else: they
share no interpreter, lock or file, and can be killed.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext

from tests.plugins import cheap_lakes


def context() -> ForkServerContext:
    """Return the context that starts forked processes."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["tests.drills.preloaded"])
    return made


def use_one_duckdb_thread() -> None:
    """Let DuckDB work in one thread in this process: its idle threads spin."""
    cheap_lakes.pytest_configure()
    cheap_lakes.use_cheap_lakes()
