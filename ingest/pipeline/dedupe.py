"""Trade deduplication: detects prints that were resent, or that came on two sockets.

The venue's key is (instrument, time, tid): `tid` alone recurs, and the hash is shared by many prints of one
transaction. After every subscription the venue resends its most recent prints, and a twin socket sends each of
them again, so a print is identified by its key and never by its position.

Memory is a ring of prints with an open-addressed hash table (numba). It grows while prints younger than `horizon_ns`
would be evicted, and always keeps the newest of each instrument, since a quiet coin's resent prints may be hours
old. Older duplicates are caught by the tables' own key.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from storage.clock import NS
from storage.jit import compiled

NEW: Final = 0
SEEN: Final = 1
CONFLICT: Final = 2

# The venue resends 30 prints; a socket that lags behind its twin repeats what the twin has sent since.
KEPT: Final = 64
_FIRST_PRINTS: Final = 1 << 14
_MOST_PRINTS: Final = 1 << 23

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Codes = NDArray[np.int32]
Sides = NDArray[np.int8]


class TradeDeduplicator:
    """Remembers the last prints of each instrument."""

    def __init__(self, horizon_ns: int = 600 * NS) -> None:
        """Start with nothing seen.

        Args:
            horizon_ns: a print is remembered for this long, whatever the load.
        """
        self._horizon_ns = horizon_ns
        self._codes: dict[str, int] = {}
        self._counts = np.zeros(64, np.int64)  # prints remembered of each instrument
        self._at = np.zeros(2, np.int64)  # positions of the next and of the oldest print; both only rise
        self._allocate(_FIRST_PRINTS)

    def code(self, instrument: str) -> int:
        """Return the code of an instrument in this deduplicator."""
        code = self._codes.setdefault(instrument, len(self._codes))
        if code >= self._counts.size:
            self._counts = np.concatenate((self._counts, np.zeros(self._counts.size, np.int64)))
        return code

    def judge(
        self, instrument: str, ts_ms: int, tid: int, content: tuple[float, float, int], now_ns: int
    ) -> int:
        """Return whether a print is new, seen, or conflicts with one seen under the same key; remember a new one.

        Args:
            instrument: of the print.
            ts_ms: the venue's time in milliseconds.
            tid: the venue's trade id.
            content: price, size and side code as sent.
            now_ns: when it was received.
        """
        price, size, side = content
        verdict = self.judge_many(
            np.array([self.code(instrument)], np.int32),
            np.array([ts_ms], np.int64),
            np.array([tid], np.int64),
            np.array([price]),
            np.array([size]),
            np.array([side], np.int8),
            np.array([now_ns], np.int64),
        )
        return int(verdict[0])

    def judge_many(
        self, codes: Codes, ts_ms: Ints, tid: Ints, price: Floats, size: Floats, side: Sides, now_ns: Ints
    ) -> NDArray[np.uint8]:
        """Judge m prints in their order; all arrays are (m,), see `judge`."""
        verdicts = np.zeros(len(codes), np.uint8)
        prints = (codes, ts_ms, tid, price, size, side, now_ns)
        done = 0
        while done < len(codes):
            store = (self._slots, self._code, self._keys, self._values, self._side, self._at, self._counts)
            is_full = self._code.size >= _MOST_PRINTS
            done = _judge(done, prints, verdicts, store, self._horizon_ns, is_full)
            if done < len(codes):
                self._grow()
        return verdicts

    def _allocate(self, prints: int) -> None:
        self._slots = np.full(1 << (2 * prints - 1).bit_length(), -1, np.int32)
        self._code = np.zeros(prints, np.int32)
        self._keys = np.zeros((prints, 3), np.int64)  # venue time, tid, receipt
        self._values = np.zeros((prints, 2))
        self._side = np.zeros(prints, np.int8)

    def _grow(self) -> None:
        head, tail = self._at.tolist()
        order = np.arange(tail, head) % self._code.size
        code, keys, values, side = (
            part[order] for part in (self._code, self._keys, self._values, self._side)
        )
        self._allocate(self._code.size + self._code.size // 4)
        count = order.size
        self._code[:count], self._keys[:count], self._values[:count], self._side[:count] = (
            code,
            keys,
            values,
            side,
        )
        self._at[:] = count, 0
        _refill(count, self._slots, self._code, self._keys)


def warm_up() -> None:
    """Load the compiled functions before prints wait for them."""
    seen = TradeDeduplicator()
    seen.judge("", 0, 0, (0.0, 0.0, 0), 0)
    seen._grow()


_jit: Any = compiled()


@_jit
def _slot_of(code, ts_ms, tid, mask):  # type: ignore[no-untyped-def]  # pragma: no cover
    value = np.uint64(tid) * np.uint64(0x9E3779B97F4A7C15)
    value ^= np.uint64(ts_ms) * np.uint64(0xC2B2AE3D27D4EB4F)
    value ^= np.uint64(code) * np.uint64(0x165667B19E3779F9)
    value ^= value >> np.uint64(29)
    return np.int64(value & np.uint64(mask))


@_jit
def _refill(count, slots, code, keys):  # type: ignore[no-untyped-def]  # pragma: no cover
    mask = slots.size - 1
    for row in range(count):
        slot = _slot_of(code[row], keys[row, 0], keys[row, 1], mask)
        while slots[slot] >= 0:
            slot = (slot + 1) & mask
        slots[slot] = row


@_jit
def _forget(row, slots, code, keys):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Remove a row from the hash table, and close the gap that it leaves in its probe chain."""
    mask = slots.size - 1
    hole = _slot_of(code[row], keys[row, 0], keys[row, 1], mask)
    while slots[hole] != row:
        hole = (hole + 1) & mask
    at = hole
    while True:
        at = (at + 1) & mask
        other = slots[at]
        if other < 0:
            break
        home = _slot_of(code[other], keys[other, 0], keys[other, 1], mask)
        if ((at - home) & mask) >= ((at - hole) & mask):
            slots[hole] = other
            hole = at
    slots[hole] = -1


@_jit
def _free_slot(now_ns, slots, code, keys, at, counts, horizon_ns, is_full):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Evict the oldest print that may be evicted; return whether there is room for one more."""
    prints = code.size
    for _ in range(prints):
        if at[0] - at[1] < prints:
            return True
        row = at[1] % prints
        if counts[code[row]] <= KEPT:
            at[0] += 1  # it stays in its slot, and counts as the newest
            at[1] += 1
            continue
        if keys[row, 2] > now_ns - horizon_ns and not is_full:
            return False
        _forget(row, slots, code, keys)
        counts[code[row]] -= 1
        at[1] += 1
    return at[0] - at[1] < prints


@_jit
def _judge(start, prints, verdicts, store, horizon_ns, is_full):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Judge prints from `start` on; return where it stopped for lack of room."""
    codes, ts_ms, tid, price, size, side, now_ns = prints
    slots, code, keys, values, sides, at, counts = store
    mask = slots.size - 1
    for i in range(start, codes.size):
        slot = _slot_of(codes[i], ts_ms[i], tid[i], mask)
        found = False
        while slots[slot] >= 0:
            row = slots[slot]
            if keys[row, 1] == tid[i] and keys[row, 0] == ts_ms[i] and code[row] == codes[i]:
                same = values[row, 0] == price[i] and values[row, 1] == size[i] and sides[row] == side[i]
                verdicts[i] = SEEN if same else CONFLICT
                found = True
                break
            slot = (slot + 1) & mask
        if found:
            continue
        if not _free_slot(now_ns[i], slots, code, keys, at, counts, horizon_ns, is_full):
            return i
        slot = _slot_of(codes[i], ts_ms[i], tid[i], mask)  # an eviction may have moved the chain
        while slots[slot] >= 0:
            slot = (slot + 1) & mask
        row = at[0] % code.size
        slots[slot] = row
        code[row], keys[row, 0], keys[row, 1], keys[row, 2] = codes[i], ts_ms[i], tid[i], now_ns[i]
        values[row, 0], values[row, 1], sides[row] = price[i], size[i], side[i]
        at[0] += 1
        counts[codes[i]] += 1
        verdicts[i] = NEW
    return codes.size
