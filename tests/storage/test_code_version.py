"""Which code is running: the commit in a checkout, the sources' hash elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from storage.code_version import ROOMS, ROOT, code_version, lock_hash


def test_a_checkout_names_its_commit() -> None:
    assert re.fullmatch(r"[0-9.]+\+g[0-9a-f]{12}(\.dirty)?", code_version())
    assert re.fullmatch(r"[0-9a-f]{16}", lock_hash())


def test_outside_a_checkout_changed_sources_are_another_version(tmp_path: Path) -> None:
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    said = [version_in(tmp_path), version_in(tmp_path)]
    with (tmp_path / "ingest" / "bars.py").open("a") as handle:
        handle.write("# changed\n")
    said.append(version_in(tmp_path))
    assert said[0] == said[1] != said[2]
    assert all(re.fullmatch(r"[0-9.]+\+s[0-9a-f]{12}", text) for text in said)


def version_in(folder: Path) -> str:
    program = "from storage.code_version import code_version; print(code_version())"
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()
