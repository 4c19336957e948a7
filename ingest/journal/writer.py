"""How does a frame reach the disk before anything is derived from it?

A recording is a folder of segments. A segment is a header and blocks; a block is a run of records, laid out by
column, compressed with zstd and guarded by a CRC, written at least every `block_ms` and synced (`fdatasync`).
Control records (a connection opened or closed, the clock's ticks) lie in the same order as frames, so that tables
are a pure function of the journal.

    segment  "TWJ2" | u32 header length | header JSON | block...
    block    mark | u32 packed length | u32 raw length | i64 first frame | u32 CRC-32 of these and the rest | packed
    records  u32 count | i64 recv_ns each | u8 kind each | i32 connection each | u32 body length each | bodies

A torn tail (power or `kill -9` in the middle of a write) is read up to its last whole block and reported; after a
damaged block, reading goes on at the next mark whose block is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import zstandard

from ingest.journal.records import Batch, Kind, Record
from storage.code_version import code_version
from storage.errors import JournalError

_MAGIC: Final = b"TWJ2"
_MARK: Final = b"\xa7TWB"
_BLOCK: Final = struct.Struct("<4sIIqI")
_BLOCK_HEAD: Final = struct.Struct("<4sIIq")
_LENGTH: Final = struct.Struct("<I")
# A longer block is a damaged length: blocks are cut at `_BLOCK_BYTES` and one frame is at most 16 MiB.
_MAX_RAW_BYTES: Final = 64 * 1024 * 1024
_BLOCK_BYTES: Final = 256 * 1024
SUFFIX: Final = ".twj"
LOCK: Final = "lock"


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a segment that are no whole block: where, how many, and why."""

    segment: str
    offset: int
    size_bytes: int
    reason: str


class JournalWriter:
    """Appends records to a recording. `extend` belongs to one thread; `sync` may run in another."""

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
        self._pending: list[Batch] = []
        self._pending_bytes = 0
        self._guard = threading.Lock()
        self._writing = threading.Lock()
        self._segment = -1
        self._is_closed = False
        self._handle: int | None = None
        self._written_bytes = 0
        self.total_bytes = 0
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

    def extend(
        self,
        recv_ns: Sequence[int],
        kinds: Sequence[int],
        connections: Sequence[int],
        bodies: Sequence[bytes],
    ) -> Batch:
        """Take records; they are on disk after the next `sync`. A receipt time that falls is raised to its forerunner.

        Raises:
            JournalError: the disk refused an earlier block.
        """
        batch = Batch.made(self.frames, recv_ns, kinds, connections, bodies)
        np.maximum.accumulate(batch.recv_ns, out=batch.recv_ns)
        np.maximum(batch.recv_ns, self.last_recv_ns, out=batch.recv_ns)
        self.frames += len(batch)
        if len(batch):
            self.last_recv_ns = int(batch.recv_ns[-1])
        with self._guard:
            self._pending.append(batch)
            self._pending_bytes += len(batch.data)
        if self._pending_bytes >= _BLOCK_BYTES:
            self._write(sync=False)
        return batch

    def append(self, recv_ns: int, kind: Kind, connection: int, body: bytes) -> Record:
        """Take one record, see `extend`."""
        return self.extend((recv_ns,), (kind,), (connection,), (body,)).record(0)

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
                self._is_closed = True
            self._lock.close()

    def _write(self, *, sync: bool) -> None:
        with self._writing:
            with self._guard:
                pending, self._pending = self._pending, []
                self._pending_bytes = 0
            if self._is_closed and not pending:
                return  # a sync that was under way when the recording ended
            if self._handle is None:
                raise JournalError(f"the journal {self.folder} is closed", hint="see the error that ended it")
            try:
                for batch in _joined(pending):
                    self._put(_block(batch, self._packer))
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
        self.total_bytes += len(data)

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


def _joined(pending: list[Batch]) -> Iterator[Batch]:
    """Yield batches as blocks of about the wanted size."""
    group: list[Batch] = []
    size_bytes = 0
    for batch in pending:
        group.append(batch)
        size_bytes += len(batch.data)
        if size_bytes >= _BLOCK_BYTES:
            yield Batch.join(group)
            group, size_bytes = [], 0
    if group:
        yield Batch.join(group)


def _block(batch: Batch, packer: zstandard.ZstdCompressor) -> bytes:
    raw = batch.packed()
    packed = packer.compress(raw)
    head = _BLOCK_HEAD.pack(_MARK, len(packed), len(raw), batch.first)
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
    """Yield a recording's records one by one; see `read_batches`."""
    for batch in read_batches(folder, on_damage=on_damage, on_bytes=on_bytes):
        yield from batch


def read_batches(
    folder: Path,
    *,
    on_damage: Callable[[Damage], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[Batch]:
    """Yield a recording's records in order, block by block, over all of its segments.

    Args:
        folder: the recording.
        on_damage: is told of bytes that are no whole block; reading goes on with the next whole block or segment.
        on_bytes: is told of bytes read from disk, for a progress bar.

    Raises:
        JournalError: there is no recording, or a segment is of another format.
    """
    paths = segments(folder)
    if not paths:
        raise JournalError(
            f"{folder} holds no journal segment", hint="name a folder below the home's journal folder"
        )
    for path in paths:
        yield from _read_segment(path, on_damage, on_bytes)


def find_records(folder: Path, frames: Iterable[int]) -> dict[int, tuple[Path, int, Record]]:
    """Return (segment, offset of its block, record) of frames by their numbers; a lost one is left out.

    Blocks are walked by their heads, and only those are unpacked that hold one.
    """
    wanted, found = sorted(set(frames)), {}
    for path in segments(folder):
        if wanted:
            with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
                for at, batch in _find_blocks(data, wanted):
                    for number in wanted:
                        if batch.first <= number < batch.first + len(batch):
                            found[number] = (path, at, batch.record(number - batch.first))
        wanted = [number for number in wanted if number not in found]
    return found


def _find_blocks(data: mmap.mmap, wanted: Sequence[int]) -> Iterator[tuple[int, Batch]]:
    """Yield (offset, records) of a segment's blocks that may hold a wanted frame."""
    if len(data) < len(_MAGIC) + _LENGTH.size:
        return
    at = len(_MAGIC) + _LENGTH.size + _LENGTH.unpack_from(data, len(_MAGIC))[0]
    heads: list[tuple[int, int]] = []
    while at >= 0 and at + _BLOCK.size <= len(data):
        mark, packed_size, _, first, _ = _BLOCK.unpack_from(data, at)
        if mark != _MARK:
            at = data.find(_MARK, at + 1)
            continue
        heads.append((at, first))
        at += _BLOCK.size + packed_size
    unpacker = zstandard.ZstdDecompressor()
    for (at, first), following in zip_longest(heads, heads[1:]):
        if any(first <= number and (following is None or number < following[1]) for number in wanted):
            block = _read_block(data, at, unpacker)
            if not isinstance(block, str):
                yield at, block[0]


def _read_segment(
    path: Path, on_damage: Callable[[Damage], None] | None, on_bytes: Callable[[int], None] | None
) -> Iterator[Batch]:
    data = path.read_bytes()

    def report(start: int, end: int, reason: str) -> None:
        if on_damage is not None and start < end:
            on_damage(Damage(f"{path.parent.name}/{path.name}", start, end - start, reason))

    if len(data) < len(_MAGIC) + _LENGTH.size:
        report(0, len(data), "the segment ends within its header")
        return
    if not data.startswith(_MAGIC):
        raise JournalError(
            f"{path} is not a journal segment of this version",
            hint=f"a segment begins with {_MAGIC.decode()}",
        )
    at = read = len(_MAGIC) + _LENGTH.size + _LENGTH.unpack_from(data, len(_MAGIC))[0]
    if at > len(data):
        report(0, len(data), "the segment ends within its header")
    unpacker = zstandard.ZstdDecompressor()
    while at < len(data):
        block = _read_block(data, at, unpacker)
        if isinstance(block, str):
            following = _next_block(data, at + 1, unpacker)
            report(at, following, block)
            at = following
            continue
        yield block[0]
        at = block[1]
        if on_bytes is not None:
            on_bytes(at - read)
            read = at


def _read_block(
    data: bytes | mmap.mmap, at: int, unpacker: zstandard.ZstdDecompressor
) -> tuple[Batch, int] | str:
    """Return the records of the block at an offset and where it ends, or why there is none."""
    if at + _BLOCK.size > len(data):
        return "the block's head is torn"
    mark, packed_size, raw_size, first, checksum = _BLOCK.unpack_from(data, at)
    start, end = at + _BLOCK.size, at + _BLOCK.size + packed_size
    if mark != _MARK:
        return "no block begins here"
    if end > len(data) or raw_size > _MAX_RAW_BYTES:
        return "the block is torn"
    packed = data[start:end]
    if zlib.crc32(packed, zlib.crc32(data[at : at + _BLOCK_HEAD.size])) != checksum:
        return "the block's checksum does not match"
    return Batch.unpacked(first, unpacker.decompress(packed, max_output_size=raw_size)), end


def _next_block(data: bytes, at: int, unpacker: zstandard.ZstdDecompressor) -> int:
    """Return the offset of the next whole block, or the end of the data."""
    while (at := data.find(_MARK, at)) >= 0:
        if not isinstance(_read_block(data, at, unpacker), str):
            return at
        at += 1
    return len(data)
