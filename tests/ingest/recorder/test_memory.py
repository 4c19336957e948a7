"""Memory that a long-running process returns to the system."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

SCRIPT = """
from ingest.pipeline import dedupe
from ingest.recorder.memory import keep_small, release_starters
from ingest.venues.hyperliquid.scanner import warm_up
from ingest.recorder.status import resident_bytes
keep_small()
warm_up()
dedupe.warm_up()
before = resident_bytes()
released = release_starters()
after = resident_bytes()
# What was compiled still runs, and something new can still be compiled.
assert dedupe.TradeDeduplicator().judge("A", 1, 1, (1.0, 1.0, 1), 1) == dedupe.NEW
import numba
assert numba.njit(lambda x: x + 1)(2) == 3
print(released, before - after)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no /proc/self/smaps here")
def test_the_compiler_leaves_memory_and_comes_back_when_it_is_needed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    released, smaller = map(int, done.stdout.split())
    assert released > 10_000_000
    assert smaller > 10_000_000
