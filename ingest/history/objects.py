"""Which hours of an archive do we hold, which are absent, and are the bytes still those that were fetched?

An archive is uploaded late, with days missing and hours empty (the venue promises neither timeliness nor
completeness). So an object that is refused (403), not there (404), empty or cut short is `absent` and asked for again
later; it is never taken for an hour without trades. Each fetched object is noted in a manifest with its size and
SHA-256, and checked against it whenever it is read. Hours are cut by the archiver's own clock: who wants one reads
its neighbours too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import httpx
import msgspec
import pyarrow as pa

from storage.clock import NS, floor_ns
from storage.errors import CaptureError, SettingsError, VenueError
from storage.logs import get_logger

logger = get_logger(__name__)

FILLS: Final = "node_fills_by_block/hourly"
_HOUR_NS: Final = 3_600 * NS
_ABSENT: Final = frozenset({403, 404})
_ABSENT_CODES: Final = frozenset({"403", "404", "AccessDenied", "NoSuchKey", "NotFound"})
_MANIFEST: Final = "manifest.json"

State = Literal["held", "absent"]


class Entry(msgspec.Struct, frozen=True):
    """What is known of one object; `reason` says why it is absent."""

    state: State
    looked_ns: int
    size_bytes: int = 0
    sha256: str = ""
    reason: str = ""


class Archive(Protocol):
    """Where objects lie."""

    def read(self, key: str) -> bytes | None:
        """Return an object's bytes; None where it is refused or not there, which an archive does not tell apart.

        Raises:
            VenueError: nobody can say: the archive cannot be reached, or fails.
        """


class HttpArchive:
    """Objects below an address."""

    def __init__(self, url: str, *, timeout_s: float = 60.0) -> None:
        self._url = url.rstrip("/")
        self._client = httpx.Client(timeout=timeout_s)

    def read(self, key: str) -> bytes | None:
        """Return an object's bytes, or None; see `Archive`."""
        try:
            response = self._client.get(f"{self._url}/{key}")
        except httpx.HTTPError as error:
            raise VenueError(f"{self._url} cannot be reached: {type(error).__name__} {error}") from error
        if response.status_code in _ABSENT:
            return None
        if response.status_code != httpx.codes.OK:
            raise VenueError(f"{self._url} answered {response.status_code} for {key}")
        return response.content


class S3Archive:
    """Objects of a bucket whose reader pays; address and credentials are those of the AWS tools."""

    def __init__(self, bucket: str, prefix: str = "") -> None:
        import boto3  # 30 MB of memory, so only where a bucket is meant

        self._bucket, self._prefix = bucket, prefix
        self._client: Any = boto3.client("s3")

    def read(self, key: str) -> bytes | None:
        """Return an object's bytes, or None; see `Archive`."""
        from botocore.exceptions import BotoCoreError, ClientError

        name = f"{self._prefix}/{key}" if self._prefix else key
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=name, RequestPayer="requester")
            return bytes(answer["Body"].read())
        except ClientError as error:
            if str(error.response.get("Error", {}).get("Code")) in _ABSENT_CODES:
                return None
            raise VenueError(f"s3://{self._bucket} refused {name}: {error}") from error
        except (BotoCoreError, OSError) as error:
            raise VenueError(f"s3://{self._bucket} cannot be reached: {error}") from error


def open_archive(where: str) -> Archive:
    """Return the archive at `https://...` or `s3://bucket/prefix`.

    Raises:
        SettingsError: it is neither.
    """
    if where.startswith(("http://", "https://")):
        return HttpArchive(where)
    bucket, _, prefix = where.removeprefix("s3://").partition("/")
    if not where.startswith("s3://") or not bucket:
        raise SettingsError(f"{where!r} is no archive", hint="write https://... or s3://bucket/prefix")
    return S3Archive(bucket, prefix.strip("/"))


def hour_keys(layout: str, from_ns: int, to_ns: int) -> list[str]:
    """Return the objects that may hold events of `[from_ns, to_ns)`: its hours, and one more on either side.

    >>> from storage.clock import parse_time_ns
    >>> noon = parse_time_ns("2025-07-29T00:10:00Z")
    >>> [key[-13:] for key in hour_keys("node_fills_by_block/hourly", noon, noon + 1)]
    ['250728/23.lz4', '0250729/0.lz4', '0250729/1.lz4']
    """
    first = floor_ns(from_ns, _HOUR_NS) - _HOUR_NS
    last = floor_ns(max(to_ns - 1, from_ns), _HOUR_NS) + _HOUR_NS
    hours = (datetime.fromtimestamp(at // NS, UTC) for at in range(first, last + 1, _HOUR_NS))
    return [f"{layout}/{hour:%Y%m%d}/{hour.hour}.lz4" for hour in hours]


class Objects:
    """Objects of an archive, kept in a folder."""

    def __init__(self, archive: Archive, folder: Path, *, retry_s: float = 6 * 3_600.0) -> None:
        """Keep what is fetched below `folder`.

        Args:
            archive: where the objects come from.
            folder: a manifest lies beside the objects of each day.
            retry_s: an absent object is asked for again after so long.
        """
        self._archive = archive
        self._folder = folder
        self._retry_ns = int(retry_s * NS)

    def entry(self, key: str) -> Entry | None:
        """Return what is known of an object; None before it was asked for."""
        return self._manifest(key).get(Path(key).name)

    def fetch(self, key: str, now_ns: int) -> Entry:
        """Return an object's state, after asking for it where that is due.

        Raises:
            VenueError: the archive cannot be reached; nothing is noted then.
        """
        known = self.entry(key)
        if known is not None and known.state == "held" and self._is_whole(key, known):
            return known
        if known is not None and known.state == "absent" and now_ns < known.looked_ns + self._retry_ns:
            return known
        body = self._archive.read(key)
        reason = "refused or not there" if body is None else _flaw(body)
        if body is None or reason:
            entry = Entry("absent", now_ns, reason=reason)
            logger.info("archive object absent", key=key, reason=reason)
        else:
            entry = Entry("held", now_ns, len(body), hashlib.sha256(body).hexdigest())
            _write(self._folder / key, body)
        noted = self._manifest(key) | {Path(key).name: entry}
        _write(self._manifest_path(key), msgspec.json.format(msgspec.json.encode(noted)))
        return entry

    def lines(self, key: str) -> Iterator[bytes]:
        """Yield the lines of a held object.

        Raises:
            CaptureError: it is not held, or holds other bytes than were fetched.
        """
        known = self.entry(key)
        if known is None or known.state != "held":
            raise CaptureError(f"{key} is not held", hint="fetch it first")
        if not self._is_whole(key, known):
            raise CaptureError(f"{key} holds other bytes than were fetched", hint="fetch it again")
        body = _inflate((self._folder / key).read_bytes())
        yield from (line for line in body.split(b"\n") if line.strip())

    def _is_whole(self, key: str, entry: Entry) -> bool:
        try:
            body = (self._folder / key).read_bytes()
        except OSError:
            return False
        return (len(body), hashlib.sha256(body).hexdigest()) == (entry.size_bytes, entry.sha256)

    def _manifest_path(self, key: str) -> Path:
        return (self._folder / key).with_name(_MANIFEST)

    def _manifest(self, key: str) -> dict[str, Entry]:
        path = self._manifest_path(key)
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Entry]) if path.exists() else {}


def _flaw(body: bytes) -> str:
    """Return why an object's bytes are no hour, or nothing."""
    if not body:
        return "empty"
    try:
        return "" if _inflate(body).strip() else "empty"
    except (OSError, EOFError) as error:
        return f"cut short or damaged: {error}"


def _inflate(body: bytes) -> bytes:
    with pa.input_stream(pa.py_buffer(body), compression="lz4") as stream:
        return bytes(stream.read())


def _write(path: Path, body: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(body)
    part.replace(path)
