"""Rows of a batch whose key an earlier row has: equal repeats, and contradictions.

The first row of a key wins, in the order of the batch. A row that breaks another rule claims no key.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage.contracts.contract import Contract

CONTRADICTION: Final = "key is unique in its batch: an earlier row has it, with other values"


def repeated_rows(
    contract: Contract, batch: pa.Table, refused: Collection[int]
) -> tuple[list[int], list[int]]:
    """Return the rows that repeat an earlier row of their key: those equal to it, and those with other values.

    Args:
        contract: of the table.
        batch: typed.
        refused: indices of rows that break another rule.
    """
    rows = np.ones(batch.num_rows, np.bool_)
    rows[list(refused)] = False
    again, first = _repeats(batch, contract.key, np.flatnonzero(rows))
    if not again.size:
        return [], []
    content = batch.select(list(contract.content))
    mine, theirs = content.take(again).to_pylist(), content.take(first).to_pylist()
    equal: list[int] = []
    other: list[int] = []
    for row, a, b in zip(again.tolist(), mine, theirs, strict=True):
        (equal if all(_is_same(a[name], b[name]) for name in a) else other).append(row)
    return sorted(equal), sorted(other)


def _repeats(
    batch: pa.Table, key: Sequence[str], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows whose key an earlier one of `rows` has, and the first row with each of these keys."""
    if rows.size < 2:
        return rows[:0], rows[:0]
    codes = [_codes(batch[name])[rows] for name in key]
    order = np.lexsort(codes[::-1])  # stable, so rows of one key keep their order
    begins = np.ones(rows.size, np.bool_)
    begins[1:] = np.any([code[order][1:] != code[order][:-1] for code in codes], axis=0)
    firsts = np.maximum.accumulate(np.where(begins, np.arange(rows.size), 0))
    return rows[order[~begins]], rows[order[firsts[~begins]]]


def _codes(values: pa.ChunkedArray[Any]) -> NDArray[np.int64]:
    """Return a number for each value, equal for equal values."""
    encoded: Any = values.combine_chunks().dictionary_encode()
    return np.asarray(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)


def _is_same(a: object, b: object) -> bool:
    return a == b or (a != a and b != b)
