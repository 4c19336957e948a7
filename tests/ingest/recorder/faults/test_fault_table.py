"""The fault table: it names every fault, and only tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache

from tests.paths import ROOT

PAGE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
HERE = "tests/ingest/recorder/faults"


@cache
def functions_of(file: str) -> frozenset[str]:
    """Return the names of the functions in a file."""
    module = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(module) if isinstance(node, kinds))


def named(line: str) -> list[tuple[str, str]]:
    """Return (file, test) of the tests named in a line."""
    found = re.findall(r"`([\w/]+\.py)::(\w+)`", line)
    return [(file if "/" in file else f"{HERE}/{file}", test) for file, test in found]


def test_every_fault_has_a_line_with_a_test_of_this_folder() -> None:
    lines = dict(re.findall(r"^\| F(\d+) \|(.*)$", PAGE, re.MULTILINE))
    assert [int(number) for number in lines] == list(range(1, 35))
    for number, line in lines.items():
        assert any(file.startswith(HERE) for file, _ in named(line)), f"F{number}"


def test_the_tests_that_the_page_names_exist_and_every_acceptance_has_a_line() -> None:
    everywhere = named(PAGE)
    assert len(everywhere) > 60
    assert [f"{file}::{test}" for file, test in everywhere if test not in functions_of(file)] == []
    assert re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE) == [str(n) for n in range(1, 15)]
