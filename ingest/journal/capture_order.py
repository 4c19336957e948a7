"""Captures in order of receipt: pieces that were joined in the wrong order are merged, and no receipt time is moved.

A capture is read twice. The first pass finds its pieces: where receipt times step back by more than `JITTER_NS`, a new
one begins. The second merges the pieces, each of which is read by itself, so memory is bounded whatever the file's
size. Smaller steps back, as in a file to which several sockets write, are sorted within a window of that length.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Final

from ingest.journal.captures import BadCaptureLine, ParsedLine, parse_lines, stated_recv_ns
from storage.clock import DAY_NS, NS
from storage.errors import CaptureError

JITTER_NS: Final = 5 * NS
"""Limit of a step back within a piece: messages of several sockets overtake each other by up to 5 s."""
MOST_PIECES: Final = 64
"""Each is read through a buffer of its own, and a gzipped file once for each."""
_MOST_PENDING: Final = 4_096


@dataclass(frozen=True, slots=True)
class CaptureFrame:
    """A frame of a capture and its receipt time."""

    recv_ns: int
    body: bytes


CaptureItem = CaptureFrame | BadCaptureLine


@dataclass(slots=True)
class _Piece:
    """Consecutive lines of a capture, from `start` up to the line that begins at `stop`."""

    start: ParsedLine
    stop: int | None = None
    newest_ns: int = 0
    is_sorted: bool = True


def read_in_order(path: Path, *, on_bytes: Callable[[int], None] | None = None) -> Iterator[CaptureItem]:
    """Yield the frames of a capture in order of receipt, and the lines that are no frames where they stood.

    Frames of equal receipt time keep their order in the file. A single line whose receipt time lies a day and more
    away from the lines on both of its sides, which agree with each other, is a bad line.

    Args:
        path: the file, plain or gzipped.
        on_bytes: called with the number of bytes read from disk, for a progress bar.

    Raises:
        CaptureError: the file cannot be read, holds no frame, or consists of too many pieces.
    """
    pieces, strays = _find_pieces(path)
    # Of several readers the last reads to the end of the file: its progress stands for all.
    readers = [
        _read_piece(path, piece, strays, on_bytes if piece is pieces[-1] else None) for piece in pieces
    ]
    yield from readers[0] if len(readers) == 1 else heapq.merge(*readers, key=attrgetter("recv_ns"))


def frames_in_order(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield `(recv_ns, frame)` of a capture in order of receipt; a bad line is an error. See `read_in_order`.

    Raises:
        CaptureError: as `read_in_order`, or a line is not a frame.
    """
    for item in read_in_order(path):
        if isinstance(item, BadCaptureLine):
            raise CaptureError(item.reason, hint="see data formats in docs/tutorial.md")
        yield item.recv_ns, item.body


def _find_pieces(path: Path) -> tuple[list[_Piece], dict[int, str]]:
    """Return the pieces of a capture in file order, and by their number the lines with a stray receipt time."""
    pieces: list[_Piece] = []
    strays: dict[int, str] = {}
    first_step = ""
    before_ns = 0
    for line, after_ns, bad in _with_next(parse_lines(path)):
        if before_ns and after_ns and _is_stray(before_ns, line.recv_ns, after_ns):
            strays[line.number] = _stray_reason(path, line, before_ns)
            continue
        before_ns = line.recv_ns
        if not pieces or line.recv_ns < pieces[-1].newest_ns - JITTER_NS:
            start = line
            if pieces:
                step_s = (pieces[-1].newest_ns - line.recv_ns) / NS
                first_step = first_step or f"line {line.number} steps back {step_s:.3f} s"
                start = _first_of_piece(line, bad, pieces[-1].newest_ns)
                pieces[-1].stop = start.offset
            pieces.append(_Piece(start))
        piece = pieces[-1]
        piece.is_sorted &= line.recv_ns >= piece.newest_ns
        piece.newest_ns = max(piece.newest_ns, line.recv_ns)
        if len(pieces) > MOST_PIECES:
            raise CaptureError(
                f"receipt times in {path.name} step back more than {MOST_PIECES - 1} times; {first_step}",
                hint="sort its lines by receipt time, or replay the files that it was joined from one by one",
            )
    # Bad lines before the first frame belong to the first piece.
    pieces[0].start = pieces[0].start._replace(number=1, offset=0)
    return pieces, strays


def _first_of_piece(line: ParsedLine, bad: Iterable[ParsedLine], newest_ns: int) -> ParsedLine:
    """Return the line with which a piece begins: a bad line before its first frame that states a time near it."""
    for other in bad:
        stated_ns = stated_recv_ns(other.body)
        if stated_ns and abs(stated_ns - line.recv_ns) < abs(stated_ns - newest_ns):
            return other
    return line


def _stray_reason(path: Path, line: ParsedLine, before_ns: int) -> str:
    off_s = (line.recv_ns - before_ns) / NS
    return (
        f"line {line.number} of {path.name} is no frame: its receipt time {line.recv_ns} lies {abs(off_s):.3f} s "
        f"{'after' if off_s > 0 else 'before'} those of the lines around it"
    )


def _is_stray(before_ns: int, at_ns: int, after_ns: int) -> bool:
    is_off = at_ns > after_ns + DAY_NS or at_ns < before_ns - DAY_NS
    return is_off and after_ns >= before_ns - JITTER_NS


def _with_next(lines: Iterable[ParsedLine]) -> Iterator[tuple[ParsedLine, int, list[ParsedLine]]]:
    """Yield each frame, the receipt time of the next one (0 after the last), and the bad lines just before it."""
    frame: ParsedLine | None = None
    bad: list[ParsedLine] = []
    bad_before: list[ParsedLine] = []
    for line in lines:
        if line.reason:
            if len(bad) < _MOST_PENDING:
                bad.append(line)
            continue
        if frame is not None:
            yield frame, line.recv_ns, bad_before
        frame, bad_before, bad = line, bad, []
    if frame is not None:
        yield frame, 0, bad_before


def _read_piece(
    path: Path, piece: _Piece, strays: dict[int, str], on_bytes: Callable[[int], None] | None
) -> Iterator[CaptureItem]:
    lines = parse_lines(path, start=piece.start, stop=piece.stop, on_bytes=on_bytes)
    items = _place(lines, strays)
    return items if piece.is_sorted else _sort_within(items)


def _place(lines: Iterable[ParsedLine], strays: dict[int, str]) -> Iterator[CaptureItem]:
    """Yield frames, and between them bad lines with the receipt times between which they came."""
    last_ns = 0
    pending: list[BadCaptureLine] = []
    for line in lines:
        reason = line.reason or strays.get(line.number, "")
        if reason:
            pending.append(BadCaptureLine(line.number, line.body, reason))
            if len(pending) < _MOST_PENDING or not last_ns:
                continue
            yield from _placed(pending, last_ns, last_ns + JITTER_NS)
        else:
            yield from _placed(pending, last_ns or line.recv_ns, line.recv_ns)
            last_ns = line.recv_ns
            yield CaptureFrame(line.recv_ns, line.body)
        pending.clear()
    yield from _placed(pending, last_ns, last_ns + JITTER_NS)


def _placed(lines: Iterable[BadCaptureLine], last_ns: int, next_ns: int) -> Iterator[BadCaptureLine]:
    for line in lines:
        stated_ns = stated_recv_ns(line.raw)
        until_ns = stated_ns if last_ns <= stated_ns <= next_ns else max(last_ns, next_ns)
        yield BadCaptureLine(line.number, line.raw, line.reason, last_ns, until_ns)


def _sort_within(items: Iterable[CaptureItem]) -> Iterator[CaptureItem]:
    """Yield the items of a piece in order of receipt; none is more than `JITTER_NS` behind one before it."""
    waiting: list[tuple[int, int, CaptureItem]] = []
    newest_ns = 0
    for number, item in enumerate(items):
        newest_ns = max(newest_ns, item.recv_ns)
        heapq.heappush(waiting, (item.recv_ns, number, item))
        while waiting[0][0] <= newest_ns - JITTER_NS:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]
