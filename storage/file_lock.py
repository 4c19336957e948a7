"""File locks between processes (`flock`): exclusive or shared, with a timeout.

The kernel releases a lock when its process ends, however it ends. The `filelock` package was not used: its file locks
are exclusive only, and its read-write lock is a SQLite database, while a lake's readers share `flock`ed files.
"""

from __future__ import annotations

import fcntl
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, TextIO

_POLL_S: Final = 0.02

Mode = Literal["w", "a+"]


def lock_file(
    path: Path, *, error: Exception, timeout_s: float = 0.0, is_shared: bool = False, mode: Mode = "w"
) -> TextIO:
    """Open a file and lock it; closing the handle releases the lock.

    Args:
        path: the lock file, created where it does not exist.
        error: raised when the lock is not free within the timeout.
        timeout_s: 0 tries once, infinity waits for ever.
        is_shared: share the lock with others that share it.
        mode: `w` empties the file, `a+` keeps its content.
    """
    handle = path.open(mode, encoding="utf-8")
    try:
        _acquire(handle, fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX, timeout_s)
    except BlockingIOError as blocked:
        handle.close()
        raise error from blocked
    except BaseException:
        handle.close()
        raise
    return handle


@contextmanager
def file_lock(
    path: Path, *, error: Exception, timeout_s: float = 0.0, is_shared: bool = False, mode: Mode = "w"
) -> Iterator[TextIO]:
    """Lock a file for a block; see `lock_file`."""
    with lock_file(path, error=error, timeout_s=timeout_s, is_shared=is_shared, mode=mode) as handle:
        try:
            yield handle
        finally:
            # Closing would not release the lock while a forked child still has the handle.
            fcntl.flock(handle, fcntl.LOCK_UN)


def _acquire(handle: TextIO, kind: int, timeout_s: float) -> None:
    if timeout_s == math.inf:
        fcntl.flock(handle, kind)
        return
    until_s = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until_s:
                raise
            time.sleep(_POLL_S)
        else:
            return
