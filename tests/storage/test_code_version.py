"""Code version: the commit in a checkout, a hash of the sources elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from storage.code_version import PACKAGES, ROOT, code_version, lock_hash, sources_hash


def test_a_checkout_names_its_commit() -> None:
    assert re.fullmatch(r"[0-9.]+\+g[0-9a-f]{12}(\.dirty)?", code_version())
    assert re.fullmatch(r"[0-9a-f]{16}", lock_hash())


def test_outside_a_checkout_changed_sources_are_another_version(tmp_path: Path) -> None:
    for room in PACKAGES:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    said = [version_in(tmp_path), version_in(tmp_path)]
    with (tmp_path / "ingest" / "bars" / "builder.py").open("a") as handle:
        handle.write("# changed\n")
    said.append(version_in(tmp_path))
    assert said[0] == said[1] != said[2]
    assert all(re.fullmatch(r"[0-9.]+\+s[0-9a-f]{12}", text) for text in said)


def version_in(folder: Path) -> str:
    program = "from storage.code_version import code_version; print(code_version())"
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_changed_line_in_any_sub_folder_changes_the_sources_hash(package: str, tmp_path: Path) -> None:
    source = tmp_path / "before" / package
    shutil.copytree(ROOT / package, source, ignore=shutil.ignore_patterns("__pycache__"))
    before = sources_hash(package, root=source.parent)
    folders = {path.parent.relative_to(source) for path in source.rglob("*.py")}
    hashes = {before}
    for folder in folders:
        changed = tmp_path / folder.as_posix().replace("/", ".") / package
        shutil.copytree(source, changed)
        module = min((changed / folder).glob("*.py"))
        module.write_text(module.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
        hashes.add(sources_hash(package, root=changed.parent))
    assert len(hashes) == len(folders) + 1


def test_a_moved_file_changes_the_sources_hash(tmp_path: Path) -> None:
    for root, folder in (("one", "data"), ("two", "models")):
        (tmp_path / root / "training" / folder).mkdir(parents=True)
        (tmp_path / root / "training" / folder / "panel.py").write_text("x = 1\n", encoding="utf-8")
    hashes = {sources_hash("training", root=tmp_path / root) for root in ("one", "two")}
    assert len(hashes) == 2
