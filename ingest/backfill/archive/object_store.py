"""Archive stores over HTTP and S3: download an object, list sizes, retry what may pass.

A store streams an object into a file, whole or not at all, and lists the objects with their sizes, so that a price can
be quoted beforehand. An object that is refused (403) or not found (404) is absent: archives do not distinguish the two.
Other failures are retried here, where a retry can help, and nowhere below: boto3's own retries end where the body of an
answer begins, and a body that breaks off is the commonest fault with a large object.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, TypeVar

import httpx
import tenacity

from storage.errors import SettingsError, VenueError
from storage.object_store import CHUNK_BYTES, RETRYABLE_STATUS, ObjectStore, ObjectStoreError, split_address
from storage.settings.services import ArchiveSettings

T = TypeVar("T")

_MAX_WAIT_S: Final = 60.0
_ABSENT: Final = frozenset({403, 404})
_CREDENTIALS_HINT: Final = (
    "the reader pays, so S3 must know who reads: set AWS_PROFILE, or run `aws configure`"
)
_RETRY_HINT: Final = "run the same command again later: what was fetched is kept"


class ArchiveStore(Protocol):
    """A read-only store of objects by key."""

    where: str

    def sizes(self, prefix: str) -> dict[str, int] | None:
        """Return the sizes of the objects below a prefix, or None where the store does not list.

        Raises:
            VenueError: it cannot be reached, or fails.
        """

    def download(self, key: str, path: Path) -> bool:
        """Write an object to a file, and return whether it exists; see `ArchiveStore.sizes` for errors."""


class _RetryableError(Exception):
    """A failure that another try may not meet."""


class HttpArchiveStore:
    """Objects below a web address, which does not list them."""

    def __init__(self, url: str, limits: ArchiveSettings) -> None:
        self.where = url.rstrip("/")
        self._limits = limits
        self._client = httpx.Client(timeout=limits.timeout_s)

    def sizes(self, prefix: str) -> dict[str, int] | None:  # noqa: ARG002 - the protocol's
        """Return None: a web server does not list."""
        return None

    def download(self, key: str, path: Path) -> bool:
        """Write an object to a file; see `ArchiveStore`."""
        return _retry(lambda: self._download_once(key, path), self._limits)

    def _download_once(self, key: str, path: Path) -> bool:
        try:
            with self._client.stream("GET", f"{self.where}/{key}") as response, path.open("wb") as sink:
                if response.status_code in _ABSENT:
                    return False
                if response.status_code in RETRYABLE_STATUS:
                    raise _RetryableError(f"{self.where} answered {response.status_code} for {key}")
                if response.status_code != httpx.codes.OK:
                    raise VenueError(
                        f"{self.where} answered {response.status_code} for {key}", hint=_RETRY_HINT
                    )
                for chunk in response.iter_raw(CHUNK_BYTES):
                    sink.write(chunk)
        except httpx.HTTPError as error:
            raise _RetryableError(
                f"{self.where} cannot be reached: {type(error).__name__} {error}"
            ) from error
        return True


class S3ArchiveStore:
    """Objects of a bucket, read at the reader's expense where `archive.requester_pays` says so."""

    def __init__(self, bucket: str, prefix: str, limits: ArchiveSettings) -> None:
        self._limits = limits
        self._objects = ObjectStore(
            bucket,
            prefix,
            endpoint=limits.endpoint,
            region=limits.region,
            requester_pays=limits.requester_pays,
            timeout_s=limits.timeout_s,
            tries=1,
        )
        self.where = self._objects.where

    def sizes(self, prefix: str) -> dict[str, int] | None:
        """Return the sizes of the objects below a prefix, or None where listing is refused."""
        return self._read(lambda: self._objects.sizes(prefix), f"the list of {prefix}")

    def download(self, key: str, path: Path) -> bool:
        """Write an object to a file; see `ArchiveStore`."""

        def read() -> bool:
            self._objects.download(key, path)
            return True

        return self._read(read, key) or False

    def _read(self, request: Callable[[], T], what: str) -> T | None:
        """Return the result of a request, or None where the object is absent."""

        def once() -> T | None:
            try:
                return request()
            except ObjectStoreError as error:
                if error.failure == "absent":
                    return None
                message = f"{self.where} did not give {what}: {error.reason}"
                if error.failure == "retryable":
                    raise _RetryableError(message) from error
                hint = _CREDENTIALS_HINT if error.failure == "credentials" else _RETRY_HINT
                raise VenueError(message, hint=hint) from error

        return _retry(once, self._limits)


def _retry(action: Callable[[], T], limits: ArchiveSettings) -> T:
    """Try until it works, or `archive.tries` are used up."""
    attempt: Callable[[Callable[[], T]], T] = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_RetryableError),
        wait=tenacity.wait_random_exponential(multiplier=limits.backoff_s, max=_MAX_WAIT_S),
        stop=tenacity.stop_after_attempt(limits.tries),
        reraise=True,
    )
    try:
        return attempt(action)
    except _RetryableError as error:
        raise VenueError(f"{error} (asked {limits.tries} times)", hint=_RETRY_HINT) from error


def open_store(where: str, limits: ArchiveSettings | None = None) -> ArchiveStore:
    """Return the store at `https://...` or `s3://bucket/prefix`.

    Raises:
        SettingsError: it is neither.
    """
    limits = limits or ArchiveSettings()
    if where.startswith(("http://", "https://")):
        return HttpArchiveStore(where, limits)
    address = split_address(where)
    if address is None:
        raise SettingsError(f"{where!r} is no archive", hint="write https://... or s3://bucket/prefix")
    return S3ArchiveStore(*address, limits)
