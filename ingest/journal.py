"""How does a frame reach the disk before anything is derived from it?

A recording is a folder of segments. A segment is a header and blocks; a block is a run of records, compressed
with zstd and guarded by a CRC, written at least every `block_ms` and synced (`fdatasync`). Control records (a
connection opened or closed, the clock's ticks) lie in the same order as frames, so that tables are a pure
function of the journal.

    segment  "TWJ1" | u32 header length | header JSON | block...
    block    u32 packed length | u32 raw length | i64 first frame | u32 CRC-32 of these and the rest | packed
    record   i64 recv_ns | u8 kind | i16 connection | u32 body length | body

A torn tail (power or `kill -9` in the middle of a write) is read up to its last whole block and reported.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import json
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import zstandard

from storage.code import code_version
from storage.errors import JournalError

_MAGIC: Final = b"TWJ1"
_BLOCK: Final = struct.Struct("<IIqI")
_BLOCK_HEAD: Final = struct.Struct("<IIq")
_RECORD: Final = struct.Struct("<qBhI")
_LENGTH: Final = struct.Struct("<I")
# A longer block is a damaged length: blocks are cut at `_BLOCK_BYTES` and one frame is at most 16 MiB.
_MAX_RAW_BYTES: Final = 64 * 1024 * 1024
_BLOCK_BYTES: Final = 256 * 1024
SUFFIX: Final = ".twj"
LOCK: Final = "lock"


class Kind(enum.IntEnum):
    """What a record is."""

    FRAME = 1
    """Bytes as a socket gave them."""
    OPENED = 2
    """A connection was opened; the body says where to."""
    CLOSED = 3
    """A connection was lost; the body says why."""
    CLOCK = 4
    """The clock reached a tick while nothing else arrived."""
    STARTED = 5
    """A recording began; the body is JSON about it."""
    STOPPED = 6
    """A recording ended on purpose."""
    ANSWER = 7
    """A REST answer; the body is JSON with `request` and `response`."""


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of a journal.

    Args:
        frame: its number within the recording, from 0.
        recv_ns: when we received it; never falls within a recording.
        kind: what it is.
        connection: number of the connection within the recording; -1 where none is meant.
        body: raw bytes.
    """

    frame: int
    recv_ns: int
    kind: Kind
    connection: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a segment that are no whole block: where, how many, and why."""

    segment: str
    offset: int
    size_bytes: int
    reason: str


class JournalWriter:
    """Appends records to a recording. `append` belongs to one thread; `sync` may run in another."""

    def __init__(self, folder: Path, *, segment_bytes: int = 64 * 1024 * 1024) -> None:
        """Start a recording in a new folder.

        Raises:
            JournalError: the folder cannot be written, or holds a recording already.
        """
        self.folder = folder
        self.recording = folder.name
        self.frames = 0
        self.last_recv_ns = 0
        self._segment_bytes = segment_bytes
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._written_frames = 0
        self._guard = threading.Lock()
        self._writing = threading.Lock()
        self._segment = -1
        self._handle: int | None = None
        self._written_bytes = 0
        self._packer = zstandard.ZstdCompressor(level=1)
        try:
            folder.mkdir(parents=True, exist_ok=False)
        except FileExistsError as error:
            raise JournalError(
                f"recording {folder} exists already", hint="replay it, or remove it"
            ) from error
        except OSError as error:
            raise JournalError(
                f"recording {folder} cannot be made: {error.strerror}",
                hint="set TICKWALK_HOME to a folder you may write",
            ) from error
        self._lock = hold_recording(folder)
        self._open_segment()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(self, recv_ns: int, kind: Kind, connection: int, body: bytes) -> Record:
        """Take a record; it is on disk after the next `sync`. An earlier `recv_ns` than the last is raised to it."""
        recv_ns = max(recv_ns, self.last_recv_ns)
        record = Record(self.frames, recv_ns, kind, connection, body)
        self.frames += 1
        self.last_recv_ns = recv_ns
        packed = _RECORD.pack(recv_ns, kind, connection, len(body)) + body
        with self._guard:
            self._pending.append(packed)
            self._pending_bytes += len(packed)
        if self._pending_bytes >= _BLOCK_BYTES:
            self._write(sync=False)
        return record

    def sync(self) -> None:
        """Write what is pending and wait until the disk has it.

        Raises:
            JournalError: the disk refused (full, read-only); what was synced before stays readable.
        """
        self._write(sync=True)

    def close(self) -> None:
        """Sync and close; a second call does nothing."""
        try:
            if self._handle is not None:
                self._write(sync=True)
        finally:
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None
            self._lock.close()

    def _write(self, *, sync: bool) -> None:
        with self._writing:
            with self._guard:
                raw, frames = b"".join(self._pending), len(self._pending)
                self._pending.clear()
                self._pending_bytes = 0
            if self._handle is None:
                raise JournalError(f"the journal {self.folder} is closed", hint="see the error that ended it")
            try:
                if raw:
                    self._put(_block(raw, self._packer.compress(raw), self._written_frames))
                    self._written_frames += frames
                if sync:
                    os.fdatasync(self._handle)
                if self._written_bytes >= self._segment_bytes:
                    os.fdatasync(self._handle)
                    full, self._handle = self._handle, None
                    os.close(full)
                    self._open_segment()
            except OSError as error:
                self._abandon()
                raise JournalError(
                    f"the journal cannot be written: {error.strerror}",
                    hint=f"free space or mend {self.folder}",
                ) from error

    def _put(self, data: bytes) -> None:
        assert self._handle is not None
        view = memoryview(data)
        while view:
            view = view[os.write(self._handle, view) :]
        self._written_bytes += len(data)

    def _abandon(self) -> None:
        """After a refused write: cut what is half written, and take no more, so that no later block is unreadable."""
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        with contextlib.suppress(OSError):  # what cannot be cut is a torn tail, and is read as one
            os.ftruncate(handle, self._written_bytes)
        os.close(handle)

    def _open_segment(self) -> None:
        self._segment += 1
        path = self.folder / f"{self._segment:06d}{SUFFIX}"
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        self._written_bytes = 0
        header = json.dumps(
            {"recording": self.recording, "segment": self._segment, "code": code_version()}
        ).encode()
        self._put(_MAGIC + _LENGTH.pack(len(header)) + header)
        folder = os.open(self.folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def _block(raw: bytes, packed: bytes, first_frame: int) -> bytes:
    head = _BLOCK_HEAD.pack(len(packed), len(raw), first_frame)
    return head + _LENGTH.pack(zlib.crc32(packed, zlib.crc32(head))) + packed


def hold_recording(folder: Path) -> TextIOWrapper:
    """Mark a recording as in use until the handle closes; a dead process holds nothing.

    Raises:
        JournalError: someone else records or replays it now.
    """
    handle = (folder / LOCK).open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.close()
        raise JournalError(f"recording {folder.name} is in use", hint="wait until it ends") from error
    return handle


def segments(folder: Path) -> list[Path]:
    """Return a recording's segments in order."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def read_journal(
    folder: Path,
    *,
    on_damage: Callable[[Damage], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[Record]:
    """Yield a recording's records in order, over all of its segments.

    Args:
        folder: the recording.
        on_damage: is told of bytes that are no whole block; reading goes on with the next whole block or segment.
        on_bytes: is told of bytes read, for a progress bar.

    Raises:
        JournalError: there is no recording, or a segment is of another format.
    """
    paths = segments(folder)
    if not paths:
        raise JournalError(
            f"{folder} holds no journal segment", hint="name a folder below the home's journal folder"
        )
    for path in paths:
        for frame, raw in _read_blocks(path, on_damage):
            at = 0
            while at < len(raw):
                recv_ns, kind, connection, size = _RECORD.unpack_from(raw, at)
                at += _RECORD.size
                yield Record(frame, recv_ns, Kind(kind), connection, raw[at : at + size])
                at += size
                frame += 1
            if on_bytes is not None:
                on_bytes(len(raw))


def _read_blocks(path: Path, on_damage: Callable[[Damage], None] | None) -> Iterator[tuple[int, bytes]]:
    data = path.read_bytes()

    def report(offset: int, reason: str) -> None:
        if on_damage is not None and offset < len(data):
            on_damage(Damage(f"{path.parent.name}/{path.name}", offset, len(data) - offset, reason))

    if len(data) < len(_MAGIC) + _LENGTH.size:
        report(0, "the segment ends within its header")
        return
    if not data.startswith(_MAGIC):
        raise JournalError(f"{path} is not a journal segment", hint="a segment begins with TWJ1")
    at = len(_MAGIC) + _LENGTH.size + _LENGTH.unpack_from(data, len(_MAGIC))[0]
    unpacker = zstandard.ZstdDecompressor()
    while at < len(data):
        if at + _BLOCK.size > len(data):
            report(at, "the block's head is torn")
            return
        packed_size, raw_size, first_frame, checksum = _BLOCK.unpack_from(data, at)
        start, end = at + _BLOCK.size, at + _BLOCK.size + packed_size
        if end > len(data) or raw_size > _MAX_RAW_BYTES or packed_size == 0:
            report(at, "the block is torn")
            return
        packed = data[start:end]
        if zlib.crc32(packed, zlib.crc32(data[at : at + _BLOCK_HEAD.size])) != checksum:
            report(at, "the block's checksum does not match")
            at = end
            continue
        yield first_frame, unpacker.decompress(packed, max_output_size=raw_size)
        at = end
