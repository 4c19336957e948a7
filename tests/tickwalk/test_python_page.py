"""docs/python.md: its examples run in order on a home, and it names every public method."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, Final

import tickwalk
from tests.paths import ROOT

PAGE: Final = ROOT / "docs" / "python.md"


def examples() -> list[str]:
    """Return the Python blocks of the page, in order."""
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_examples_run(shared_home: Path, tmp_path: Path) -> None:
    (tmp_path / "var").symlink_to(shared_home)  # the tests stand in tmp_path
    names: dict[str, Any] = {}
    for example in examples():
        exec(compile(example, str(PAGE), "exec"), names)
    assert len(examples()) > 12
    assert len(names["bars"]) == 288
    assert names["values"].shape == (2, names["block"].values.shape[1])
    assert names["champion"].version == names["nights"].pl()["version"][-1]


def test_every_public_method_is_described() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for kind in (tickwalk.HomeReader, tickwalk.QueryResult):
        methods = [
            name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")
        ]
        assert len(methods) > 3
        assert [name for name in methods if f".{name}(" not in page] == []
