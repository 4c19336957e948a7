"""Allowed imports between packages and sub-packages, and the checker that reads them from source text.

The checker parses files with `ast`, so imports inside functions and under `TYPE_CHECKING` count too. Only the search
for heavy libraries looks at imports that run when a module is imported.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from typing import Final

from tests.paths import ROOT

ARROWS: Final[dict[str, frozenset[str]]] = {
    "storage": frozenset(),
    "ingest": frozenset({"storage"}),
    "features": frozenset({"storage"}),
    "training": frozenset({"features", "storage"}),
    "serving": frozenset({"storage", "ingest", "features", "training"}),
    "tickwalk": frozenset({"storage", "ingest", "features", "training", "serving"}),
    "dags": frozenset({"storage", "ingest", "features", "training", "serving"}),
}
"""What each package may import beside itself. Nothing imports `tickwalk`, `dags` or `tests`."""

UNIT_ARROWS: Final[dict[str, dict[str, str]]] = {
    "storage": {
        "atomic_write": "system_calls",
        "clock": "errors",
        "contracts": "errors",
        "lake": "atomic_write clock code_version contracts errors file_lock logs object_store settings "
        "system_calls",
        "logs": "errors",
        "project": "atomic_write errors",
        "settings": "clock errors",
    },
    "ingest": {
        "backfill": "bars concurrency feed instruments journal pipeline venues",
        "bars": "coverage instruments",
        "coverage": "venues",
        "feed": "concurrency instruments sharding venues",
        "instruments": "venues",
        "journal": "concurrency",
        "pipeline": "bars coverage instruments journal sharding venues",
        "probe": "feed instruments venues",
        "recorder": "bars concurrency coverage feed instruments journal pipeline replay sharding venues",
        "replay": "backfill journal pipeline",
        "simulator": "venues",
    },
    "features": {
        "build": "engine feature inputs panel sets versioning",
        "docs": "feature sets",
        "engine": "feature inputs ops panel versioning",
        "feature": "inputs",
        "follow": "feature live panel sets store",
        "frame_features": "build feature panel sets versioning",
        "inputs": "ops panel",
        "leakage": "build feature inputs live ops panel sets versioning",
        "library": "feature inputs ops",
        "live": "engine feature inputs panel sets",
        "monitoring": "feature panel sets",
        "multi_width": "feature panel",
        "sets": "feature inputs library panel versioning",
        "store": "build feature multi_width panel sets versioning",
        "versioning": "feature inputs",
    },
    "training": {
        "models": "data",
        "night": "data evaluation models recipe",
        "recipe": "data evaluation models",
        "recipe_docs": "recipe",
        "replay": "data evaluation models night recipe",
    },
    "serving": {
        "airflow": "fit_view nightly promotions recipe_note report",
        "airflow_plugin": "pages",
        "cli": "airflow day_jobs demo explain feature_jobs fit_view home_backup judging "
        "monitoring nightly pages report schedule",
        "day_jobs": "feature_jobs schedule",
        "demo": "nightly",
        "explain": "feature_jobs",
        "feature_jobs": "formatting",
        "judging": "prediction_files report",
        "monitoring": "schedule",
        "nightly": "fit_view recipe_note report schedule training_curves",
        "pages": "airflow day_jobs promotions schedule",
        "recipe_check": "nightly",
        "report": "formatting",
    },
    "tickwalk": {
        "home": "instants result",
        "judgement": "instants",
    },
}
"""What each unit of a package may import from other units of the same package.

A unit is a sub-package, or a module beside the sub-packages. A unit without a line imports no other unit.
The table is exact, not transitive: `recorder -> replay` and `replay -> backfill` do not allow `recorder -> backfill`,
and an arrow that no import uses must go.
"""

PACKAGES: Final = tuple(package for package in ARROWS if package != "dags")
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
    def package(self) -> str:
        return self.target.partition(".")[0]


def module_of(file: str) -> str:
    """Return the module that a path below the root is."""
    parts = file.removesuffix(".py").split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def read_packages() -> dict[str, str]:
    """Return the source of every module of every package, by path below the root."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for package in ARROWS
        for path in sorted((ROOT / package).rglob("*.py"))
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
    """Return each import between packages that the table does not allow, as `file:line: rule`."""
    broken = []
    for item in all_imports(files):
        package = item.file.partition("/")[0]
        if item.package == package or item.package not in (*ARROWS, "tests"):
            continue
        if item.package not in ARROWS[package]:
            allowed = ", ".join(sorted(ARROWS[package])) or "no other package"
            broken.append(
                f"{item.file}:{item.line}: {package} imports {item.target}, but {package} may import {allowed}"
            )
    return broken


def unit_imports(files: Mapping[str, str]) -> Iterator[tuple[Import, str, str, str]]:
    """Yield each import between two units of one package: the import, the package, and both units."""
    modules = frozenset(module_of(file) for file in files)
    for item in all_imports(files):
        here, there = module_of(item.file).split("."), item.target.split(".")
        if (
            item.target in modules
            and here[0] == there[0]
            and len(here) > 1
            and len(there) > 1
            and here[1] != there[1]
        ):
            yield item, here[0], here[1], there[1]


def broken_unit_arrows(files: Mapping[str, str]) -> list[str]:
    """Return each import between units of one package that the table does not allow, as `file:line: rule`."""
    broken = []
    for item, package, unit, other in unit_imports(files):
        allowed = UNIT_ARROWS.get(package, {}).get(unit, "").split()
        if other not in allowed:
            rule = ", ".join(allowed) or "no other unit"
            broken.append(
                f"{item.file}:{item.line}: {package}.{unit} imports {item.target}, but may import {rule}"
            )
    return broken


def import_cycle(files: Mapping[str, str]) -> list[str]:
    """Return the modules of one import cycle, or nothing; imports inside functions count."""
    modules = frozenset(module_of(file) for file in files)
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for item in all_imports(files):
        here = module_of(item.file)
        if item.target in modules and item.target != here:
            graph[here].add(item.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def repeated_classes(files: Mapping[str, str]) -> list[str]:
    """Return each public class name that more than one module defines, with these modules."""
    where: dict[str, list[str]] = {}
    for file, source in files.items():
        for node in ast.parse(source, file).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where.setdefault(node.name, []).append(f"{file}:{node.lineno}")
    return [f"class {name}: {', '.join(places)}" for name, places in where.items() if len(places) > 1]


def repeated_stems(files: Mapping[str, str]) -> list[str]:
    """Return each name that one folder gives twice: to two modules but for case, or to a module and a sub-package."""
    names: dict[tuple[str, str], set[str]] = {}
    for file in files:
        parts = file.removesuffix(".py").split("/")
        for depth in range(1, len(parts)):
            kind = "folder" if depth < len(parts) - 1 else "module"
            names.setdefault(("/".join(parts[:depth]), parts[depth].lower()), set()).add(
                f"{kind} {parts[depth]}"
            )
    return [f"{folder}: {', '.join(sorted(found))}" for (folder, _), found in names.items() if len(found) > 1]


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
