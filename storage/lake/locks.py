"""Who may write, read or keep order in a lake at one time?

Three files beside the catalog are locked, so that processes take turns: `commit.lock` for one that writes, and for a
SQLite catalog `read.lock` and `door.lock` for those who read, and for maintenance that keeps them out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from storage.lake.connection import locked

READERS_PATIENCE_S: Final = 5.0
"""How long maintenance keeps new readers waiting for one that reads for long, before it gives way."""


class LakeLocks:
    """The turns of one connection."""

    def __init__(self, folder: Path, *, readers_wait: bool) -> None:
        """Take turns by the locks in a folder; `readers_wait` where the catalog is not read as of one instant."""
        self._commit = folder / "commit.lock"
        self._door, self._room = folder / "door.lock", folder / "read.lock"
        self._readers_wait = readers_wait
        self._is_alone = False

    def exclusive(self, patience_s: float = math.inf) -> AbstractContextManager[None]:
        """Hold the commit lock; see `Lake.exclusive`."""
        return locked(self._commit, patience_s)

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Open for reading: after a writer that may be making the lake, and without keeping any writer waiting."""
        if self._commit.exists():
            with locked(self._commit, shared=True):
                pass
        with self.reading():
            yield

    @contextmanager
    def alone(self, patience_s: float) -> Iterator[None]:
        """Hold the commit lock while nobody reads; see `Lake.alone`."""
        if not self._readers_wait:
            with self.exclusive():
                yield
            return
        # New readers wait at the door; those who read may end. Only then is the commit lock taken, so that a long
        # query delays readers for `patience_s` at most, and writers not at all.
        with locked(self._door), locked(self._room, patience_s), self.exclusive():
            self._is_alone = True
            try:
                yield
            finally:
                self._is_alone = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read for a block, at once or after maintenance."""
        if self._is_alone or not self._readers_wait:
            yield
            return
        with locked(self._door, shared=True):
            pass
        with locked(self._room, shared=True):
            yield
