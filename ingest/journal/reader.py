"""Journal reader: records in order, with damaged blocks reported and skipped."""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import zstandard

from ingest.journal.format import (
    BLOCK_HEAD,
    BLOCK_MARK,
    BLOCK_STRUCT,
    LENGTH,
    MAGIC,
    MAX_RAW_BYTES,
    Damage,
    segments,
)
from ingest.journal.records import Record, RecordBatch
from storage.errors import JournalError


def read_journal(
    folder: Path,
    *,
    on_damage: Callable[[Damage], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[Record]:
    """Yield the records of a recording one by one; see `read_batches`."""
    for batch in read_batches(folder, on_damage=on_damage, on_bytes=on_bytes):
        yield from batch


def read_batches(
    folder: Path,
    *,
    on_damage: Callable[[Damage], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[RecordBatch]:
    """Yield the records of a recording in order, block by block, over all of its segments.

    Args:
        folder: the recording.
        on_damage: called with bytes that are not a whole block; reading goes on with the next whole block.
        on_bytes: called with the number of bytes read from disk, for a progress bar.

    Raises:
        JournalError: there is no recording, or a segment has another format.
    """
    paths = segments(folder)
    if not paths:
        raise JournalError(
            f"{folder} holds no journal segment", hint="name a folder below the home's journal folder"
        )
    for path in paths:
        yield from _read_segment(path, on_damage, on_bytes)


def find_records(folder: Path, frames: Iterable[int]) -> dict[int, tuple[Path, int, Record]]:
    """Return (segment, offset of its block, record) of frames by their numbers; lost ones are left out.

    The heads of all blocks are read, and only blocks that hold a wanted frame are unpacked.
    """
    wanted, found = sorted(set(frames)), {}
    for path in segments(folder):
        if wanted and path.stat().st_size:
            with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
                for at, batch in _find_blocks(data, wanted):
                    for number in wanted:
                        if batch.first <= number < batch.first + len(batch):
                            found[number] = (path, at, batch.record(number - batch.first))
        wanted = [number for number in wanted if number not in found]
    return found


def last_receipt_ns(folder: Path) -> int:
    """Return the receipt of a recording's last readable record; 0 if there is none.

    The heads of the last segment's blocks are read, and one block is unpacked.
    """
    for path in reversed(segments(folder)):
        if not path.stat().st_size:
            continue
        with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            unpacker = zstandard.ZstdDecompressor()
            for at, _ in reversed(_block_heads(data)):
                block = _read_block(data, at, unpacker)
                if not isinstance(block, str) and len(block[0]):
                    return int(block[0].recv_ns[-1])
    return 0


def _block_heads(data: mmap.mmap) -> list[tuple[int, int]]:
    """Return (offset, number of the first record) of a segment's blocks, whole or not."""
    heads: list[tuple[int, int]] = []
    if len(data) < len(MAGIC) + LENGTH.size:
        return heads
    at = len(MAGIC) + LENGTH.size + LENGTH.unpack_from(data, len(MAGIC))[0]
    while at >= 0 and at + BLOCK_STRUCT.size <= len(data):
        mark, packed_size, _, first, _ = BLOCK_STRUCT.unpack_from(data, at)
        if mark != BLOCK_MARK:
            at = data.find(BLOCK_MARK, at + 1)
            continue
        heads.append((at, first))
        at += BLOCK_STRUCT.size + packed_size
    return heads


def _find_blocks(data: mmap.mmap, wanted: Sequence[int]) -> Iterator[tuple[int, RecordBatch]]:
    """Yield (offset, records) of a segment's blocks that may hold a wanted frame."""
    heads, unpacker = _block_heads(data), zstandard.ZstdDecompressor()
    for (at, first), following in zip_longest(heads, heads[1:]):
        if any(first <= number and (following is None or number < following[1]) for number in wanted):
            block = _read_block(data, at, unpacker)
            if not isinstance(block, str):
                yield at, block[0]


def _read_segment(
    path: Path, on_damage: Callable[[Damage], None] | None, on_bytes: Callable[[int], None] | None
) -> Iterator[RecordBatch]:
    data = path.read_bytes()

    def report(start: int, end: int, reason: str) -> None:
        if on_damage is not None and start < end:
            on_damage(Damage(f"{path.parent.name}/{path.name}", start, end - start, reason))

    if len(data) < len(MAGIC) + LENGTH.size:
        report(0, len(data), "the segment ends within its header")
        return
    if not data.startswith(MAGIC):
        raise JournalError(
            f"{path} is not a journal segment of this version",
            hint=f"a segment begins with {MAGIC.decode()}",
        )
    at = read = len(MAGIC) + LENGTH.size + LENGTH.unpack_from(data, len(MAGIC))[0]
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
) -> tuple[RecordBatch, int] | str:
    """Return the records and the end of the block at an offset, or the reason why there is none."""
    if at + BLOCK_STRUCT.size > len(data):
        return "the block's head is torn"
    mark, packed_size, raw_size, first, checksum = BLOCK_STRUCT.unpack_from(data, at)
    start, end = at + BLOCK_STRUCT.size, at + BLOCK_STRUCT.size + packed_size
    if mark != BLOCK_MARK:
        return "no block begins here"
    if end > len(data) or raw_size > MAX_RAW_BYTES:
        return "the block is torn"
    packed = data[start:end]
    if zlib.crc32(packed, zlib.crc32(data[at : at + BLOCK_HEAD.size])) != checksum:
        return "the block's checksum does not match"
    return RecordBatch.from_block(first, unpacker.decompress(packed, max_output_size=raw_size)), end


def _next_block(data: bytes, at: int, unpacker: zstandard.ZstdDecompressor) -> int:
    """Return the offset of the next whole block, or the end of the data."""
    while (at := data.find(BLOCK_MARK, at)) >= 0:
        if not isinstance(_read_block(data, at, unpacker), str):
            return at
        at += 1
    return len(data)
