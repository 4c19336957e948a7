"""Stores for off-host copies of journal segments: a folder or an S3 bucket.

A store accepts a file whole or not at all, and can tell by size and SHA-256 whether its copy is identical.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from storage.errors import JournalError, SettingsError

_CHUNK_BYTES: Final = 1 << 20
_NOT_THERE: Final = ("404", "NoSuchKey", "NotFound")


@dataclass(frozen=True, slots=True)
class FileContent:
    """What a file holds: its size and the SHA-256 of its bytes, in hex."""

    size_bytes: int
    sha256: str


class BackupStore(Protocol):
    """A place for copies."""

    def put(self, name: str, path: Path, content: FileContent) -> None:
        """Copy a file under `name`; when this returns, the copy is whole and was checked.

        Raises:
            JournalError: the place refuses, or holds other bytes afterwards.
        """

    def holds(self, name: str, content: FileContent) -> bool:
        """Say whether `name` is there with exactly this content."""


def open_store(where: str) -> BackupStore:
    """Return the store that `keep.copy_to` names: `s3://bucket/prefix`, or a folder.

    Raises:
        SettingsError: it is neither.
    """
    if where.startswith("s3://"):
        bucket, _, prefix = where.removeprefix("s3://").partition("/")
        if not bucket:
            raise SettingsError(f"keep.copy_to is {where!r}", hint="write it as s3://bucket/prefix")
        return S3BackupStore(bucket, prefix.strip("/"))
    return FolderBackupStore(Path(where).expanduser())


def content_of(path: Path) -> FileContent:
    """Return a file's size and hash, read from the disk."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return FileContent(size, digest.hexdigest())


class FolderBackupStore:
    """A folder, usually one that another machine shares."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, name: str, path: Path, content: FileContent) -> None:
        """Copy under a hidden name, sync, read back, and only then rename: no half file is ever seen."""
        target = self._folder / name
        part = target.with_name(f".{target.name}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with path.open("rb") as source, part.open("wb") as sink:
                while chunk := source.read(_CHUNK_BYTES):
                    sink.write(chunk)
                sink.flush()
                os.fsync(sink.fileno())
                # Read back what the disk has, and not what the cache remembers.
                os.posix_fadvise(sink.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if content_of(part) != content:
                raise JournalError(f"the copy of {name} in {self._folder} holds other bytes")
            part.replace(target)
            _sync_folder(target.parent)
        except OSError as error:
            raise JournalError(
                f"{name} cannot be copied to {self._folder}: {error.strerror}", hint="see keep.copy_to"
            ) from error

    def holds(self, name: str, content: FileContent) -> bool:
        """Say whether the folder has the file with this content, by reading it."""
        target = self._folder / name
        try:
            return target.stat().st_size == content.size_bytes and content_of(target) == content
        except OSError:
            return False


class S3BackupStore:
    """A bucket of S3, or of anything that speaks its protocol.

    Address, region and credentials are those of the AWS tools (`AWS_ENDPOINT_URL`, `AWS_PROFILE`, an instance
    role, ...); tickwalk has no settings for them, so no secret lies in its files.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        import boto3  # 30 MB of memory, so only where a bucket is meant
        from botocore.config import Config

        self._bucket = bucket
        self._prefix = prefix
        # `when_required`: our own checksum of each object is sent and checked; older servers know no other.
        limits = Config(connect_timeout=10, read_timeout=60, retries={"max_attempts": 3, "mode": "standard"})
        self._client: Any = boto3.client("s3", config=limits)

    def put(self, name: str, path: Path, content: FileContent) -> None:
        """Upload in one request, which a server takes whole or not at all, with the hash that it must find."""
        digest = base64.b64encode(bytes.fromhex(content.sha256)).decode()
        with self._errors(name), path.open("rb") as body:
            self._client.put_object(
                Bucket=self._bucket,
                Key=self._key(name),
                Body=body,
                ContentLength=content.size_bytes,
                ChecksumSHA256=digest,
            )
        if not self.holds(name, content):
            raise JournalError(f"the copy of {name} in s3://{self._bucket} holds other bytes")

    def holds(self, name: str, content: FileContent) -> bool:
        """Say whether the bucket has the object with this content: by its checksum, or else by reading it."""
        from botocore.exceptions import ClientError

        where = {"Bucket": self._bucket, "Key": self._key(name)}
        with self._errors(name):
            try:
                head = self._client.head_object(**where, ChecksumMode="ENABLED")
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in _NOT_THERE:
                    return False
                raise
            if head["ContentLength"] != content.size_bytes:
                return False
            if "ChecksumSHA256" in head:
                return bool(base64.b64decode(head["ChecksumSHA256"]).hex() == content.sha256)
            digest = hashlib.sha256()
            for chunk in self._client.get_object(**where)["Body"].iter_chunks(_CHUNK_BYTES):
                digest.update(chunk)
            return digest.hexdigest() == content.sha256

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError, OSError) as error:
            raise JournalError(
                f"{name} cannot be copied to s3://{self._bucket}: {error}",
                hint="check the bucket, and the credentials of this user (AWS_* variables or ~/.aws)",
            ) from error


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
