"""Block layout and file names of a journal."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

import zstandard

from ingest.journal.records import RecordBatch
from storage.errors import JournalError
from storage.file_lock import lock_file

MAGIC: Final = b"TWJ2"
BLOCK_MARK: Final = b"\xa7TWB"
BLOCK_STRUCT: Final = struct.Struct("<4sIIqI")
BLOCK_HEAD: Final = struct.Struct("<4sIIq")
LENGTH: Final = struct.Struct("<I")
# A longer block is a damaged length: blocks are cut at `BLOCK_BYTES` and one frame is at most 16 MiB.
MAX_RAW_BYTES: Final = 64 * 1024 * 1024
BLOCK_BYTES: Final = 256 * 1024
SUFFIX: Final = ".twj"
LOCK: Final = "lock"


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a segment that are not a whole block: position, length and reason."""

    segment: str
    offset: int
    size_bytes: int
    reason: str


def pack_block(batch: RecordBatch, packer: zstandard.ZstdCompressor) -> bytes:
    """Return the block of a batch: head, checksum, compressed records."""
    raw = batch.to_block()
    packed = packer.compress(raw)
    head = BLOCK_HEAD.pack(BLOCK_MARK, len(packed), len(raw), batch.first)
    return head + LENGTH.pack(zlib.crc32(packed, zlib.crc32(head))) + packed


def hold_recording(folder: Path) -> TextIO:
    """Mark a recording as in use until the handle closes; a dead process holds nothing.

    Raises:
        JournalError: someone else records or replays it now.
    """
    error = JournalError(f"recording {folder.name} is in use", hint="wait until it ends")
    return lock_file(folder / LOCK, error=error)


def segments(folder: Path) -> list[Path]:
    """Return a recording's segments in order."""
    return sorted(folder.glob(f"*{SUFFIX}"))
