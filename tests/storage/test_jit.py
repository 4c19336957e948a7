"""Just-in-time compilation with and without a writable cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = """
from storage.jit import compiled

@compiled(nogil=True)
def total(count):
    found = 0
    for number in range(count):
        found += number
    return found

print(total(5), total.stats.cache_path)
"""


@pytest.mark.parametrize("is_writable", [True, False])
def test_compiled_function_runs_with_and_without_a_writable_cache(tmp_path: Path, is_writable: bool) -> None:
    place = tmp_path / "installed"
    place.mkdir()
    (place / "loop.py").write_text(SOURCE)
    if not is_writable:
        (place / "__pycache__").touch()  # also for root, who may write into any folder
    environ = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    environ |= {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null/none", "PYTHONPATH": str(Path.cwd())}
    told = subprocess.run(
        [sys.executable, str(place / "loop.py")], check=True, capture_output=True, text=True, env=environ
    )
    kept = str(place / "__pycache__") if is_writable else "None"
    assert told.stdout.split() == ["10", kept]
