"""Which code makes features: what does a function reach by name, and what is in the whole room?"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Final

from storage.code_version import sources_hash

_ROOMS: Final = ("features", "storage")
_CONSTANTS: Final = (bool, int, float, str, bytes, type(None))


def reached_sources(roots: Iterable[Callable[..., object]]) -> dict[str, str]:
    """Return the source of every function and class that the roots reach, and every constant that those read.

    Followed are names of our own rooms and of the packages that the roots live in; libraries such as torch are
    pinned by the locked environment instead.

    Returns:
        By qualified name: source text as it stands in the file, or the `repr` of a constant.
    """
    roots = tuple(roots)
    packages = {*_ROOMS, *(root.__module__.partition(".")[0] for root in roots)}
    walk = _Walk(frozenset(packages))
    for root in roots:
        walk.take("", root)
    return walk.sources


def features_code_hash() -> str:
    """Return a hash of this room's source: whoever changes how features are made must not meet what was made before."""
    return sources_hash("features")


class _Walk:
    """One walk over what functions name; `packages` are followed."""

    def __init__(self, packages: frozenset[str]) -> None:
        self.sources: dict[str, str] = {}
        self._packages = packages

    def take(self, label: str, value: object, reader: CodeType | None = None) -> None:
        """Add what `value` is and what it reaches; `label` names a constant, `reader` is the code that names it."""
        if hasattr(value, "__wrapped__"):  # a function whose results are kept is that function
            value = inspect.unwrap(value)  # type: ignore[arg-type]
        if isinstance(value, FunctionType | type):
            self._take_code(value)
        elif isinstance(value, ModuleType):
            if reader is not None and self._is_followed(value.__name__):
                for name in _names(reader):
                    if hasattr(value, name):
                        self.take(f"{value.__name__}.{name}", getattr(value, name), reader)
        elif isinstance(value, _CONSTANTS):
            self.sources[label] = repr(value)
        elif isinstance(value, dict):
            for key, item in value.items():
                self.take(f"{label}[{key!r}]", item)
        elif isinstance(value, list | tuple):
            for place, item in enumerate(value):
                self.take(f"{label}[{place}]", item)
        elif dataclasses.is_dataclass(value) and self._is_followed(type(value).__module__):
            for item in dataclasses.fields(value):
                self.take(f"{label}.{item.name}", getattr(value, item.name))

    def _take_code(self, value: FunctionType | type) -> None:
        key = f"{value.__module__}.{value.__qualname__}"
        if key in self.sources or not self._is_followed(value.__module__):
            return
        self.sources[key] = inspect.getsource(value)
        if isinstance(value, type):
            for member in vars(value).values():
                # What a dataclass writes for itself has no file, and follows from the class.
                if isinstance(member, FunctionType) and not member.__code__.co_filename.startswith("<"):
                    self._take_code(member)
            return
        for name in _names(value.__code__):
            if name in value.__globals__:
                self.take(f"{value.__module__}.{name}", value.__globals__[name], value.__code__)
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            self.take(f"{key}.{name}", cell.cell_contents, value.__code__)

    def _is_followed(self, module: str) -> bool:
        return module.partition(".")[0] in self._packages


def _names(code: CodeType) -> Iterator[str]:
    """Yield every global and attribute that code names, in functions inside it too."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)
