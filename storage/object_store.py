"""Object store on S3, or on a server that speaks its protocol: put with a checksum, download, list, stream.

One class serves the copies of the journal, the reader of archives and the lake's Parquet files; decision
docs/adr/0021-one-object-store.md says why it uses boto3 itself. Every failure is an `ObjectStoreError`, classified by
`classify`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

CHUNK_BYTES: Final = 1 << 20
_PART_BYTES: Final = 16 << 20
"""Memory per open writer; S3 allows 10,000 parts, so 160 GB in one object."""
_ABSENT: Final = frozenset({403, 404})
RETRYABLE_STATUS: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_BUSY_CODES: Final = frozenset(
    {"SlowDown", "Throttling", "RequestLimitExceeded", "TooManyRequests", "RequestTimeout"}
)
_CREDENTIAL_CODES: Final = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
)
_NOT_FOUND_CODES: Final = ("404", "NoSuchKey", "NotFound")

Failure = Literal["absent", "retryable", "credentials", "refused"]


class ObjectStoreError(OSError):
    """A request that failed; the text is that of boto3 and holds no secret."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.failure, self.reason = classify(error)


@dataclass(frozen=True, slots=True)
class FileContent:
    """Size and SHA-256 (in hex) of a file's bytes."""

    size_bytes: int
    sha256: str


def content_of(path: Path) -> FileContent:
    """Return a file's size and hash, read from the disk."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return FileContent(size, digest.hexdigest())


def split_address(address: str) -> tuple[str, str] | None:
    """Return bucket and prefix of `s3://bucket/prefix`, or None for any other text."""
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    return (bucket, prefix.strip("/")) if address.startswith("s3://") and bucket else None


class ObjectStore:
    """The objects of a bucket below a prefix.

    Credentials, and the address and region unless given, are those of the AWS tools (`AWS_ENDPOINT_URL`,
    `AWS_PROFILE`, an instance role, ...). tickwalk has no settings for credentials, so its files hold no secret.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint: str = "",
        region: str = "",
        requester_pays: bool = False,
        timeout_s: float = 60.0,
        tries: int = 4,
    ) -> None:
        """Make a client; nothing is sent yet.

        Args:
            bucket: name of the bucket.
            prefix: prepended to every key, with a slash.
            endpoint: of a server other than Amazon's.
            region: of the bucket.
            requester_pays: accept the charges for reading someone else's bucket.
            timeout_s: for each read; connecting may take 10 s of it.
            tries: requests that boto3 makes in total before it raises. It does not retry a body that breaks off.
        """
        import boto3  # 30 MB of memory, so only where a bucket is used
        from botocore.config import Config

        self.where = f"s3://{bucket}" + (f"/{prefix}" if prefix else "")
        self._bucket, self._prefix = bucket, prefix
        self._payer = {"RequestPayer": "requester"} if requester_pays else {}
        config = Config(
            connect_timeout=min(10.0, timeout_s),
            read_timeout=timeout_s,
            retries={"total_max_attempts": tries, "mode": "standard"},
            # Servers of other makers do not know the newer checksums; `put` sends a SHA-256 of its own.
            request_checksum_calculation="when_required",
        )
        with _classified():  # a profile or an address of the AWS tools may be wrong
            self._client: Any = boto3.client(
                "s3", endpoint_url=endpoint or None, region_name=region or None, config=config
            )

    def put(self, key: str, path: Path, content: FileContent) -> None:
        """Upload a file in one request, which the server takes whole or not at all, after checking the SHA-256."""
        with _classified(), path.open("rb") as body:
            self._client.put_object(
                **self._at(key),
                Body=body,
                ContentLength=content.size_bytes,
                ChecksumSHA256=base64.b64encode(bytes.fromhex(content.sha256)).decode(),
            )

    def has(self, key: str, content: FileContent) -> bool:
        """Return whether an object has exactly this content: by its stored checksum, or else by reading it."""
        from botocore.exceptions import ClientError

        with _classified():
            try:
                head = self._client.head_object(**self._at(key), ChecksumMode="ENABLED")
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in _NOT_FOUND_CODES:
                    return False
                raise
            if head["ContentLength"] != content.size_bytes:
                return False
            if "ChecksumSHA256" in head:
                return bool(base64.b64decode(head["ChecksumSHA256"]).hex() == content.sha256)
            digest = hashlib.sha256()
            for chunk in self._client.get_object(**self._at(key))["Body"].iter_chunks(CHUNK_BYTES):
                digest.update(chunk)
            return digest.hexdigest() == content.sha256

    def sizes(self, prefix: str) -> dict[str, int]:
        """Return the sizes of the objects whose keys begin with `prefix`, by key."""
        found: dict[str, int] = {}
        with _classified():
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._name(prefix), **self._payer):
                for item in page.get("Contents", ()):
                    found[item["Key"].removeprefix(self._name(""))] = int(item["Size"])
        return found

    def download(self, key: str, path: Path) -> None:
        """Write an object to a file; on an error the file is incomplete."""
        with _classified():
            answer = self._client.get_object(**self._at(key))
            with path.open("wb") as sink:
                for chunk in answer["Body"].iter_chunks(CHUNK_BYTES):
                    sink.write(chunk)

    def writer(self, key: str) -> ObjectWriter:
        """Open a new object for writing; it appears when the writer closes."""
        return ObjectWriter(self._client, self._at(key))

    def reader(self, key: str) -> ObjectReader:
        """Open an object for random access."""
        with _classified():
            size = int(self._client.head_object(**self._at(key))["ContentLength"])
        return ObjectReader(self._client, self._at(key), size)

    def remove(self, key: str) -> None:
        """Remove an object."""
        with _classified():
            self._client.delete_object(**self._at(key))

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._name(key)} | self._payer

    def _name(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key


class ObjectWriter:
    """A file-like sink that uploads an object in parts, in the form that Arrow expects of a Python file."""

    def __init__(self, client: Any, at: dict[str, str]) -> None:
        self._client, self._at = client, at
        self._buffer = bytearray()
        self._size = 0
        self._upload = ""
        self._parts: list[dict[str, object]] = []
        self.closed = False
        self._is_failed = False

    def write(self, data: Any) -> int:
        """Append bytes; upload a part when enough are buffered."""
        view = memoryview(data).cast("B")
        self._buffer += view
        self._size += len(view)
        while len(self._buffer) >= _PART_BYTES:
            try:
                self._send(bytes(self._buffer[:_PART_BYTES]))
            except ObjectStoreError:
                self._is_failed = True
                raise
            del self._buffer[:_PART_BYTES]
        return len(view)

    def tell(self) -> int:
        """Return the number of bytes written so far."""
        return self._size

    def flush(self) -> None:
        """Do nothing: parts are sent when they are full."""

    def close(self) -> None:
        """Finish the object, which then appears whole; after a failed write it never does."""
        if self.closed:
            return
        self.closed = True
        if self._is_failed:
            self._abort()
            return
        if not self._upload:
            with _classified():
                self._client.put_object(**self._at, Body=bytes(self._buffer))
            return
        try:
            if self._buffer:
                self._send(bytes(self._buffer))
            with _classified():
                self._client.complete_multipart_upload(
                    **self._at, UploadId=self._upload, MultipartUpload={"Parts": self._parts}
                )
        except ObjectStoreError:
            self._abort()
            raise

    def _abort(self) -> None:
        if self._upload:
            with suppress(ObjectStoreError), _classified():
                self._client.abort_multipart_upload(**self._at, UploadId=self._upload)

    def _send(self, part: bytes) -> None:
        with _classified():
            if not self._upload:
                self._upload = self._client.create_multipart_upload(**self._at)["UploadId"]
            number = len(self._parts) + 1
            answer = self._client.upload_part(**self._at, UploadId=self._upload, PartNumber=number, Body=part)
        self._parts.append({"ETag": answer["ETag"], "PartNumber": number})


class ObjectReader:
    """A file-like source that reads ranges of an object, in the form that Arrow expects of a Python file."""

    def __init__(self, client: Any, at: dict[str, str], size_bytes: int) -> None:
        self._client, self._at, self._size = client, at, size_bytes
        self._position = 0
        self.closed = False

    def read(self, count: int = -1) -> bytes:
        """Return up to `count` bytes from the current position, by one request."""
        until = self._size if count < 0 else min(self._size, self._position + count)
        if until <= self._position:
            return b""
        with _classified():
            answer = self._client.get_object(**self._at, Range=f"bytes={self._position}-{until - 1}")
            data: bytes = answer["Body"].read()
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to an offset from the start (0), the position (1) or the end (2)."""
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seekable(self) -> bool:
        """Return true."""
        return True

    def readable(self) -> bool:
        """Return true."""
        return True

    def close(self) -> None:
        """Do nothing but note it: every read is a request of its own."""
        self.closed = True


def classify(error: Exception) -> tuple[Failure, str]:
    """Return what kind of failure an error of boto3 is, and its reason for people, which holds no secret.

    `absent`: 403 and 404, and no bucket of that name. `credentials`: there are none, or S3 rejects them.
    `retryable`: 408, 425, 429 and 5xx, `SlowDown` and its like, and whatever breaks below HTTP: timeouts, resets,
    bodies that end early. `refused`: anything else, which another try would not change.
    """
    from botocore.exceptions import (
        ClientError,
        CredentialRetrievalError,
        NoCredentialsError,
        PartialCredentialsError,
    )

    if isinstance(error, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError):
        return "credentials", "there are no credentials"
    if not isinstance(error, ClientError):
        return "retryable", f"it cannot be reached ({type(error).__name__})"
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _CREDENTIAL_CODES:
        return "credentials", f"it does not take these credentials ({code})"
    if code in _BUSY_CODES or status in RETRYABLE_STATUS:
        return "retryable", f"it answered {status} {code}".rstrip()
    if status in _ABSENT:
        return "absent", code
    return "refused", f"it answered {status} {code}".rstrip()


@contextmanager
def _classified() -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ObjectStoreError:
        raise
    except (BotoCoreError, ClientError, OSError) as error:
        raise ObjectStoreError(error) from error
