"""Least-recently-used eviction of cached files.

Days that a store refers to (features/store/manifest.py) stay as long as its code is current. All others, such as those
of nightly runs and of other code, are evicted beyond a size limit, the least recently used first, and rebuilt when
needed again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from features.store.atomic_files import remove
from features.store.day_files import is_current
from storage.clock import DAY_NS
from storage.logs import get_logger

logger = get_logger(__name__)

LIMIT_BYTES: Final = 32 * 1024**3
"""Disk space for days that no store refers to; a month of 200 instruments and 79 features takes 3.4 GB."""
MANIFESTS: Final = "question-*.json"
"""Glob pattern of a store's manifests; the days that they name stay."""
_FILES: Final = "????-??-??-*.safetensors"
_ABANDONED_NS: Final = DAY_NS
"""A partial file older than this was left by a killed process."""


def trim_days(root: Path, *, limit_bytes: int, keep: Collection[Path] = ()) -> None:
    """Remove days that no current store refers to, least recently used first, until the rest is within a limit.

    Args:
        root: the home's folder of features.
        limit_bytes: total size, including the files of `keep`.
        keep: files that are never removed.
    """
    found: list[Path] = []
    for folder in {path.parent for path in root.glob(f"*/{_FILES}")}:
        named = named_files(folder) if is_current(folder) else set()
        found += [path for path in folder.glob(_FILES) if path.name not in named]
    trim_files(found, limit_bytes=limit_bytes, keep=keep)
    for path in root.glob("*/.*.part"):
        if _FileUse(path).used_ns < time.time_ns() - _ABANDONED_NS:
            remove(path)


def trim_files(found: Iterable[Path], *, limit_bytes: int, keep: Collection[Path]) -> None:
    """Remove reproducible files, least recently used first, until the rest is within a limit.

    Args:
        found: the files.
        limit_bytes: their total size.
        keep: files among them that are never removed.
    """
    size = 0
    for item in sorted(map(_FileUse, found), key=lambda item: (item.path not in keep, -item.used_ns)):
        size += item.size
        if size > limit_bytes and item.path not in keep:
            size -= item.size
            if remove(item.path):
                logger.info("unused file removed", path=str(item.path))


class _FileUse:
    """A file with its size and time of last use; a vanished file has size zero."""

    def __init__(self, path: Path) -> None:
        self.path, self.size, self.used_ns = path, 0, time.time_ns()
        try:
            stat = path.stat()
        except FileNotFoundError:
            return
        self.size, self.used_ns = stat.st_size, stat.st_mtime_ns


def named_files(folder: Path) -> set[str]:
    """Return the names of the files that the manifests of a folder refer to."""
    found: set[str] = set()
    for path in folder.glob(MANIFESTS):
        try:
            days = json.loads(path.read_bytes())["days"]
            found |= {f"{day}-{digest}.safetensors" for day, digest in days.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return found
