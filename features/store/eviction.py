"""Which days of features are needed no more?

Days that a store names (features/store/manifest.py) stay while its code is the one that stands here. All others, a
night's and those of other code, go beyond a limit, the longest unused first; whoever asks for one again builds it
again.
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
"""What days that no store names may take on the disk; a month of 200 instruments and 79 features takes 3.4 GB."""
MANIFESTS: Final = "question-*.json"
"""What a store's manifests are called; the days that they name stay."""
_FILES: Final = "????-??-??-*.safetensors"
_ABANDONED_NS: Final = DAY_NS
"""A part of a file that is so old was left by a process that was killed."""


def trim_days(root: Path, *, limit_bytes: int, keep: Collection[Path] = ()) -> None:
    """Remove days that no store of this code names until the rest is within a limit, the longest unused first.

    Args:
        root: the home's folder of features.
        limit_bytes: what they may take together, those of `keep` included.
        keep: files that stay.
    """
    found: list[Path] = []
    for folder in {path.parent for path in root.glob(f"*/{_FILES}")}:
        named = named_files(folder) if is_current(folder) else set()
        found += [path for path in folder.glob(_FILES) if path.name not in named]
    trim_files(found, limit_bytes=limit_bytes, keep=keep)
    for path in root.glob("*/.*.part"):
        if _Used(path).used_ns < time.time_ns() - _ABANDONED_NS:
            remove(path)


def trim_files(found: Iterable[Path], *, limit_bytes: int, keep: Collection[Path]) -> None:
    """Remove files that can be made again until the rest is within a limit, the longest unused first.

    Args:
        found: the files.
        limit_bytes: what they may take together.
        keep: those of them that stay.
    """
    size = 0
    for item in sorted(map(_Used, found), key=lambda item: (item.path not in keep, -item.used_ns)):
        size += item.size
        if size > limit_bytes and item.path not in keep:
            size -= item.size
            if remove(item.path):
                logger.info("unused file removed", path=str(item.path))


class _Used:
    """A file, its size and when it was last used; one that is gone by now is as if it had no size."""

    def __init__(self, path: Path) -> None:
        self.path, self.size, self.used_ns = path, 0, time.time_ns()
        try:
            told = path.stat()
        except FileNotFoundError:
            return
        self.size, self.used_ns = told.st_size, told.st_mtime_ns


def named_files(folder: Path) -> set[str]:
    """Return the files that the manifests of a folder name."""
    found: set[str] = set()
    for path in folder.glob(MANIFESTS):
        try:
            days = json.loads(path.read_bytes())["days"]
            found |= {f"{day}-{digest}.safetensors" for day, digest in days.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return found
