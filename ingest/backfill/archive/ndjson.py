"""Reader of NDJSON pieces: decoded at once if possible, else line by line with the bad lines named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MalformedLine:
    """A line that does not fit its layout, and the reason."""

    object: int
    line: int
    raw: bytes
    reason: str


class NdjsonReader(Generic[T]):
    """Reader of lines of one layout."""

    def __init__(self, kind: Any) -> None:
        self._decoder = msgspec.json.Decoder(kind, strict=False)

    def read(
        self, piece: bytes, object_number: int, first_line: int
    ) -> tuple[list[T], NDArray[Any], list[MalformedLine], int]:
        """Return (items, their line numbers, malformed lines, next line number) of a piece."""
        try:
            items: list[T] = self._decoder.decode_lines(piece)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return self._read_by_line(piece, object_number, first_line)
        count = len(items)
        return items, np.arange(first_line, first_line + count), [], first_line + count

    def _read_by_line(
        self, piece: bytes, object_number: int, first_line: int
    ) -> tuple[list[T], NDArray[Any], list[MalformedLine], int]:
        items: list[T] = []
        numbers: list[int] = []
        bad: list[MalformedLine] = []
        lines = [line for line in piece.split(b"\n") if line.strip()]
        for number, line in enumerate(lines, first_line):
            try:
                items.append(self._decoder.decode(line))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                bad.append(
                    MalformedLine(object_number, number, line, f"the line does not fit its layout: {error}")
                )
            else:
                numbers.append(number)
        return items, np.array(numbers, np.int64), bad, first_line + len(lines)
