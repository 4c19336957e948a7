"""The user's project folder: its discovery, its import as `tickwalk_project`, and the hashes of its sources.

A project is a folder `tickwalk_project` with an `__init__.py`, in the working directory or in the nearest directory
above it; `TICKWALK_PROJECT` names the directory around it instead. Its `__init__.py` may define

    FEATURE_SETS = {"name": (features, ...)}     read by features/sets.py
    NETWORKS = {"name": class or function}       read by training/models/networks.py

and `tickwalk_project/recipes/NAME.toml` are recipes (training/recipe.py). The import does not change `sys.path`: only
`tickwalk_project` and its submodules become importable.

The sources are all files of the folder except hidden ones, `__pycache__` and `recipes/`. Each is hashed by its path
below the folder, so the location of the project does not matter. Code outside the folder is not covered; installed
packages belong to the locked environment.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import importlib
import importlib.util
import json
import linecache
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Final

from storage.atomic_write import write_atomic
from storage.errors import ProjectError

PROJECT: Final = "tickwalk_project"
"""Name of the folder and of the package."""
VARIABLE: Final = "TICKWALK_PROJECT"
RECIPES: Final = "recipes"
MOST_BYTES: Final = 4_000_000
"""Largest total size of the sources, since every checkpoint of user code stores them."""

_SKIPPED: Final = frozenset({"__pycache__", RECIPES})


@dataclass(frozen=True)
class Project:
    """The sources of a project folder at one moment.

    Args:
        folder: the folder `tickwalk_project`.
        sources: content by path below the folder, with forward slashes, sorted.
    """

    folder: Path
    sources: Mapping[str, bytes]

    @cached_property
    def code(self) -> str:
        """SHA-256 of all sources."""
        return _hash(self.sources)

    def code_of(self, modules: Iterable[str]) -> str:
        """Return the SHA-256 of these modules, of all that they import from the project, and of its data files.

        The root `__init__.py` counts only where a module imports from it by name, so registering one more model does
        not change the hash of another one.

        Args:
            modules: names, such as `tickwalk_project.signals`; other packages are ignored.
        """
        chosen = {path: text for path, text in self.sources.items() if not path.endswith(".py")}
        pending = list(modules)
        seen: set[str] = set()
        while pending:
            name = pending.pop()
            path = self._path_of(name)
            if path is None or path in seen:
                continue
            seen.add(path)
            chosen[path] = self.sources[path]
            pending += self._imports_of(path)
            parts = name.split(".")
            pending += [".".join(parts[:stop]) for stop in range(2, len(parts))]
        return _hash(dict(sorted(chosen.items()))) if seen else ""

    def _path_of(self, module: str) -> str | None:
        package, *parts = module.split(".")
        if package != PROJECT:
            return None
        inner = "/".join(parts)
        paths = (f"{inner}.py", f"{inner}/__init__.py") if inner else ("__init__.py",)
        return next((path for path in paths if path in self.sources), None)

    def _imports_of(self, path: str) -> Iterator[str]:
        """Yield the project's modules that a source imports, anywhere in it."""
        parts = [PROJECT, *path.removesuffix(".py").split("/")]
        package = parts[:-1]  # that of a module, and of an `__init__.py` alike
        for node in ast.walk(ast.parse(self.sources[path], path)):
            if isinstance(node, ast.Import):
                yield from (item.name for item in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = package[: len(package) - node.level + 1] if node.level else []
                base = ".".join([*above, *filter(None, [node.module])])
                names = [f"{base}.{item.name}" for item in node.names]
                modules = [name for name in names if self._path_of(name) is not None]
                yield from modules
                if len(modules) < len(names):  # some name is defined by the package or module itself
                    yield base

    @cached_property
    def _module(self) -> ModuleType:
        return _import(self)

    def table(self, name: str) -> dict[str, object]:
        """Return a registry that `tickwalk_project/__init__.py` defines, or an empty one.

        Args:
            name: of the module attribute, such as `FEATURE_SETS`.

        Raises:
            ProjectError: the package cannot be imported, or the attribute is not a dictionary with texts as keys.
        """
        found = getattr(self._module, name, {})
        if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
            raise ProjectError(
                f"{name} in {self.folder / '__init__.py'} is {_short(found)}, not a dictionary with names as keys",
                hint=f'write {name} = {{"my-name": ...}}',
            )
        return dict(found)

    @cached_property
    def archive(self) -> bytes:
        """JSON of all sources in base64, by path; `unpack_project` reads it."""
        plain = {path: base64.b64encode(content).decode() for path, content in self.sources.items()}
        return (json.dumps(plain, indent=1, sort_keys=True) + "\n").encode()

    @property
    def recipe_paths(self) -> dict[str, Path]:
        """The project's recipe files by name of the recipe, which is the name of the file."""
        return {path.stem: path for path in sorted((self.folder / RECIPES).glob("*.toml"))}


_loaded: Project | None = None
_importing: Path | None = None


def find_project(start: Path | None = None, *, environ: Mapping[str, str] | None = None) -> Path | None:
    """Return the project folder in a directory or in the nearest one above it, or `None`.

    Args:
        start: directory to begin with (default: `TICKWALK_PROJECT` alone, or else the working directory).
        environ: variables (default: those of the process).

    Raises:
        ProjectError: `TICKWALK_PROJECT` names a directory without a project.
    """
    named = (os.environ if environ is None else environ).get(VARIABLE)
    if start is None and named:
        folder = Path(named).expanduser().resolve() / PROJECT
        if not (folder / "__init__.py").is_file():
            raise ProjectError(
                f"{VARIABLE} is {named!r}, and {folder} has no __init__.py",
                hint=f"name the directory that holds the folder {PROJECT}",
            )
        return folder
    here = (start or Path.cwd()).resolve()
    for directory in (here, *here.parents):
        if (directory / PROJECT / "__init__.py").is_file():
            return directory / PROJECT
    return None


def current_project() -> Project | None:
    """Return the project that is in force, or `None`; it is read anew when its sources or the directory changed.

    While the project itself is being imported the answer is `None`, so its code may use the built-in registries.

    Raises:
        ProjectError: its sources cannot be read, or are too large.
    """
    global _loaded
    folder = find_project()
    if folder is None or folder == _importing:
        return None
    sources = _read_sources(folder)
    if _loaded is None or _loaded.folder != folder or _loaded.sources != sources:
        _loaded = Project(folder, sources)
    return _loaded


def project_code_of(modules: Iterable[str]) -> str:
    """Return `Project.code_of` for the project in force; empty where none of the modules is of a project.

    Raises:
        ProjectError: the modules belong to a project that is no longer in force.
    """
    names = sorted({name for name in modules if name.partition(".")[0] == PROJECT})
    if not names:
        return ""
    project = current_project()
    code = project.code_of(names) if project else ""
    if not code:
        raise ProjectError(
            f"{', '.join(names)} is no longer in the project folder",
            hint=f"run in the directory that holds {PROJECT}, or set {VARIABLE} to it",
        )
    return code


def project_code() -> str:
    """Return the hash of all sources of the project in force, or an empty text."""
    project = current_project()
    return project.code if project else ""


def project_table(name: str) -> dict[str, object]:
    """Return a registry of the project in force, or an empty one; see `Project.table`."""
    project = current_project()
    return project.table(name) if project else {}


def merge_registry(
    built_in: Mapping[str, object],
    name: str,
    *,
    kind: str,
    where: str,
    taken: Mapping[str, str] | None = None,
) -> dict[str, object]:
    """Return the project's entries of a registry, checked against the built-in names.

    Args:
        built_in: the built-in registry.
        name: of the module attribute.
        kind: of an entry, for messages: `feature set`.
        where: file of the built-in registry, for messages.
        taken: further names that are in use, with where.

    Raises:
        ProjectError: a name clashes with a built-in one, or is not fit for a file name.
    """
    table = project_table(name)
    places = dict.fromkeys(built_in, where) | dict(taken or {})
    for key in table:
        refuse_name(key, kind=kind, places=places, here=f"{name} in {PROJECT}/__init__.py")
    return table


def refuse_name(key: str, *, kind: str, places: Mapping[str, str], here: str) -> None:
    """Refuse a name that is in use, or that is not fit to be part of a file's name.

    Raises:
        ProjectError: it names both places.
    """
    if key in places:
        raise ProjectError(
            f"{kind} {key!r} is defined twice: by {here}, and by {places[key]}",
            hint=f"give that of {here} another name",
        )
    if not (
        key.replace("-", "").replace("_", "").replace(".", "").isalnum()
        and key[0].isalnum()
        and key.isascii()
    ):
        raise ProjectError(
            f"{kind} {key!r} of {here} cannot be part of a file name",
            hint="use letters, digits, '-', '_' and '.', and begin with a letter or digit",
        )


def archived_project(code: str) -> bytes:
    """Return the archive of the project in force.

    Args:
        code: hash that it must have.

    Raises:
        ProjectError: there is no project, or it has changed.
    """
    project = current_project()
    if project is None or project.code != code:
        raise ProjectError(
            f"the project folder has hash {project.code[:12] if project else 'none'}, and {code[:12]} is required",
            hint="it was changed or moved while a night was running: open a new night",
        )
    return project.archive


def unpack_project(archive: bytes, root: Path) -> Project:
    """Write an archive as the folder `tickwalk_project` below a directory, which must not have another one.

    Raises:
        ProjectError: the directory has a project with other sources, or the archive is none.
    """
    folder = root / PROJECT
    try:
        sources = {path: base64.b64decode(text) for path, text in json.loads(archive).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ProjectError(f"the stored project is not an archive: {error}") from error
    if outside := [
        path for path in sources if not (folder / path).resolve().is_relative_to(folder.resolve())
    ]:
        raise ProjectError(f"the stored project names the path {outside[0]!r}, which is outside its folder")
    if folder.exists() and _read_sources(folder) != sources:
        raise ProjectError(
            f"{folder} exists, with other sources",
            hint="name a directory without a project, such as an empty one",
        )
    for path, content in sources.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / path, content)
    return Project(folder, sources)


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """Turn an exception that passed through the project's files into a `ProjectError` with file and line.

    Args:
        what: was done, for the message: `network 'gru' cannot be made`.
    """
    try:
        yield
    except ProjectError:
        raise
    except Exception as error:
        if (place := place_in_project(error)) is None:
            raise
        raise ProjectError(
            f"{what}: {type(error).__name__}: {error} ({place})",
            hint=f"correct {place.partition(', ')[0]}, and run the command again",
        ) from error


def place_in_project(error: BaseException) -> str | None:
    """Return file and line of an exception's last frame in a project folder, or `None` where it has none."""
    if isinstance(error, SyntaxError) and error.filename and f"{os.sep}{PROJECT}{os.sep}" in error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if f"{os.sep}{PROJECT}{os.sep}" in frame.filename
    ]
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else None


def is_user_code(value: object) -> bool:
    """Return whether a class or function is defined in the project."""
    return str(getattr(value, "__module__", "")).partition(".")[0] == PROJECT


def _read_sources(folder: Path) -> dict[str, bytes]:
    sources: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        parts = path.relative_to(folder).parts
        if any(part.startswith(".") for part in parts) or parts[0] in _SKIPPED or "__pycache__" in parts:
            continue
        if path.is_file():
            try:
                sources["/".join(parts)] = path.read_bytes()
            except OSError as error:
                raise ProjectError(f"{path} of the project cannot be read: {error.strerror}") from error
    if (total := sum(map(len, sources.values()))) > MOST_BYTES:
        largest = max(sources, key=lambda name: len(sources[name]))
        raise ProjectError(
            f"the project {folder} has {total:,} bytes, more than {MOST_BYTES:,}; its largest file is {largest}",
            hint=f"keep data outside the folder {PROJECT}, since every checkpoint stores it",
        )
    return sources


def _import(project: Project) -> ModuleType:
    """Import the package anew, with all of its submodules, and leave `sys.path` as it is."""
    global _importing
    for name in [name for name in sys.modules if name.partition(".")[0] == PROJECT]:
        del sys.modules[name]
    linecache.checkcache()
    importlib.invalidate_caches()
    path = project.folder / "__init__.py"
    spec = importlib.util.spec_from_file_location(
        PROJECT, path, submodule_search_locations=[str(project.folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PROJECT] = module
    _importing = project.folder
    before = sys.dont_write_bytecode
    # Compiled files are found by time in seconds and size: a quick edit of equal size would run the old code.
    sys.dont_write_bytecode = True
    try:
        with user_code(f"the project {project.folder} cannot be imported"):
            spec.loader.exec_module(module)
    except BaseException:
        for name in [name for name in sys.modules if name.partition(".")[0] == PROJECT]:
            del sys.modules[name]
        raise
    finally:
        _importing = None
        sys.dont_write_bytecode = before
    return module


def _hash(sources: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for path, content in sources.items():
        digest.update(f"{path}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
