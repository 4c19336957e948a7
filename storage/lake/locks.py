"""Locks of a lake: who may write, read or maintain it at a time.

Processes of a home take turns by three lock files. A writer holds `commit.lock`, and with a Postgres catalog also an
advisory lock there, for which writers of all homes wait. With a SQLite catalog, readers share `door.lock` and
`read.lock`, by which maintenance keeps them out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from storage.errors import LakeError
from storage.file_lock import file_lock
from storage.lake.catalog_lock import CatalogLock

READERS_PATIENCE_S: Final = 5.0
"""How long maintenance blocks new readers while a long query runs, before it gives up."""


@contextmanager
def lake_lock(path: Path, timeout_s: float = math.inf, *, is_shared: bool = False) -> Iterator[None]:
    """Lock one of the lake's lock files for a block.

    Args:
        path: the file, created where it does not exist.
        timeout_s: wait at most this long.
        is_shared: share the lock with others that share it.

    Raises:
        LakeError: another process held it for longer than `timeout_s`.
    """
    error = LakeError(
        f"another process has held the lake's lock for {timeout_s:g} s",
        hint="wait until its commit, its query or its maintenance ends",
    )
    with file_lock(path, error=error, timeout_s=timeout_s, is_shared=is_shared):
        yield


class LakeLocks:
    """The locks that one connection takes."""

    def __init__(self, folder: Path, *, catalog: str) -> None:
        """Use the lock files of a folder.

        Args:
            folder: of the lake.
            catalog: `sqlite:...` or `postgres:...`.
        """
        self._commit = folder / "commit.lock"
        self._door, self._readers = folder / "door.lock", folder / "read.lock"
        # SQLite catalogs have no snapshot isolation, so readers take locks too.
        self._readers_wait = catalog.startswith("sqlite:")
        self._catalog = CatalogLock(catalog) if catalog.startswith("postgres") else None
        self._is_alone = False

    def close(self) -> None:
        """Close the connection to the catalog, if there is one."""
        if self._catalog is not None:
            self._catalog.close()

    @contextmanager
    def exclusive(self, timeout_s: float = math.inf) -> Iterator[None]:
        """Hold the commit lock; see `Lake.exclusive`."""
        until_s = time.monotonic() + timeout_s
        with lake_lock(self._commit, timeout_s):
            if self._catalog is None:
                yield
                return
            with self._catalog.hold(max(until_s - time.monotonic(), 0.0)):
                yield

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Open for reading: after a writer that may be making the lake, and without keeping any writer waiting."""
        if self._commit.exists():
            with lake_lock(self._commit, is_shared=True):
                pass
        with self.reading():
            yield

    @contextmanager
    def alone(self, timeout_s: float) -> Iterator[None]:
        """Hold the commit lock while nobody reads; see `Lake.alone`."""
        if not self._readers_wait:
            with self.exclusive():
                yield
            return
        # The door lock blocks new readers while current ones finish. The commit lock is taken only after that, so a
        # long query delays readers by `timeout_s` at most and writers not at all.
        with lake_lock(self._door), lake_lock(self._readers, timeout_s), self.exclusive():
            self._is_alone = True
            try:
                yield
            finally:
                self._is_alone = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read for a block, after any maintenance that runs now."""
        if self._is_alone or not self._readers_wait:
            yield
            return
        with lake_lock(self._door, is_shared=True):
            pass
        with lake_lock(self._readers, is_shared=True):
            yield
