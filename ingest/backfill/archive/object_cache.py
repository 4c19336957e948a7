"""Local cache of archive objects, with checksums.

An archive is uploaded late, with days missing and hours empty (the venue promises neither timeliness nor
completeness). So an object that is refused (403), missing (404), empty or truncated is `absent` and requested again
later; it is never taken for an hour without trades. An object is on disk and synced before anything is made of it; a
manifest records its size and SHA-256, which are checked at every read. An object deleted from disk is fetched again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, Literal

import msgspec
import pyarrow as pa

from ingest.backfill.archive.object_store import ArchiveStore
from storage.atomic_write import publish, temporary_path, write_atomic
from storage.clock import NS
from storage.errors import CaptureError
from storage.logs import get_logger

logger = get_logger(__name__)

_MANIFEST: Final = "manifest.json"
# Rows of a piece this small stay in the processor cache; 4 MB took a third longer.
PIECE_BYTES: Final = 1 << 18

State = Literal["held", "absent"]


class CacheEntry(msgspec.Struct, frozen=True):
    """State of one object; `reason` states why it is absent."""

    state: State
    looked_ns: int
    size_bytes: int = 0
    sha256: str = ""
    reason: str = ""


class ObjectCache:
    """Objects of an archive, cached in a folder."""

    def __init__(self, store: ArchiveStore, folder: Path, *, retry_s: float = 6 * 3_600.0) -> None:
        """Cache objects below `folder`.

        Args:
            store: of the archive.
            folder: a manifest lies beside the objects of each day.
            retry_s: time until an absent object is requested again.
        """
        self._store = store
        self._folder = folder
        self._retry_ns = int(retry_s * NS)
        self._listed: dict[str, dict[str, int] | None] = {}

    @property
    def where(self) -> str:
        """Address of the archive."""
        return self._store.where

    def entry(self, key: str) -> CacheEntry | None:
        """Return the state of an object; None before it was requested."""
        return self._manifest(key).get(Path(key).name)

    def listed(self, prefix: str) -> dict[str, int] | None:
        """Return the sizes of the objects below a prefix, requested once; None if the archive does not list.

        Raises:
            VenueError: the archive cannot be reached.
        """
        if prefix not in self._listed:
            self._listed[prefix] = self._store.sizes(prefix)
        return self._listed[prefix]

    def is_held(self, key: str) -> bool:
        """Return whether an object is on disk, by its size; its bytes are checked when they are read."""
        known = self.entry(key)
        try:
            return known is not None and known.size_bytes == (self._folder / key).stat().st_size > 0
        except OSError:
            return False

    def fetch(self, key: str, now_ns: int) -> CacheEntry:
        """Return the state of an object, after a download if one is due.

        Raises:
            VenueError: the archive cannot be reached; the state does not change.
        """
        known = self.entry(key)
        if known is not None and known.state == "held" and self._is_whole(key, known):
            return known
        if known is not None and known.state == "absent" and now_ns < known.looked_ns + self._retry_ns:
            return known
        path = self._folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        part = temporary_path(path, is_unique=False)  # overwritten by the next try, also after a kill
        is_there = self._store.download(key, part)
        reason = _flaw(part) if is_there else "refused or not there"
        if reason:
            part.unlink(missing_ok=True)
            entry = CacheEntry("absent", now_ns, reason=reason)
            logger.info("archive object absent", key=key, reason=reason)
        else:
            entry = CacheEntry("held", now_ns, part.stat().st_size, _sha256(part))
            publish(part, path, is_synced=True)
        self._note(key, entry)
        return entry

    def pieces(self, key: str) -> Iterator[bytes]:
        """Yield the content of a cached object in pieces of whole lines.

        Raises:
            CaptureError: it is not cached, or holds other bytes than were fetched.
        """
        known = self.entry(key)
        if known is None or known.state != "held":
            raise CaptureError(f"{key} is not held", hint="fetch it first")
        if not self._is_whole(key, known):
            raise CaptureError(f"{key} holds other bytes than were fetched", hint="fetch it again")
        return whole_lines(self._folder / key)

    def lines(self, key: str) -> Iterator[bytes]:
        """Yield the lines of a cached object; see `pieces`."""
        for piece in self.pieces(key):
            yield from (line for line in piece.split(b"\n") if line.strip())

    def _is_whole(self, key: str, entry: CacheEntry) -> bool:
        path = self._folder / key
        try:
            return path.stat().st_size == entry.size_bytes and _sha256(path) == entry.sha256
        except OSError:
            return False

    def _manifest_path(self, key: str) -> Path:
        return (self._folder / key).with_name(_MANIFEST)

    def _manifest(self, key: str) -> dict[str, CacheEntry]:
        path = self._manifest_path(key)
        return msgspec.json.decode(path.read_bytes(), type=dict[str, CacheEntry]) if path.exists() else {}

    def _note(self, key: str, entry: CacheEntry) -> None:
        noted = self._manifest(key) | {Path(key).name: entry}
        content = msgspec.json.format(msgspec.json.encode(noted))
        write_atomic(self._manifest_path(key), content, is_unique=False)


def whole_lines(path: Path, piece_bytes: int = PIECE_BYTES) -> Generator[bytes, None, None]:
    """Yield the content of an LZ4 file in pieces of about `piece_bytes` that end with a line."""
    rest = b""
    with pa.input_stream(str(path), compression="lz4") as stream:
        while piece := stream.read(piece_bytes):
            cut = piece.rfind(b"\n") + 1
            if cut:
                yield rest + piece[:cut]
                rest = piece[cut:]
            else:
                rest += piece
    if rest.strip():
        yield rest


def _flaw(path: Path) -> str:
    """Return why a file is not a valid object, or an empty string; reads all of it."""
    if path.stat().st_size == 0:
        return "empty"
    try:
        with closing(whole_lines(path)) as pieces:
            is_empty = True
            for piece in pieces:
                is_empty = is_empty and not piece.strip()
    except (OSError, EOFError) as error:
        return f"cut short or damaged: {error}"
    return "empty" if is_empty else ""


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
