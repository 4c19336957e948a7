"""Object stores of archives over HTTP and S3, with retries.

A store downloads an object into a file, whole or not at all, and lists sizes, so that the price is known in advance.
A refused (403) or missing (404) object is absent: an archive does not distinguish the two. Other errors are retried
where that can help, here and nowhere below: boto's own retries end where the body of an answer begins, and an
interrupted body is the most frequent error of a large object.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeVar

import httpx
import tenacity

from storage.errors import SettingsError, VenueError
from storage.logs import get_logger
from storage.settings.services import ArchiveSettings

logger = get_logger(__name__)
T = TypeVar("T")

_CHUNK_BYTES: Final = 1 << 20
_LONGEST_WAIT_S: Final = 60.0
_ABSENT: Final = frozenset({403, 404})
_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_BUSY_CODES: Final = frozenset(
    {"SlowDown", "Throttling", "RequestLimitExceeded", "TooManyRequests", "RequestTimeout"}
)
_IDENTITY_CODES: Final = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
)
_WHO: Final = "the reader pays, so S3 must know who reads: set AWS_PROFILE, or run `aws configure`"
_LATER: Final = "run the same command again later: what was fetched is kept"

Retry = Literal["absent", "again", "identity", "refused"]


class ArchiveStore(Protocol):
    """A place that gives objects by key."""

    where: str

    def sizes(self, prefix: str) -> dict[str, int] | None:
        """Return the sizes of the objects below a prefix; None where the place does not list.

        Raises:
            VenueError: it cannot be reached, or fails.
        """

    def download(self, key: str, path: Path) -> bool:
        """Write an object to a file, and say whether there is one; see `ArchiveStore.sizes` for errors."""


class _Again(Exception):  # noqa: N818 - it is no error of the program, but a reason to ask again
    """A try failed in a way that another may not."""


class HttpArchiveStore:
    """Objects below an address, which does not list them."""

    def __init__(self, url: str, limits: ArchiveSettings) -> None:
        self.where = url.rstrip("/")
        self._limits = limits
        self._client = httpx.Client(timeout=limits.timeout_s)

    def sizes(self, prefix: str) -> dict[str, int] | None:  # noqa: ARG002 - the protocol's
        """Return None: a web server does not list."""
        return None

    def download(self, key: str, path: Path) -> bool:
        """Write an object to a file; see `ArchiveStore`."""
        return _persist(lambda: self._once(key, path), self._limits)

    def _once(self, key: str, path: Path) -> bool:
        try:
            with self._client.stream("GET", f"{self.where}/{key}") as response, path.open("wb") as sink:
                if response.status_code in _ABSENT:
                    return False
                if response.status_code in _AGAIN:
                    raise _Again(f"{self.where} answered {response.status_code} for {key}")
                if response.status_code != httpx.codes.OK:
                    raise VenueError(f"{self.where} answered {response.status_code} for {key}", hint=_LATER)
                for chunk in response.iter_raw(_CHUNK_BYTES):
                    sink.write(chunk)
        except httpx.HTTPError as error:
            raise _Again(f"{self.where} cannot be reached: {type(error).__name__} {error}") from error
        return True


class S3ArchiveStore:
    """Objects of a bucket, of Amazon's S3 or of anything that speaks its protocol."""

    def __init__(self, bucket: str, prefix: str, limits: ArchiveSettings) -> None:
        import boto3  # 30 MB of memory, so only where a bucket is meant
        from botocore.config import Config

        self.where = f"s3://{bucket}" + (f"/{prefix}" if prefix else "")
        self._bucket, self._prefix, self._limits = bucket, prefix, limits
        self._payer = {"RequestPayer": "requester"} if limits.requester_pays else {}
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=limits.endpoint or None,
            region_name=limits.region or None,
            config=Config(
                connect_timeout=min(10.0, limits.timeout_s),
                read_timeout=limits.timeout_s,
                retries={"total_max_attempts": 1},
            ),
        )

    def sizes(self, prefix: str) -> dict[str, int] | None:
        """Return the sizes of the objects below a prefix; None where listing is refused; see `ArchiveStore`."""
        return _persist(lambda: self._list_once(prefix), self._limits)

    def download(self, key: str, path: Path) -> bool:
        """Write an object to a file; see `ArchiveStore`."""
        return _persist(lambda: self._get_once(key, path), self._limits)

    def _list_once(self, prefix: str) -> dict[str, int] | None:
        found: dict[str, int] = {}

        def read() -> bool:
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._name(prefix), **self._payer):
                for item in page.get("Contents", ()):
                    found[item["Key"].removeprefix(self._name(""))] = int(item["Size"])
            return True

        return found if self._guarded(read, f"the list of {prefix}") else None

    def _get_once(self, key: str, path: Path) -> bool:
        def read() -> bool:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._name(key), **self._payer)
            with path.open("wb") as sink:
                for chunk in answer["Body"].iter_chunks(_CHUNK_BYTES):
                    sink.write(chunk)
            return True

        return self._guarded(read, key)

    def _name(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    def _guarded(self, read: Callable[[], bool], what: str) -> bool:
        """Return what a request gives; false where the object is absent."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return read()
        except (BotoCoreError, ClientError, OSError) as error:
            verdict, reason = classify_error(error)
            if verdict == "absent":
                return False
            message = f"{self.where} did not give {what}: {reason}"
            if verdict == "again":
                raise _Again(message) from error
            raise VenueError(message, hint=_WHO if verdict == "identity" else _LATER) from error


def classify_error(error: Exception) -> tuple[Retry, str]:
    """Return what an error of boto means, and its reason for people, which holds no secret.

    `absent`: 403 and 404, and no bucket of that name. `identity`: there are no credentials, or S3 does not take them.
    `again`: 408, 425, 429 and 5xx, `SlowDown` and its like, and whatever breaks below HTTP: timeouts, resets, bodies
    that end early. `refused`: anything else, which another try would not change.
    """
    from botocore.exceptions import (
        ClientError,
        CredentialRetrievalError,
        NoCredentialsError,
        PartialCredentialsError,
    )

    if isinstance(error, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError):
        return "identity", "there are no credentials"
    if not isinstance(error, ClientError):
        return "again", f"it cannot be reached ({type(error).__name__})"
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _IDENTITY_CODES:
        return "identity", f"it does not take these credentials ({code})"
    if code in _BUSY_CODES or status in _AGAIN:
        return "again", f"it answered {status} {code}".rstrip()
    if status in _ABSENT:
        return "absent", code
    return "refused", f"it answered {status} {code}".rstrip()


def _persist(action: Callable[[], T], limits: ArchiveSettings) -> T:
    """Try until it works, or `archive.tries` are used up."""
    attempt: Callable[[Callable[[], T]], T] = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_Again),
        wait=tenacity.wait_random_exponential(multiplier=limits.backoff_s, max=_LONGEST_WAIT_S),
        stop=tenacity.stop_after_attempt(limits.tries),
        reraise=True,
    )
    try:
        return attempt(action)
    except _Again as error:
        raise VenueError(f"{error} (asked {limits.tries} times)", hint=_LATER) from error


def open_store(where: str, limits: ArchiveSettings | None = None) -> ArchiveStore:
    """Return the store at `https://...` or `s3://bucket/prefix`.

    Raises:
        SettingsError: it is neither.
    """
    limits = limits or ArchiveSettings()
    if where.startswith(("http://", "https://")):
        return HttpArchiveStore(where, limits)
    bucket, _, prefix = where.removeprefix("s3://").partition("/")
    if not where.startswith("s3://") or not bucket:
        raise SettingsError(f"{where!r} is no archive", hint="write https://... or s3://bucket/prefix")
    return S3ArchiveStore(bucket, prefix.strip("/"), limits)
