"""Buffer of one bar's prints, kept until the bar can no longer change.

Prints are added one by one as rows, or many at once as columns; both aggregate to the same bar. A published bar keeps
its prints as one array of 33 bytes each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

PRINT: Final = np.dtype([("ts_ns", "i8"), ("order", "i8"), ("price", "f8"), ("size", "f8"), ("side", "i1")])

Row = tuple[int, int, float, float, int]
"""(ts_ns, order of receipt, price, size, side code)"""

Chunk = NDArray[Any]
"""(m,) of `PRINT`."""


class TradeBuffer:
    """Prints in any order."""

    __slots__ = ("_chunks", "_rows")

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._rows: list[Row] = list(rows)
        self._chunks: list[Chunk] = []

    def __len__(self) -> int:
        return len(self._rows) + sum(map(len, self._chunks))

    def add(self, row: Row) -> None:
        """Add one print."""
        self._rows.append(row)

    def extend(self, chunk: Chunk) -> None:
        """Add many prints."""
        self._chunks.append(chunk)

    def array(self) -> Chunk:
        """Return all prints as one array, and store them as that array."""
        if self._rows:
            self._chunks.append(np.array(self._rows, PRINT))
            self._rows = []
        if len(self._chunks) != 1:
            self._chunks = [np.concatenate(self._chunks) if self._chunks else np.empty(0, PRINT)]
        elif self._chunks[0].base is not None:
            self._chunks[0] = self._chunks[0].copy()  # a slice would keep its whole batch in memory
        return self._chunks[0]


def sorted_columns(groups: Sequence[TradeBuffer]) -> tuple[NDArray[np.int64], Chunk]:
    """Return the group index of each print, rising, and the prints; within a group by time, then by receipt."""
    chunks = [group.array() for group in groups]
    group = np.repeat(np.arange(len(chunks), dtype=np.int64), [len(chunk) for chunk in chunks])
    prints = np.concatenate(chunks) if chunks else np.empty(0, PRINT)
    by_time = np.lexsort((prints["order"], prints["ts_ns"], group))
    return group, prints[by_time]
