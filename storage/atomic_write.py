"""Atomic file replacement: a temporary file beside the target, then a rename."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.system_calls import sync_file


def temporary_path(path: Path, *, is_unique: bool = True) -> Path:
    """Return the hidden path beside `path` under which its next content is written.

    Args:
        path: the target.
        is_unique: include the process id, so that two processes may write the target at once. Without it, a
            process that was killed leaves at most one temporary file, which the next write overwrites.
    """
    return path.with_name(f".{path.name}.{os.getpid()}.part" if is_unique else f".{path.name}.part")


def publish(temporary: Path, path: Path, *, is_synced: bool) -> None:
    """Rename a finished temporary file to its target, in the same folder.

    Args:
        temporary: closed, or at least flushed.
        path: the target; an existing file is replaced.
        is_synced: wait until the disk has the content and the name.
    """
    if is_synced:
        sync(temporary)
    temporary.replace(path)
    if is_synced:
        sync(path.parent)


@contextmanager
def replacing(path: Path, *, is_synced: bool, is_unique: bool = True) -> Iterator[Path]:
    """Yield the temporary path to write to; publish it after the block, or remove it if the block fails.

    Args:
        path: the target; its folder must exist.
        is_synced: see `publish`.
        is_unique: see `temporary_path`.
    """
    temporary = temporary_path(path, is_unique=is_unique)
    try:
        yield temporary
        publish(temporary, path, is_synced=is_synced)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomic(
    path: Path,
    content: bytes | str,
    *,
    is_synced: bool = True,
    is_unique: bool = True,
    mode: int = 0o666,
) -> None:
    """Write a file so that a reader, or a restart after a crash, finds either the old content or the new.

    Args:
        path: the file; its folder must exist.
        content: bytes, or text that is written as UTF-8.
        is_synced: see `publish`; without it, a power failure may lose the newest content.
        is_unique: see `temporary_path`.
        mode: permission bits of the new file, which the umask may reduce; in force from the first byte on.
    """
    data = content.encode() if isinstance(content, str) else content
    with replacing(path, is_synced=is_synced, is_unique=is_unique) as temporary:
        temporary.unlink(missing_ok=True)  # an older file would keep its own permission bits
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)


def sync(path: Path) -> None:
    """Wait until the disk has the content of a file, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        sync_file(handle)
    finally:
        os.close(handle)
