"""Just-in-time compilation with numba, and its cache on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles a function.

    numba caches the compiled code beside the source, or else in the user's cache folder, or in `NUMBA_CACHE_DIR`.
    Where none of them is writable, each process compiles again, which takes seconds at the first call; numba itself
    would fail on import.

    Args:
        options: of `numba.njit`, without `cache`.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # "no locator available": no cache folder is writable
            return numba.njit(**options)(function)

    return decorate
