"""System calls that Linux and macOS name or do differently.

This is the only module that asks for them, so the rest of the code does not depend on the system.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Final

_FULL_SYNC: Final = "F_FULLFSYNC"
_UNSUPPORTED: Final = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY})


def sync_data(handle: int) -> None:
    """Wait until the disk has the content of a file, and its size.

    On Linux `fdatasync`, which leaves out times and other attributes. macOS has no `fdatasync`, and its `fsync` only
    hands the data to the drive, which may lose it with the power, so `F_FULLFSYNC` is used there (fsync(2) of macOS).
    Go's `File.Sync` and Rust's `File::sync_data` do the same.

    Args:
        handle: a file descriptor that is open for writing.

    Raises:
        OSError: the disk refused.
    """
    if not _full_sync(handle):
        getattr(os, "fdatasync", os.fsync)(handle)


def sync_file(handle: int) -> None:
    """Wait until the disk has the content and the attributes of a file, or the names in a folder; see `sync_data`."""
    if not _full_sync(handle):
        os.fsync(handle)


def _full_sync(handle: int) -> bool:
    """Return whether a file was synced by `F_FULLFSYNC`; network drives and some others do not support it."""
    command = getattr(fcntl, _FULL_SYNC, None)
    if command is None:
        return False
    try:
        fcntl.fcntl(handle, command)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return False
    return True


def drop_from_cache(handle: int) -> bool:
    """Ask the system to forget its copy of a synced file in memory, and return whether it can be asked.

    macOS cannot: a file that is read again there may come from memory.
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def usable_cores() -> int:
    """Return the number of cores that this process may use; on macOS, which binds no process to cores, all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
