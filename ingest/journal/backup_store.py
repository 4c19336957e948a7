"""Backup store for journal segments: a folder, usually on another machine, or a bucket on S3.

A store accepts a file whole or not at all. It compares a stored file by size and SHA-256.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from storage.atomic_write import publish, temporary_path
from storage.errors import JournalError, SettingsError
from storage.object_store import (
    CHUNK_BYTES,
    FileContent,
    ObjectStore,
    ObjectStoreError,
    content_of,
    split_address,
)
from storage.system_calls import drop_from_cache, sync_file


class BackupStore(Protocol):
    """A place for copies."""

    def put(self, name: str, path: Path, content: FileContent) -> None:
        """Copy a file to `name`, and return once the copy is complete and checked.

        Raises:
            JournalError: the store refuses, or has other bytes afterwards.
        """

    def holds(self, name: str, content: FileContent) -> bool:
        """Return whether `name` exists with exactly this content."""


def open_store(where: str) -> BackupStore:
    """Return the store that `keep.copy_to` names: `s3://bucket/prefix`, or a folder.

    Raises:
        SettingsError: it is neither.
    """
    if where.startswith("s3://"):
        address = split_address(where)
        if address is None:
            raise SettingsError(f"keep.copy_to is {where!r}", hint="write it as s3://bucket/prefix")
        return S3BackupStore(*address)
    return FolderBackupStore(Path(where).expanduser())


class FolderBackupStore:
    """A folder, usually one that another machine shares."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, name: str, path: Path, content: FileContent) -> None:
        """Copy to a temporary file, sync it, read it back, and then rename it, so that no partial copy is visible."""
        target = self._folder / name
        part = temporary_path(target, is_unique=False)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with path.open("rb") as source, part.open("wb") as sink:
                while chunk := source.read(CHUNK_BYTES):
                    sink.write(chunk)
                sink.flush()
                sync_file(sink.fileno())
                # So that the comparison reads what the disk has, where the system can be asked.
                drop_from_cache(sink.fileno())
            if content_of(part) != content:
                raise JournalError(f"the copy of {name} in {self._folder} holds other bytes")
            publish(part, target, is_synced=True)
        except OSError as error:
            raise JournalError(
                f"{name} cannot be copied to {self._folder}: {error.strerror}", hint="see keep.copy_to"
            ) from error

    def holds(self, name: str, content: FileContent) -> bool:
        """Return whether the folder has the file with this content, by reading it."""
        target = self._folder / name
        try:
            return target.stat().st_size == content.size_bytes and content_of(target) == content
        except OSError:
            return False


class S3BackupStore:
    """A bucket; see `ObjectStore` for its address and credentials."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self._objects = ObjectStore(bucket, prefix)
        self._bucket = bucket

    def put(self, name: str, path: Path, content: FileContent) -> None:
        """Upload with the SHA-256 that the server must find, and check that it has the object."""
        with self._errors(name):
            self._objects.put(name, path, content)
        if not self.holds(name, content):
            raise JournalError(f"the copy of {name} in s3://{self._bucket} holds other bytes")

    def holds(self, name: str, content: FileContent) -> bool:
        """Return whether the bucket has the object with this content."""
        with self._errors(name):
            return self._objects.has(name, content)

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except ObjectStoreError as error:
            raise JournalError(
                f"{name} cannot be copied to s3://{self._bucket}: {error}",
                hint="check the bucket, and the credentials of this user (AWS_* variables or ~/.aws)",
            ) from error
