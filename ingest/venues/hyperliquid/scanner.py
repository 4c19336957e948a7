"""Compiled scanner of the busiest Hyperliquid messages, from bytes to columns.

It (numba) reads `trades` and `bbo` straight into columns. It accepts exactly the frames that it understands to the
last byte; every other one, for example with an escape in a string or a price of 16 digits, is left to
`ingest.venues.hyperliquid.messages`, which also reports what is wrong with it. Where both read a frame the results are
equal: prices have at most 15 digits and are one exact division away from their double (Clinger 1990).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from storage.jit import compiled

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

OTHER: Final = 0
TRADES: Final = 1
BBO: Final = 2

_TRADES_HEAD: Final = np.frombuffer(b'{"channel":"trades","data":[', np.uint8)
_BBO_HEAD: Final = np.frombuffer(b'{"channel":"bbo","data":{', np.uint8)
_POWERS: Final = 10.0 ** np.arange(23)
_MOST_DIGITS: Final = 15
# Bytes of the shortest possible trade; bounds their number.
_LEAST_PRINT_BYTES: Final = 56
_COIN, _SIDE, _PX, _SZ, _TIME, _TID, _HASH, _LEVELS, _ORDERS = 1, 2, 4, 8, 16, 32, 64, 128, 256
_PRINT_KEYS: Final = _COIN | _SIDE | _PX | _SZ | _TIME | _TID
_BBO_KEYS: Final = _COIN | _TIME | _LEVELS


class CoinCodes:
    """Codes of the coins to scan, in the order in which they are added."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names: list[str] = []
        self._known: set[str] = set()
        self.table = np.full(16, -1, np.int32)
        self.text = np.zeros(0, np.uint8)
        self.ends = np.zeros(1, np.int64)
        self.add(names)

    def __len__(self) -> int:
        return len(self.names)

    def add(self, names: Iterable[str]) -> None:
        """Assign codes to new coins."""
        new = [name for name in dict.fromkeys(names) if name not in self._known]
        if not new:
            return
        self.names += new
        self._known.update(new)
        encoded = [name.encode() for name in self.names]
        self.text = np.frombuffer(b"".join(encoded) or b" ", np.uint8)
        self.ends = np.cumsum([0, *map(len, encoded)]).astype(np.int64)
        size = 16
        while size < 4 * len(encoded):
            size *= 2
        self.table = np.full(size, -1, np.int32)
        _fill(self.table, self.text, self.ends)


@dataclass(frozen=True, slots=True)
class ScannedFrames:
    """Contents of n frames.

    Args:
        kind: (n,) `TRADES`, `BBO` or `OTHER`.
        coin: (n,) code of the coin; -1 for `OTHER`.
        time_ms: (n,) newest venue time in the frame.
        prints: (n + 1,) the trades of frame `i` are those from `prints[i]` to `prints[i + 1]`.
        px, sz: (m,) of each trade, quote units and base units.
        print_ms, tid: (m,) int64, `tid` as sent.
        side: (m,) int8, 1 the aggressor bought, -1 sold.
        is_twap: (m,) the transaction hash is all zero.
        touch: (n, 4) bid, its size, ask, its size; NaN where a side is empty.
    """

    kind: NDArray[np.uint8]
    coin: NDArray[np.int32]
    time_ms: Ints
    prints: Ints
    px: Floats
    sz: Floats
    print_ms: Ints
    tid: Ints
    side: NDArray[np.int8]
    is_twap: NDArray[np.bool_]
    touch: Floats


def scan(data: bytes, ends: Ints, coins: CoinCodes) -> ScannedFrames:
    """Scan frames that lie one after another in `data`.

    Args:
        data: the frames' bytes.
        ends: (n + 1,) frame `i` is `data[ends[i]:ends[i + 1]]`.
        coins: of the frames to scan; frames of other coins are `OTHER`.
    """
    frames = len(ends) - 1
    most = int(ends[-1] - ends[0]) // _LEAST_PRINT_BYTES + 1
    kind, coin = np.zeros(frames, np.uint8), np.full(frames, -1, np.int32)
    time_ms, prints = np.zeros(frames, np.int64), np.zeros(frames + 1, np.int64)
    numbers, stamps = np.empty((2, most)), np.empty((2, most), np.int64)
    side, is_twap = np.empty(most, np.int8), np.empty(most, np.bool_)
    touch = np.full((frames, 4), np.nan)
    raw = np.frombuffer(data, np.uint8)
    found = _scan(
        raw, ends, coins.table, coins.text, coins.ends, kind, coin, time_ms, prints, numbers, stamps, side,
        is_twap, touch,
    )  # fmt: skip
    return ScannedFrames(
        kind, coin, time_ms, prints, numbers[0, :found], numbers[1, :found], stamps[0, :found], stamps[1, :found],
        side[:found], is_twap[:found], touch,
    )  # fmt: skip


def warm_up() -> None:
    """Compile the scanner, or load it from the cache, before the first frames."""
    scan(b"{}", np.array([0, 2], np.int64), CoinCodes(["BTC"]))


_jit: Any = compiled(boundscheck=False)


@_jit
def _hash(text, start, end):  # type: ignore[no-untyped-def]  # pragma: no cover
    value = np.uint64(14695981039346656037)
    for i in range(start, end):
        value = (value ^ np.uint64(text[i])) * np.uint64(1099511628211)
    return value


@_jit
def _fill(table, text, ends):  # type: ignore[no-untyped-def]  # pragma: no cover
    mask = np.uint64(table.size - 1)
    for code in range(ends.size - 1):
        slot = _hash(text, ends[code], ends[code + 1]) & mask
        while table[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        table[slot] = code


@_jit
def _find(table, text, ends, raw, start, end):  # type: ignore[no-untyped-def]  # pragma: no cover
    mask = np.uint64(table.size - 1)
    slot = _hash(raw, start, end) & mask
    while table[slot] >= 0:
        code = table[slot]
        if ends[code + 1] - ends[code] == end - start:
            same = True
            for i in range(end - start):
                if raw[start + i] != text[ends[code] + i]:
                    same = False
                    break
            if same:
                return code
        slot = (slot + np.uint64(1)) & mask
    return -1


@_jit
def _starts(raw, at, end, head):  # type: ignore[no-untyped-def]  # pragma: no cover
    if end - at < head.size:
        return False
    for i in range(head.size):
        if raw[at + i] != head[i]:
            return False
    return True


@_jit
def _string_end(raw, at, end):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the end of the string that begins after `at`; -1 for an escape, a control or a non-ASCII byte."""
    if at >= end or raw[at] != 34:
        return -1
    at += 1
    while at < end:
        byte = raw[at]
        if byte == 34:
            return at
        if byte == 92 or byte < 32 or byte > 126:
            return -1
        at += 1
    return -1


@_jit
def _integer(raw, at, end):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return (value, end) of an unsigned integer; end -1 if there is none."""
    start, value = at, np.int64(0)
    while at < end and 48 <= raw[at] <= 57:
        value = value * 10 + (raw[at] - 48)
        at += 1
    if at == start or at - start > 18 or (raw[start] == 48 and at - start > 1):
        return np.int64(0), -1
    return value, at


@_jit
def _decimal(raw, at, end):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return (value, end) of a quoted decimal number; end -1 if there is none."""
    if at >= end or raw[at] != 34:
        return 0.0, -1
    at += 1
    start, value, point, digits = at, np.int64(0), -1, 0
    while at < end and raw[at] != 34:
        byte = raw[at]
        if byte == 46 and point < 0 and at > start:
            point = at
        elif 48 <= byte <= 57:
            value = value * 10 + (byte - 48)
            if value > 0:
                digits += 1
            if digits > _MOST_DIGITS:
                return 0.0, -1
        else:
            return 0.0, -1
        at += 1
    if at >= end or at == start or raw[at - 1] == 46:
        return 0.0, -1
    if raw[start] == 48 and at - start > 1 and raw[start + 1] != 46:
        return 0.0, -1
    places = at - point - 1 if point >= 0 else 0
    if places > 22:
        return 0.0, -1
    return value / _POWERS[places], at + 1


@_jit
def _skip(raw, at, end):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the end of a value that is a string, an unsigned integer or a list of strings; -1 for any other."""
    if at >= end:
        return -1
    if raw[at] == 34:
        at = _string_end(raw, at, end)
        return at + 1 if at >= 0 else -1
    if raw[at] != 91:
        return _integer(raw, at, end)[1]
    at += 1
    while True:
        at = _string_end(raw, at, end)
        if at < 0 or at + 1 >= end:
            return -1
        at += 2
        if raw[at - 1] == 93:
            return at
        if raw[at - 1] != 44:
            return -1


@_jit
def _key(raw, at, end):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return (key code, start of its value); code 0 for a key that is not used."""
    stop = _string_end(raw, at, end)
    if stop < 0 or at + 4 >= end or stop + 1 >= end or raw[stop + 1] != 58:
        return 0, -1
    size, first, second = stop - at - 1, raw[at + 1], raw[at + 2]
    third, fourth = raw[at + 3], raw[at + 4]
    code = 0
    if size == 1 and first == 110:
        code = _ORDERS
    elif size == 2 and second == 120 and first == 112:
        code = _PX
    elif size == 2 and first == 115 and second == 122:
        code = _SZ
    elif size == 3 and first == 116 and second == 105 and third == 100:
        code = _TID
    elif size == 3 and first == 98 and second == 98 and third == 111:
        code = _LEVELS
    elif size == 4:
        if first == 99 and second == 111 and third == 105 and fourth == 110:
            code = _COIN
        elif first == 115 and second == 105 and third == 100 and fourth == 101:
            code = _SIDE
        elif first == 116 and second == 105 and third == 109 and fourth == 101:
            code = _TIME
        elif first == 104 and second == 97 and third == 115 and fourth == 104:
            code = _HASH
    return code, stop + 2


@_jit
def _is_zero_hash(raw, at, stop):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return whether the quoted text from `at` to its closing quote is 0x and 64 zeros."""
    if stop - at != 67 or raw[at + 1] != 48 or raw[at + 2] != 120:
        return False
    for i in range(at + 3, stop):
        if raw[i] != 48:
            return False
    return True


@_jit
def _trade(raw, at, end, coins, text, ends, m, numbers, stamps, side, is_twap):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Scan one trade into row `m`; return (coin, end), -1 if it is not understood."""
    if at >= end or raw[at] != 123:
        return -1, -1
    seen, coin = 0, -1
    is_twap[m] = False
    while True:
        code, at = _key(raw, at + 1, end)
        if at < 0 or (code and seen & code):
            return -1, -1
        seen |= code
        if code == _PX or code == _SZ:
            value, at = _decimal(raw, at, end)
            numbers[0 if code == _PX else 1, m] = value
        elif code == _TIME or code == _TID:
            integer, at = _integer(raw, at, end)
            stamps[0 if code == _TIME else 1, m] = integer
        elif code == _COIN:
            stop = _string_end(raw, at, end)
            if stop < 0:
                return -1, -1
            coin = _find(coins, text, ends, raw, at + 1, stop)
            at = stop + 1
        elif code == _SIDE:
            if (
                at + 2 >= end
                or raw[at] != 34
                or raw[at + 2] != 34
                or (raw[at + 1] != 65 and raw[at + 1] != 66)
            ):
                return -1, -1
            side[m] = 1 if raw[at + 1] == 66 else -1
            at += 3
        elif code == _HASH:
            stop = _string_end(raw, at, end)
            if stop < 0:
                return -1, -1
            is_twap[m] = _is_zero_hash(raw, at, stop)
            at = stop + 1
        elif code == 0:
            at = _skip(raw, at, end)
        else:
            return -1, -1
        if at < 0 or at >= end:
            return -1, -1
        if raw[at] == 125:
            break
        if raw[at] != 44:
            return -1, -1
    if seen & _PRINT_KEYS != _PRINT_KEYS or coin < 0:
        return -1, -1
    return coin, at + 1


@_jit
def _trades(raw, at, end, coins, text, ends, m, numbers, stamps, side, is_twap):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Scan the trades of a frame; return (coin, newest time, count), count 0 if it is not understood."""
    first, coin, newest = m, -1, np.int64(0)
    while True:
        this, at = _trade(raw, at, end, coins, text, ends, m, numbers, stamps, side, is_twap)
        if at < 0 or at >= end or (coin >= 0 and this != coin):
            return -1, newest, 0
        coin = this
        newest = max(newest, stamps[0, m])
        m += 1
        if raw[at] == 93:
            break
        if raw[at] != 44:
            return -1, newest, 0
        at += 1
    if at + 2 != end or raw[at + 1] != 125:
        return -1, newest, 0
    return coin, newest, m - first


@_jit
def _level(raw, at, end, touch, column):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Scan a price level, or null; return its end."""
    if at + 4 < end and raw[at] == 110 and raw[at + 1] == 117 and raw[at + 2] == 108 and raw[at + 3] == 108:
        return at + 4
    if at >= end or raw[at] != 123:
        return -1
    seen = 0
    while True:
        code, at = _key(raw, at + 1, end)
        if at < 0 or (code and seen & code):
            return -1
        seen |= code
        if code == _PX or code == _SZ:
            value, at = _decimal(raw, at, end)
            touch[column + (0 if code == _PX else 1)] = value
        elif code == _ORDERS:
            at = _integer(raw, at, end)[1]
        elif code == 0:
            at = _skip(raw, at, end)
        else:
            return -1
        if at < 0 or at >= end:
            return -1
        if raw[at] == 125:
            break
        if raw[at] != 44:
            return -1
    return at + 1 if seen & (_PX | _SZ) == _PX | _SZ else -1


@_jit
def _bbo(raw, at, end, coins, text, ends, touch):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Scan best bid and ask; return (coin, time), coin -1 if they are not understood."""
    seen, coin, time_ms = 0, -1, np.int64(0)
    at -= 1
    while True:
        code, at = _key(raw, at + 1, end)
        if at < 0 or (code and seen & code):
            return -1, time_ms
        seen |= code
        if code == _TIME:
            time_ms, at = _integer(raw, at, end)
        elif code == _COIN:
            stop = _string_end(raw, at, end)
            if stop < 0:
                return -1, time_ms
            coin = _find(coins, text, ends, raw, at + 1, stop)
            at = stop + 1
        elif code == _LEVELS:
            if at >= end or raw[at] != 91:
                return -1, time_ms
            at = _level(raw, at + 1, end, touch, np.int64(0))  # plain 0 and 2 would be compiled once each
            if at < 0 or at >= end or raw[at] != 44:
                return -1, time_ms
            at = _level(raw, at + 1, end, touch, np.int64(2))
            if at < 0 or at >= end or raw[at] != 93:
                return -1, time_ms
            at += 1
        elif code == 0:
            at = _skip(raw, at, end)
        else:
            return -1, time_ms
        if at < 0 or at >= end:
            return -1, time_ms
        if raw[at] == 125:
            break
        if raw[at] != 44:
            return -1, time_ms
    if seen != _BBO_KEYS or at + 2 != end or raw[at + 1] != 125:
        return -1, time_ms
    return coin, time_ms


@_jit
def _scan(raw, ends, table, text, names, kind, coin, time_ms, prints, numbers, stamps, side, is_twap, touch):  # type: ignore[no-untyped-def]  # pragma: no cover
    m = np.int64(0)  # with a plain 0, what is called with it is compiled a second time
    for i in range(ends.size - 1):
        at, end = ends[i], ends[i + 1]
        if _starts(raw, at, end, _TRADES_HEAD):
            code, newest, count = _trades(
                raw, at + _TRADES_HEAD.size, end, table, text, names, m, numbers, stamps, side, is_twap
            )
            if count > 0:
                kind[i], coin[i], time_ms[i] = TRADES, code, newest
                m += count
        elif _starts(raw, at, end, _BBO_HEAD):
            code, newest = _bbo(raw, at + _BBO_HEAD.size, end, table, text, names, touch[i])
            if code >= 0:
                kind[i], coin[i], time_ms[i] = BBO, code, newest
            else:
                touch[i] = np.nan
        prints[i + 1] = m
    return m
