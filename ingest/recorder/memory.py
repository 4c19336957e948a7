"""Memory limits of a long-running process: glibc arenas, trimming, and release of start-up code.

Two habits of glibc cost a long-running process memory that it does not use: one arena for each thread, and freed
blocks kept for later. Much code is also needed at the start only: the compiler behind numba, once its functions are
loaded, and the initialisation of libraries. Linux with glibc; elsewhere these functions do nothing. Measured with 200
instruments at 5,000 frames a second: see docs/benchmarks.md.
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

_is_kept_small = False

_MAPPED: Final = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+\s+(\S+)$")
_LIBRARY: Final = re.compile(r"\.so($|\.)|\.duckdb_extension$")


def keep_small() -> None:
    """Make freed memory return to the system. Call it before anything large is allocated.

    A process that does more than record, such as a notebook, does not call it; `trim` and `release_starters` do nothing
    there.
    """
    global _is_kept_small
    _is_kept_small = True
    pa.set_memory_pool(pa.system_memory_pool())
    libc = _libc()
    if libc is not None:
        libc.mallopt(_ARENA_MAX, 1)
        libc.mallopt(_MMAP_THRESHOLD, _PIECE_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, _PIECE_BYTES)


def trim() -> None:
    """Return freed memory to the system; safe to call from any thread."""
    libc = _libc() if _is_kept_small else None
    if libc is not None:
        libc.malloc_trim(0)


def release_starters() -> int:
    """Release code pages that only the start needed; return how many bytes were released.

    The pages are unchanged copies of a library's file; one that is needed again is read from the file.
    """
    libc = _libc() if _is_kept_small else None
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
    """Yield the address ranges of libraries' code and constants that were never written to.

    A page that was written to is anonymous or in swap. Checking that none is dirty would not do: in a forked process
    the pages that its parent wrote (a library's relocations) count as shared.
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
    """Return glibc; None on other systems."""
    if not Path("/proc/self/maps").exists():
        return None
    try:
        libc = ctypes.CDLL("libc.so.6", use_errno=True)
    except OSError:
        return None
    return libc if hasattr(libc, "mallopt") else None
