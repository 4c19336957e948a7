"""Journal writer: a frame is on disk before anything is derived from it.

A recording is a folder of segments. A segment is a header and blocks; a block is a run of records, laid out by
column, compressed with zstd and guarded by a CRC, written at least every `block_ms` and synced (`fdatasync`).
Control records (a connection opened or closed, clock ticks) lie in the same order as frames, so that tables
are a pure function of the journal.

    segment  "TWJ2" | u32 header length | header JSON | block...
    block    mark | u32 packed length | u32 raw length | i64 first frame | u32 CRC-32 of these and the rest | packed
    records  u32 count | i64 recv_ns each | u8 kind each | i32 connection each | u32 body length each | bodies

A torn tail (power loss or `kill -9` during a write) is read up to its last whole block and reported; after a
damaged block, reading goes on at the next mark whose block is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import zstandard

from ingest.journal.format import (
    BLOCK_BYTES,
    LENGTH,
    MAGIC,
    SUFFIX,
    hold_recording,
    pack_block,
)
from ingest.journal.records import Record, RecordBatch, RecordKind
from storage.atomic_write import sync
from storage.code_version import code_version
from storage.errors import JournalError
from storage.system_calls import sync_data


class JournalWriter:
    """Append records to a recording. `extend` belongs to one thread; `sync` may run in another."""

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
        self._pending: list[RecordBatch] = []
        self._pending_bytes = 0
        self._pending_lock = threading.Lock()
        self._write_lock = threading.Lock()
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
    ) -> RecordBatch:
        """Append records; they are on disk after the next `sync`. A falling receipt time is raised to the previous one.

        Raises:
            JournalError: the disk refused an earlier block.
        """
        batch = RecordBatch.from_columns(self.frames, recv_ns, kinds, connections, bodies)
        np.maximum.accumulate(batch.recv_ns, out=batch.recv_ns)
        np.maximum(batch.recv_ns, self.last_recv_ns, out=batch.recv_ns)
        self.frames += len(batch)
        if len(batch):
            self.last_recv_ns = int(batch.recv_ns[-1])
        with self._pending_lock:
            self._pending.append(batch)
            self._pending_bytes += len(batch.data)
        if self._pending_bytes >= BLOCK_BYTES:
            self._write(sync=False)
        return batch

    def append(self, recv_ns: int, kind: RecordKind, connection: int, body: bytes) -> Record:
        """Append one record; see `extend`."""
        return self.extend((recv_ns,), (kind,), (connection,), (body,)).record(0)

    def sync(self) -> None:
        """Write pending records and wait until the disk has them.

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
        with self._write_lock:
            with self._pending_lock:
                pending, self._pending = self._pending, []
                self._pending_bytes = 0
            if self._is_closed and not pending:
                return  # a sync that was in progress when the recording ended
            if self._handle is None:
                raise JournalError(f"the journal {self.folder} is closed", hint="see the error that ended it")
            try:
                for batch in _blocks_of(pending):
                    self._write_bytes(pack_block(batch, self._packer))
                if sync:
                    sync_data(self._handle)
                if self._written_bytes >= self._segment_bytes:
                    sync_data(self._handle)
                    full, self._handle = self._handle, None
                    os.close(full)
                    self._open_segment()
            except OSError as error:
                self._abandon()
                raise JournalError(
                    f"the journal cannot be written: {error.strerror}",
                    hint=f"free space or mend {self.folder}",
                ) from error

    def _write_bytes(self, data: bytes) -> None:
        assert self._handle is not None
        view = memoryview(data)
        while view:
            view = view[os.write(self._handle, view) :]
        self._written_bytes += len(data)
        self.total_bytes += len(data)

    def _abandon(self) -> None:
        """Truncate a half-written block after a refused write, and close the segment to further writes."""
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        with contextlib.suppress(OSError):  # if it cannot be truncated it is read as a torn tail
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
        self._write_bytes(MAGIC + LENGTH.pack(len(header)) + header)
        sync(self.folder)


def _blocks_of(pending: list[RecordBatch]) -> Iterator[RecordBatch]:
    """Yield batches as blocks of about the wanted size."""
    group: list[RecordBatch] = []
    size_bytes = 0
    for batch in pending:
        group.append(batch)
        size_bytes += len(batch.data)
        if size_bytes >= BLOCK_BYTES:
            yield RecordBatch.join(group)
            group, size_bytes = [], 0
    if group:
        yield RecordBatch.join(group)
