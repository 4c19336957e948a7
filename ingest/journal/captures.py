"""Reader of recorded captures.

Two formats are known: one JSON object a line, `{"recv_ns": int, "msg": <the frame>}`, and the bare form
`<recv_ns> <the frame>`. Either may be gzipped. The frame's bytes are passed on as they stand in the file.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from storage.errors import CaptureError

# A receipt time outside these years is in another unit or has lost a digit.
_FIRST_NS: Final = 1_262_304_000_000_000_000  # 2010
_LAST_NS: Final = 4_102_444_800_000_000_000  # 2100
_GZIP: Final = zlib.MAX_WBITS | 16
_CHUNK_BYTES: Final = 1 << 18
_STATED: Final = re.compile(rb'(?:\s*\{\s*"recv_ns"\s*:\s*)?(\d{19})\b')


class _Line(msgspec.Struct):
    recv_ns: int
    msg: msgspec.Raw


@dataclass(frozen=True, slots=True)
class BadCaptureLine:
    """A line that is not a frame.

    Args:
        number: of the line, from 1.
        raw: its bytes.
        reason: why it is not a frame.
        recv_ns: receipt time of the frame before it.
        until_ns: the latest that it can have been received.
    """

    number: int
    raw: bytes
    reason: str
    recv_ns: int = 0
    until_ns: int = 0


class ParsedLine(NamedTuple):
    """A line of a capture: a frame, or the reason why it is none.

    `offset` counts bytes of the unpacked file, `recv_ns` is 0 for a bad line, whose bytes are then the `body`.
    """

    number: int
    offset: int
    recv_ns: int
    body: bytes
    reason: str


def read_capture(
    path: Path,
    *,
    on_bad: Callable[[BadCaptureLine], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, bytes]]:
    """Yield `(recv_ns, frame)` from a capture, in file order; see `ingest.journal.capture_order` for order of receipt.

    Args:
        path: the file, plain or gzipped.
        on_bad: called with each line that is not a frame; without it the first one is an error.
        on_bytes: called with the number of bytes read from disk, for a progress bar.

    Raises:
        CaptureError: the file cannot be read, holds no frame, or has a bad line without `on_bad`.
    """
    frames = 0
    for line in parse_lines(path, on_bytes=on_bytes):
        if not line.reason:
            frames += 1
            yield line.recv_ns, line.body
            continue
        bad = BadCaptureLine(line.number, line.body, line.reason)
        if on_bad is None:
            raise CaptureError(bad.reason, hint="see data formats in docs/tutorial.md")
        on_bad(bad)


def parse_lines(
    path: Path,
    *,
    start: ParsedLine | None = None,
    stop: int | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[ParsedLine]:
    """Yield the lines of a capture in file order.

    Args:
        path: the file, plain or gzipped.
        start: the first line to yield; the first of the file by default.
        stop: end before the line that begins at this offset; at the end of the file by default.
        on_bytes: called with the number of bytes read from disk.

    Raises:
        CaptureError: the file cannot be read, or holds no frame.
    """
    decode = msgspec.json.Decoder(_Line).decode
    number, offset = (start.number, start.offset) if start else (1, 0)
    frames = 0
    first_bad = ""
    try:
        for line in _lines(path, offset, on_bytes):
            if stop is not None and offset >= stop:
                return
            at, offset = offset, offset + len(line) + 1
            number += 1
            if not line.strip():
                continue
            try:
                recv_ns, frame = _parse(decode, line)
            except (ValueError, msgspec.MsgspecError, RecursionError) as error:
                reason = f"line {number - 1} of {path.name} is no frame: {error}"
                first_bad = first_bad or reason
                yield ParsedLine(number - 1, at, 0, line.rstrip(b"\r\n"), reason)
                # A file whose every line so far is bad is some other kind of file, not a damaged capture.
                if frames == 0 and number > 20 and start is None:
                    break
                continue
            frames += 1
            yield ParsedLine(number - 1, at, recv_ns, frame, "")
    except (EOFError, zlib.error) as error:
        if frames == 0 and start is None:
            raise CaptureError(
                f"{path} is not a whole gzip file: {error}", hint="copy or record it again"
            ) from error
        reason = f"{path.name} ends in the middle of its gzip stream: {error}"
        yield ParsedLine(number, offset, 0, b"", reason)
    if frames == 0 and start is None:
        raise CaptureError(
            f"{path} holds no frame{f': {first_bad}' if first_bad else ''}",
            hint='a capture has lines like {"recv_ns": 1757015216673878000, "msg": {..}}, or that number and {..}',
        )


def stated_recv_ns(line: bytes) -> int:
    """Return the receipt time that a line states although it is no frame; 0 if none can be read."""
    found = _STATED.match(line)
    return int(found[1]) if found else 0


def content_id(path: Path) -> str:
    """Return the first 16 hex digits of the file's SHA-256, which name its recording."""
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()[:16]
    except OSError as error:
        raise CaptureError(f"{path} cannot be read: {error.strerror}", hint="check the path") from error


def _parse(decode: Callable[[bytes], _Line], line: bytes) -> tuple[int, bytes]:
    if line[:1] == b"{":
        item = decode(line)
        recv_ns, frame = item.recv_ns, bytes(item.msg)
    else:
        stamp, frame = line.rstrip(b"\r\n").split(b" ", 1)
        recv_ns = int(stamp)
    if not _FIRST_NS <= recv_ns < _LAST_NS:
        raise ValueError(f"{recv_ns} is no receipt time in nanoseconds since 1970")
    return recv_ns, frame


def _lines(path: Path, offset: int, on_bytes: Callable[[int], None] | None) -> Iterator[bytes]:
    """Yield lines without their end; of a truncated gzip stream all whole lines, then `EOFError`."""
    rest = b""
    try:
        for chunk in _chunks(path, offset, on_bytes):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
    except EOFError:
        yield rest
        raise
    yield rest


def _chunks(path: Path, offset: int, on_bytes: Callable[[int], None] | None) -> Iterator[bytes]:
    """Yield the unpacked file from an offset on."""
    with path.open("rb") as raw:
        is_gzip = raw.read(2) == b"\x1f\x8b"
        raw.seek(0 if is_gzip else offset)
        unpack = zlib.decompressobj(_GZIP)
        while packed := raw.read(_CHUNK_BYTES):
            if on_bytes is not None:
                on_bytes(len(packed))
            if not is_gzip:
                yield packed
                continue
            while packed:
                plain = unpack.decompress(packed)
                yield plain[offset:]
                offset = max(offset - len(plain), 0)
                packed = unpack.unused_data
                if packed:  # a gzip file may be several streams, one after another
                    unpack = zlib.decompressobj(_GZIP)
        if is_gzip and not unpack.eof:
            raise EOFError("the stream ends before its end mark")
