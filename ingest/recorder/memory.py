"""How does a process that runs for a year stay small?

Two habits of a C library cost a long-lived process memory that it does not use: an arena for each thread, and freed
pieces kept for later. And much code is needed at the start only: the compiler behind numba, once its functions are
loaded, and what libraries run while they set themselves up. Linux with glibc; elsewhere nothing happens. Measured
with 200 instruments at 5,000 frames a second: see docs/benchmarks.md.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa

from storage.logs import get_logger

logger = get_logger(__name__)

# glibc's mallopt, from malloc.h.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8
_PIECE_BYTES: Final = 64 * 1024
_MADV_DONTNEED: Final = getattr(mmap, "MADV_DONTNEED", 4)

_MAPPED: Final = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+\s+(\S+)$")
_LIBRARY: Final = re.compile(r"\.so($|\.)|\.duckdb_extension$")


def keep_small() -> None:
    """Have freed memory go back to the system. Called before anything large is allocated."""
    pa.set_memory_pool(pa.system_memory_pool())
    libc = _libc()
    if libc is not None:
        libc.mallopt(_ARENA_MAX, 1)
        libc.mallopt(_MMAP_THRESHOLD, _PIECE_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, _PIECE_BYTES)


def trim() -> None:
    """Give back what was freed since the last time, wherever it lies. Called now and then, from any thread."""
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)


def release_starters() -> int:
    """Let the system take back what only the start needed; return the bytes of code that were let go.

    The pages are unchanged copies of a library's file: whoever needs one again gets it from the file again.
    """
    libc = _libc()
    if libc is None:
        return 0
    gc.collect()
    libc.malloc_trim(0)
    released = 0
    for start, end in _clean_mappings():
        if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED) == 0:
            released += end - start
    return released


def _clean_mappings() -> Iterator[tuple[int, int]]:
    """Yield the address ranges of libraries' code and constants of which no page was ever written.

    A page that was written is anonymous, or lies in the swap. That none is dirty would not say it: of a forked process
    the pages that its parent had written (a library's relocations) count as shared.
    """
    mapped: tuple[int, int] | None = None
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if found := _MAPPED.match(line):
            is_constant = "w" not in found[3] and _LIBRARY.search(found[4]) is not None
            mapped = (int(found[1], 16), int(found[2], 16)) if is_constant else None
        elif mapped and line.startswith("Anonymous:") and line.split()[1] != "0":
            mapped = None
        elif mapped and line.startswith("Swap:") and line.split()[1] == "0":
            yield mapped


def _libc() -> ctypes.CDLL | None:
    """Return glibc, or nothing where there is none."""
    if not Path("/proc/self/maps").exists():
        return None
    try:
        libc = ctypes.CDLL("libc.so.6", use_errno=True)
    except OSError:
        return None
    return libc if hasattr(libc, "mallopt") else None
