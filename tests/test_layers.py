"""Do the rooms import each other only along the arrows of docs/adr/0001, and do they stay importable?

The checker reads source text with `ast`, so imports inside functions and under `TYPE_CHECKING` count as arrows too.
What runs when a module is imported is told apart: circles and heavy libraries matter only there.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

from tests.paths import ROOT

ARROWS: Final[dict[str, frozenset[str]]] = {
    "storage": frozenset(),
    "ingest": frozenset({"storage"}),
    "features": frozenset({"storage"}),
    "training": frozenset({"features", "storage"}),
    "serving": frozenset({"storage", "ingest", "features", "training"}),
    "dags": frozenset({"storage", "ingest", "features", "training", "serving"}),
}
"""What each room may import beside itself; `dags`, and `tests`, stand in no right-hand side but `dags`' own."""
PACKAGES: Final = ("storage", "ingest", "features", "training", "serving")
HEAVY: Final = frozenset({"torch", "duckdb", "polars", "pandas"})
DAG_LINES: Final = 80
_LATE: Final = ("__import__", "import_module")


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, by whom and where; `at_import` is false inside functions and under TYPE_CHECKING."""

    file: str
    line: int
    target: str
    at_import: bool

    @property
    def room(self) -> str:
        return self.target.partition(".")[0]


def module_of(file: str) -> str:
    """Return the module that a path below the root is."""
    parts = file.removesuffix(".py").split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def read_rooms() -> dict[str, str]:
    """Return the source of every module of every room, by path below the root."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for room in ARROWS
        for path in sorted((ROOT / room).rglob("*.py"))
    }


@cache
def imports_of(file: str, source: str, modules: frozenset[str]) -> list[Import]:
    """Return what a module imports, also inside functions; `from a import b` means `a.b` where that is a module."""
    package = module_of(file) if file.endswith("__init__.py") else module_of(file).rpartition(".")[0]
    found: list[Import] = []
    for node, at_import in _walk(ast.parse(source, file), at_import=True):
        for target in _targets(node, package, modules):
            assert isinstance(node, ast.stmt | ast.expr)
            found.append(Import(file, node.lineno, target, at_import))
    return found


def _walk(tree: ast.AST, *, at_import: bool) -> Iterator[tuple[ast.AST, bool]]:
    for node in ast.iter_child_nodes(tree):
        yield node, at_import
        is_inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        )
        yield from _walk(node, at_import=at_import and not is_inside)


def _targets(node: ast.AST, package: str, modules: frozenset[str]) -> list[str]:
    match node:
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.ImportFrom():
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [base])])
            full = [f"{base}.{alias.name}" for alias in node.names]
            return sorted({name if name in modules else base for name in full})
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[first, *_]) if name in _LATE:
            return [first.value] if isinstance(first, ast.Constant) and isinstance(first.value, str) else []
    return []


def all_imports(files: Mapping[str, str]) -> list[Import]:
    """Return what all files import."""
    modules = frozenset(module_of(file) for file in files)
    return [item for file, source in files.items() for item in imports_of(file, source, modules)]


def broken_arrows(files: Mapping[str, str]) -> list[str]:
    """Return each import that follows no arrow, as `file:line: rule`."""
    broken = []
    for item in all_imports(files):
        room = item.file.partition("/")[0]
        if item.room == room or item.room not in (*ARROWS, "tests"):
            continue
        if item.room not in ARROWS[room]:
            allowed = ", ".join(sorted(ARROWS[room])) or "no other room"
            broken.append(
                f"{item.file}:{item.line}: {room} imports {item.target}, but {room} may import {allowed}"
            )
    return broken


def circle(files: Mapping[str, str]) -> list[str]:
    """Return the modules of one circle that importing runs into, or nothing."""
    modules = frozenset(module_of(file) for file in files)
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for item in all_imports(files):
        here = module_of(item.file)
        if item.at_import and item.target in modules and item.target != here:
            graph[here].add(item.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def heavy_chains(files: Mapping[str, str]) -> list[str]:
    """Return, for each DAG that loads a heavy library when it is parsed, the chain of imports that does it."""
    by_module = {module_of(file): file for file in files}
    at_import: dict[str, set[str]] = {}
    for item in all_imports(files):
        if item.at_import:
            at_import.setdefault(item.file, set()).add(item.target)
    chains = []
    for dag in (file for file in files if file.startswith("dags/")):
        todo, seen = [(dag, [dag])], {dag}
        while todo:
            file, chain = todo.pop()
            for target in sorted(at_import.get(file, ())):
                if target.partition(".")[0] in HEAVY:
                    chains.append(" -> ".join([*chain, target]))
                # Importing a module runs the packages around it first.
                parts = target.split(".")
                for name in (".".join(parts[: i + 1]) for i in range(len(parts))):
                    inner = by_module.get(name)
                    if inner is not None and inner not in seen:
                        seen.add(inner)
                        todo.append((inner, [*chain, inner]))
    return chains


# The project as it is.


def test_every_import_follows_an_arrow() -> None:
    files = read_rooms()
    assert len(files) > 60, "the rooms were not found, so nothing was checked"
    assert sum(item.room in ARROWS for item in all_imports(files)) > 200
    assert broken_arrows(files) == []


def test_every_arrow_is_used() -> None:
    """An arrow that nothing follows is a rule that nobody would miss; `dags` may open any door."""
    used = {(item.file.partition("/")[0], item.room) for item in all_imports(read_rooms())}
    assert {(room, other) for room in PACKAGES for other in ARROWS[room]} <= used


def test_no_module_imports_itself_in_a_circle() -> None:
    assert circle(read_rooms()) == []


def test_parsing_a_dag_loads_nothing_heavy() -> None:
    assert heavy_chains(read_rooms()) == []


@pytest.mark.parametrize("room", PACKAGES)
def test_every_room_says_that_it_is_typed(room: str) -> None:
    assert (ROOT / room / "py.typed").exists(), f"{room}/py.typed is missing"


def test_every_folder_of_code_is_a_package() -> None:
    """Without `__init__.py` in the tests' folders, pytest's `import ingest` would find tests/ingest."""
    folders = {path.parent for room in (*PACKAGES, "tests") for path in (ROOT / room).rglob("*.py")}
    assert len(folders) > 10
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_no_name_shadows_another() -> None:
    """pandas looks for `tables`; a DAG file named like a room, or like a library, shadows it when run by hand."""
    assert not (ROOT / "tables").exists()
    dags = {path.stem for path in (ROOT / "dags").glob("*.py")}
    assert dags
    assert dags.isdisjoint({*ARROWS, *HEAVY, "tests", *sys.stdlib_module_names})


@pytest.mark.parametrize("path", sorted((ROOT / "dags").glob("*.py")), ids=lambda path: path.name)
def test_a_dag_file_is_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines < DAG_LINES, f"{path.name} has {lines} lines; move what it does into a room"


# The checker itself: made-up sources that break a rule.


@pytest.mark.parametrize(
    ("file", "source", "expected"),
    [
        (
            "storage/lake/lake.py",
            "import os\nfrom ingest.bars.builder import Quote\n",
            "storage/lake/lake.py:2: storage imports ingest.bars.builder, but storage may import no other room",
        ),
        (
            "ingest/bars/builder.py",
            "def late():\n    import features.panel.panel\n",
            "ingest/bars/builder.py:2: ingest imports features.panel.panel, but ingest may import storage",
        ),
        (
            "features/panel/panel.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from training import folds\n",
            "features/panel/panel.py:3: features imports training, but features may import storage",
        ),
        (
            "training/deep/loop.py",
            "from importlib import import_module\nimport_module('serving.cli')\n",
            "training/deep/loop.py:2: training imports serving.cli, but training may import features, storage",
        ),
        (
            "serving/cli.py",
            "from dags import retrain_nightly\n",
            "serving/cli.py:1: serving imports dags, but serving may import features, ingest, storage, training",
        ),
        (
            "training/night/steps.py",
            "from tests.training import panels\n",
            "training/night/steps.py:1: training imports tests.training, but training may import features, storage",
        ),
    ],
)
def test_a_broken_arrow_is_named_with_file_line_and_rule(file: str, source: str, expected: str) -> None:
    assert broken_arrows({file: source}) == [expected]


def test_arrows_that_hold_are_not_named() -> None:
    files = {
        "training/night/steps.py": "from features.panel.panel import Panel\n"
        "from storage import lake\nfrom . import steps\n",
        "dags/retrain.py": "from serving.report import write_report\nimport training.night\n",
    }
    assert broken_arrows(files) == []


def test_a_circle_is_found_through_relative_imports() -> None:
    files = {
        "ingest/a.py": "from .b import name\n",
        "ingest/b.py": "from ingest import a\n",
        "ingest/c.py": "def late():\n    from ingest import d\n",
        "ingest/d.py": "from ingest import c\n",
    }
    assert set(circle(files)) == {"ingest.a", "ingest.b"}
    assert circle({name: files[name] for name in ("ingest/c.py", "ingest/d.py")}) == []


def test_a_heavy_import_is_found_behind_a_light_one() -> None:
    files = {
        "dags/nightly.py": "from training.night.steps import open_night\n",
        "training/__init__.py": "",
        "training/night/steps.py": "import torch.nn\n",
        "dags/light.py": "def task():\n    import torch\n",
    }
    assert heavy_chains(files) == ["dags/nightly.py -> training/night/steps.py -> torch.nn"]
