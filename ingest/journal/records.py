"""Journal records, and batches of records by column."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

_LENGTH: Final = struct.Struct("<I")


class RecordKind(enum.IntEnum):
    """Kinds of records."""

    FRAME = 1
    """Bytes as received from a socket."""
    OPENED = 2
    """A connection was opened; the body is its address."""
    CLOSED = 3
    """A connection was lost; the body is the cause."""
    CLOCK = 4
    """The clock reached a tick while nothing else arrived."""
    STARTED = 5
    """A recording began; the body is JSON about it."""
    STOPPED = 6
    """A recording ended on purpose."""
    ANSWER = 7
    """A REST answer; the body is JSON with `request`, `response` and `asked_ns`."""
    HELD = 8
    """Streams continued from an earlier recording: JSON list of (connection, channel, instrument, since in ns)."""
    REFUSED = 9
    """A line of a capture that is no frame: JSON with `source`, `reason` and `until_ns`, a line feed, and its bytes."""


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of a journal.

    Args:
        frame: number within the recording, from 0.
        recv_ns: receipt time; never falls within a recording.
        kind: see `RecordKind`.
        connection: number of the connection within the recording; -1 for none.
        body: raw bytes.
    """

    frame: int
    recv_ns: int
    kind: RecordKind
    connection: int
    body: bytes


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Consecutive records of one recording, by column.

    Args:
        first: the number of the first record.
        recv_ns: (n,) int64, never falling.
        kinds: (n,) uint8, see `RecordKind`.
        connections: (n,) int32.
        ends: (n + 1,) int64: record `i` is `data[ends[i]:ends[i + 1]]`.
        data: the bodies, one after another.
    """

    first: int
    recv_ns: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    connections: NDArray[np.int32]
    ends: NDArray[np.int64]
    data: bytes

    def __len__(self) -> int:
        return len(self.recv_ns)

    def body(self, i: int) -> bytes:
        """Return the bytes of record `i`."""
        return self.data[self.ends[i] : self.ends[i + 1]]

    def record(self, i: int) -> Record:
        """Return record `i`."""
        kind = RecordKind(int(self.kinds[i]))
        return Record(self.first + i, int(self.recv_ns[i]), kind, int(self.connections[i]), self.body(i))

    def __iter__(self) -> Iterator[Record]:
        for i in range(len(self)):
            yield self.record(i)

    @classmethod
    def of(cls, records: Sequence[Record]) -> Self:
        """Return a batch of consecutive records."""
        return cls.from_columns(
            records[0].frame if records else 0,
            [record.recv_ns for record in records],
            [record.kind for record in records],
            [record.connection for record in records],
            [record.body for record in records],
        )

    @classmethod
    def from_columns(
        cls,
        first: int,
        recv_ns: Sequence[int],
        kinds: Sequence[int],
        connections: Sequence[int],
        bodies: Sequence[bytes],
    ) -> Self:
        """Return a batch from columns of equal length."""
        ends = np.zeros(len(bodies) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, bodies), np.int64, len(bodies)), out=ends[1:])
        return cls(
            first,
            np.array(recv_ns, np.int64),
            np.array(kinds, np.uint8),
            np.array(connections, np.int32),
            ends,
            b"".join(bodies),
        )

    def to_block(self) -> bytes:
        """Return the records in the layout of a block."""
        sizes = np.diff(self.ends).astype("<u4")
        columns = (self.recv_ns.astype("<i8"), self.kinds, self.connections.astype("<i4"), sizes)
        return b"".join((_LENGTH.pack(len(self)), *(column.tobytes() for column in columns), self.data))

    @classmethod
    def from_block(cls, first: int, raw: bytes) -> Self:
        """Return the records of a block.

        Raises:
            ValueError: the columns do not fit the bytes.
        """
        (count,) = _LENGTH.unpack_from(raw)
        at = _LENGTH.size
        columns = []
        for kind in ("<i8", "u1", "<i4", "<u4"):
            columns.append(np.frombuffer(raw, kind, count, at))
            at += columns[-1].nbytes
        ends = np.zeros(count + 1, np.int64)
        np.cumsum(columns[3], out=ends[1:])
        if at + ends[-1] != len(raw):
            raise ValueError(f"{len(raw) - at} bytes of bodies, not {ends[-1]}")
        return cls(first, columns[0], columns[1], columns[2], ends, raw[at:])

    @classmethod
    def join(cls, group: Sequence[RecordBatch]) -> RecordBatch:
        """Return consecutive batches as one."""
        if len(group) == 1:
            return group[0]
        starts = np.cumsum([0, *(len(batch.data) for batch in group)])
        return RecordBatch(
            group[0].first,
            np.concatenate([batch.recv_ns for batch in group]),
            np.concatenate([batch.kinds for batch in group]),
            np.concatenate([batch.connections for batch in group]),
            np.concatenate(
                [[0], *(batch.ends[1:] + start for batch, start in zip(group, starts[:-1], strict=True))]
            ),
            b"".join([batch.data for batch in group]),
        )
