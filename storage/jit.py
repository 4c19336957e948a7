"""How is a loop compiled, and where is what was compiled kept for the next process?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return what makes a compiled function of one.

    numba keeps what it compiled beside the source, or else in the user's cache folder, or where `NUMBA_CACHE_DIR`
    says. Where none of them can be written, each process compiles anew, which takes seconds at the first call; numba
    by itself would refuse to be imported.

    Args:
        options: of `numba.njit`, without `cache`.
    """

    def compile_it(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # "no locator available": there is no folder to write to
            return numba.njit(**options)(function)

    return compile_it
