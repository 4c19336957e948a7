"""Reader of recorded captures.

Two formats are known: one JSON object a line, `{"recv_ns": int, "msg": <the frame>}`, and the bare form
`<recv_ns> <the frame>`. Either may be gzipped. The frame's bytes are passed on as they stand in the file.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from storage.errors import CaptureError

# A receipt time outside these years is in another unit or has lost a digit.
_FIRST_NS: Final = 1_262_304_000_000_000_000  # 2010
_LAST_NS: Final = 4_102_444_800_000_000_000  # 2100
_GZIP: Final = zlib.MAX_WBITS | 16
_CHUNK_BYTES: Final = 1 << 18


class _Line(msgspec.Struct):
    recv_ns: int
    msg: msgspec.Raw


@dataclass(frozen=True, slots=True)
class BadCaptureLine:
    """A line that is not a frame: its number from 1, its bytes, and the reason."""

    number: int
    raw: bytes
    reason: str


def read_capture(
    path: Path,
    *,
    on_bad: Callable[[BadCaptureLine], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, bytes]]:
    """Yield `(recv_ns, frame)` from a capture, in file order.

    Args:
        path: the file, plain or gzipped.
        on_bad: called with each line that is not a frame; without it the first one is an error.
        on_bytes: called with the number of bytes read from disk, for a progress bar.

    Raises:
        CaptureError: the file cannot be read, holds no frame, or has a bad line without `on_bad`.
    """
    decode = msgspec.json.Decoder(_Line).decode
    frames = 0
    first_bad: BadCaptureLine | None = None
    try:
        for number, line in enumerate(_lines(path, on_bytes), start=1):
            if not line.strip():
                continue
            try:
                if line[:1] == b"{":
                    item = decode(line)
                    recv_ns, frame = item.recv_ns, bytes(item.msg)
                else:
                    stamp, frame = line.rstrip(b"\r\n").split(b" ", 1)
                    recv_ns = int(stamp)
                if not _FIRST_NS <= recv_ns < _LAST_NS:
                    raise ValueError(f"{recv_ns} is no receipt time in nanoseconds since 1970")
            except (ValueError, msgspec.MsgspecError) as error:
                bad = BadCaptureLine(
                    number, line.rstrip(b"\r\n"), f"line {number} of {path.name} is no frame: {error}"
                )
                if on_bad is None:
                    raise CaptureError(bad.reason, hint="see data formats in docs/tutorial.md") from error
                first_bad = first_bad or bad
                on_bad(bad)
                # A file whose every line so far is bad is some other kind of file, not a damaged capture.
                if frames == 0 and number >= 20:
                    break
                continue
            frames += 1
            yield recv_ns, frame
    except (EOFError, zlib.error) as error:
        if on_bad is None or frames == 0:
            raise CaptureError(
                f"{path} is not a whole gzip file: {error}", hint="copy or record it again"
            ) from error
        on_bad(BadCaptureLine(frames + 1, b"", f"{path.name} ends in the middle of its gzip stream: {error}"))
    if frames == 0:
        because = f": {first_bad.reason}" if first_bad else ""
        raise CaptureError(
            f"{path} holds no frame{because}",
            hint='a capture has lines like {"recv_ns": 1757015216673878000, "msg": {..}}, or that number and {..}',
        )


def content_id(path: Path) -> str:
    """Return the first 16 hex digits of the file's SHA-256, which name its recording."""
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()[:16]
    except OSError as error:
        raise CaptureError(f"{path} cannot be read: {error.strerror}", hint="check the path") from error


def _lines(path: Path, on_bytes: Callable[[int], None] | None) -> Iterator[bytes]:
    """Yield lines without their end; of a truncated gzip stream all whole lines, then `EOFError`."""
    rest = b""
    try:
        for chunk in _chunks(path, on_bytes):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
    except EOFError:
        yield rest
        raise
    yield rest


def _chunks(path: Path, on_bytes: Callable[[int], None] | None) -> Iterator[bytes]:
    with path.open("rb") as raw:
        is_gzip = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        unpack = zlib.decompressobj(_GZIP)
        while packed := raw.read(_CHUNK_BYTES):
            if on_bytes is not None:
                on_bytes(len(packed))
            if not is_gzip:
                yield packed
                continue
            while packed:
                yield unpack.decompress(packed)
                packed = unpack.unused_data
                if packed:  # a gzip file may be several streams, one after another
                    unpack = zlib.decompressobj(_GZIP)
        if is_gzip and not unpack.eof:
            raise EOFError("the stream ends before its end mark")
