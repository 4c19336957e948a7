"""How do the lines of an hour become columns of prints, at the speed at which JSON can be read?

Fills are read into columns piece by piece, and paired all at once: what is one B and one A of one trade, as nearly all
are, is paired by arrays; the rest goes through `ingest.history.fills.Pairing`, one by one, which knows the reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from itertools import chain
from operator import attrgetter
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from ingest.history.fills import NO_TRADES, Fill, Pairing, Unpaired
from ingest.history.layouts import Form
from ingest.rows import ZERO_HASH

T = TypeVar("T")
Array = NDArray[Any]

FILL: Final = np.dtype(
    [
        ("coin", "i4"),
        ("side", "i1"),
        ("crossed", "?"),
        ("twap", "?"),
        ("object", "i4"),
        ("line", "i8"),
        ("time_ms", "i8"),
        ("tid", "i8"),
        ("oid", "i8"),
        ("price", "f8"),
        ("size", "f8"),
    ]
)
"""A fill; of a print, `side` is the aggressor's: 1 bought, -1 sold, 0 neither."""

# Prints of `node_trades` have no tid. Theirs are made above 2^50, where the venue's own end.
_MADE_TID: Final = 1 << 50


class BlockLine(msgspec.Struct, gc=False):
    events: list[tuple[str, Fill]]


class _Party(msgspec.Struct, gc=False):
    oid: int


class _Print(msgspec.Struct, gc=False):
    coin: str
    side: Literal["A", "B"]
    time: datetime
    px: float
    sz: float
    hash: str
    side_info: tuple[_Party, _Party]


class Codes(dict[str, int]):
    """Numbers texts as they come."""

    def __missing__(self, text: str) -> int:
        self[text] = code = len(self)
        return code


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is none of its layout's, and why."""

    object: int
    line: int
    raw: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Odd:
    """Fills that make no print, and the rule they break; `first` is the first of them."""

    unpaired: Unpaired
    first: Array


class Reader(Generic[T]):
    """Reads lines of one layout, all of a piece at once where that goes."""

    def __init__(self, kind: Any) -> None:
        self._decoder = msgspec.json.Decoder(kind, strict=False)

    def read(
        self, piece: bytes, object_number: int, first_line: int
    ) -> tuple[list[T], Array, list[BadLine], int]:
        """Return what the lines of a piece say, the number of each, those that say nothing, and the next number."""
        try:
            items: list[T] = self._decoder.decode_lines(piece)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return self._one_by_one(piece, object_number, first_line)
        count = len(items)
        return items, np.arange(first_line, first_line + count), [], first_line + count

    def _one_by_one(
        self, piece: bytes, object_number: int, first_line: int
    ) -> tuple[list[T], Array, list[BadLine], int]:
        items: list[T] = []
        numbers: list[int] = []
        bad: list[BadLine] = []
        lines = [line for line in piece.split(b"\n") if line.strip()]
        for number, line in enumerate(lines, first_line):
            try:
                items.append(self._decoder.decode(line))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                bad.append(BadLine(object_number, number, line, f"the line does not fit its layout: {error}"))
            else:
                numbers.append(number)
        return items, np.array(numbers, np.int64), bad, first_line + len(lines)


@dataclass(slots=True)
class Hour:
    """What was read of an hour.

    Args:
        prints: (n,) of `FILL`, in the order in which the archive wrote them.
        coins: names by code.
        beats_ms: times at which any coin's fill was written, rising.
        odd: fills that make no print.
        bad: lines that say nothing.
        left_out: fills that are no trades by their own word, such as settlements.
    """

    prints: Array
    coins: list[str]
    beats_ms: Array
    odd: list[Odd] = field(default_factory=list)
    bad: list[BadLine] = field(default_factory=list)
    left_out: int = 0


class HourReader:
    """Gathers the objects that may hold an hour's events."""

    def __init__(self, from_ms: int, to_ms: int, *, spill_ms: int, coins: Iterable[str] = ()) -> None:
        """Read `[from_ms, to_ms)`.

        Args:
            from_ms, to_ms: the hour.
            spill_ms: how far events may lie out of order in an object.
            coins: only these; none: all.
        """
        self._from_ms, self._to_ms, self._spill_ms = from_ms, to_ms, spill_ms
        self._wanted = frozenset(coins)
        self._codes = Codes()
        self._fills: list[Array] = []
        self._prints: list[Array] = []
        self._beats: list[Array] = []
        self._bad: list[BadLine] = []
        self._left_out = 0

    def add(self, pieces: Iterable[bytes], form: Form, object_number: int) -> None:
        """Take an object; of a neighbour no more is decoded than may hold the hour's events."""
        reader: Reader[Any] = Reader(_KINDS[form])
        take: Callable[[list[Any], Array], tuple[Array, list[int]]] = getattr(self, f"_take_{form}")
        line = 0
        for piece in pieces:
            first, last = self._ends(piece, reader, form)
            if last is not None and last < self._from_ms - self._spill_ms:
                line += piece.count(b"\n")
                continue
            if first is not None and first >= self._to_ms + self._spill_ms:
                break
            items, numbers, bad, line = reader.read(piece, object_number, line)
            rows, beats = take(items, numbers)
            rows["object"] = object_number
            inside = (rows["time_ms"] >= self._from_ms) & (rows["time_ms"] < self._to_ms)
            (self._prints if form == "trades" else self._fills).append(rows if inside.all() else rows[inside])
            self._beats.append(np.array(beats, np.int64))
            self._bad += bad

    def finish(self) -> Hour:
        """Return the hour."""
        names = list(self._codes)
        fills = np.concatenate([*self._fills, np.empty(0, FILL)])
        paired, odd = pair(fills, names)
        prints = np.concatenate([*self._prints, paired])
        if self._prints:
            prints = _distinct(prints)
        beats = np.unique(np.concatenate([*self._beats, np.empty(0, np.int64)]))
        return Hour(prints, names, beats, odd, self._bad, self._left_out)

    def _ends(self, piece: bytes, reader: Reader[Any], form: Form) -> tuple[int | None, int | None]:
        """Return the times of a piece's first and last line; None where they say none."""
        head = piece[: piece.find(b"\n") + 1] or piece
        tail = piece[piece.rstrip().rfind(b"\n") + 1 :]
        found = []
        for line in (head, tail):
            items = reader.read(line, 0, 0)[0]
            times = [time for item in items for time in _times(item, form)]
            found.append(times[0] if times else None)
        return found[0], found[1]

    def _take_blocks(self, blocks: list[BlockLine], numbers: Array) -> tuple[Array, list[int]]:
        events = [block.events for block in blocks]
        beats = [event[0][1].time for event in events if event]
        fills = [event[1] for event in chain.from_iterable(events)]
        return self._columns(fills, np.repeat(numbers, [len(event) for event in events])), beats

    def _take_fills(self, lines: list[tuple[str, Fill]], numbers: Array) -> tuple[Array, list[int]]:
        fills = [line[1] for line in lines]
        return self._columns(fills, numbers), [fill.time for fill in fills]

    def _take_trades(self, lines: list[_Print], numbers: Array) -> tuple[Array, list[int]]:
        times = _iso_ms([line.time for line in lines])
        kept = [n for n, line in enumerate(lines) if not self._wanted or line.coin in self._wanted]
        rows = np.empty(len(kept), FILL)
        if kept:
            chosen = [lines[n] for n in kept]
            rows["coin"] = [self._codes[item.coin] for item in chosen]
            rows["side"] = [1 if item.side == "B" else -1 for item in chosen]
            rows["price"], rows["size"] = [item.px for item in chosen], [item.sz for item in chosen]
            rows["tid"] = [made_tid(item.hash, *(party.oid for party in item.side_info)) for item in chosen]
            rows["twap"] = [item.hash == ZERO_HASH for item in chosen]
            rows["time_ms"], rows["line"] = times[kept], numbers[kept]
            rows["crossed"], rows["oid"] = True, 0
        return rows, times.tolist()

    def _columns(self, fills: list[Fill], line: Array) -> Array:
        dirs = [fill.dir for fill in fills]
        if self._wanted or not NO_TRADES.isdisjoint(dirs):
            wanted = self._wanted
            kept = [n for n, fill in enumerate(fills) if fill.dir not in NO_TRADES]
            self._left_out += len(fills) - len(kept)
            kept = [n for n in kept if not wanted or fills[n].coin in wanted]
            fills, line = [fills[n] for n in kept], line[kept]
        rows = np.empty(len(fills), FILL)
        for name, column in zip(_READ, map(list, zip(*map(_VALUES, fills), strict=True)), strict=False):
            rows[name] = column
        codes = self._codes
        rows["coin"] = [codes[fill.coin] for fill in fills]
        rows["side"] = [_SIDES.get(fill.side, 0) for fill in fills]
        rows["twap"] = [fill.hash == ZERO_HASH for fill in fills]
        rows["line"] = line
        return rows


_KINDS: Final[dict[Form, Any]] = {"blocks": BlockLine, "fills": tuple[str, Fill], "trades": _Print}
_SIDES: Final = {"B": 1, "A": -1}
_READ: Final = ("time_ms", "tid", "oid", "price", "size", "crossed")
_VALUES: Final = attrgetter("time", "tid", "oid", "px", "sz", "crossed")


def pair(fills: Array, coins: Sequence[str]) -> tuple[Array, list[Odd]]:
    """Return the prints that fills make, in the order of their first fill, and what makes none.

    Args:
        fills: (m,) of `FILL`, in any order; the same fill may come more than once.
        coins: names by code.
    """
    if not len(fills):
        return fills, []
    by_tid = np.argsort(fills["tid"], kind="stable")
    tid = fills["tid"][by_tid]
    starts = np.flatnonzero(np.concatenate(([True], tid[1:] != tid[:-1])))
    counts = np.diff(np.append(starts, len(tid)))
    twos = starts[counts == 2]
    at_one, at_other = by_tid[twos], by_tid[twos + 1]
    one, other = fills[at_one], fills[at_other]
    fits = (one["side"] * other["side"] == -1) & (one["crossed"] != other["crossed"]) & (one["price"] > 0)
    for name in ("coin", "time_ms", "price", "size"):
        fits &= one[name] == other[name]
    fits &= one["size"] > 0
    taker = np.where(one["crossed"], at_one, at_other)[fits]
    is_left = np.ones(len(fills), np.bool_)
    is_left[at_one[fits]] = is_left[at_other[fits]] = False
    firsts = at_one[fits]
    left = np.flatnonzero(is_left)
    odd: list[Odd] = []
    if len(left):
        more, odd = _pair_slowly(fills, left, coins)
        taker = np.concatenate((taker, more[:, 0]))
        firsts = np.concatenate((firsts, more[:, 1]))
    return fills[taker[np.argsort(firsts, kind="stable")]], odd


def _pair_slowly(fills: Array, left: Array, coins: Sequence[str]) -> tuple[Array, list[Odd]]:
    """Return (taker, first) of each print among fills that are not two of one tid, and what makes none."""
    pairing = Pairing()
    where: dict[tuple[str, int, int], dict[tuple[str, int], int]] = {}
    for n in left.tolist():
        row = fills[n]
        fill = _as_fill(row, coins)
        pairing.add([fill])
        where.setdefault(fill.key, {}).setdefault((fill.side, fill.oid), n)
    trades, unpaired = pairing.settle()
    found = []
    for trade in trades:
        places = where[trade.coin, trade.time_ms, trade.tid]
        taker = next(n for n in places.values() if fills[n]["crossed"])
        found.append((taker, min(places.values())))
    odd = [Odd(item, fills[min(where[item.key].values())]) for item in unpaired]
    return np.array(found, np.int64).reshape(-1, 2), odd


def _as_fill(row: Any, coins: Sequence[str]) -> Fill:
    side = {1: "B", -1: "A"}.get(int(row["side"]), "?")
    return Fill(
        coin=coins[int(row["coin"])],
        px=float(row["price"]),
        sz=float(row["size"]),
        side=side,
        time=int(row["time_ms"]),
        oid=int(row["oid"]),
        crossed=bool(row["crossed"]),
        tid=int(row["tid"]),
        hash=ZERO_HASH if row["twap"] else "",
    )


def made_tid(tx_hash: str, buyer_oid: int, seller_oid: int) -> int:
    """Return a trade id for a print of `node_trades`, which has none: of its transaction and both orders.

    >>> made_tid("0x1", 11, 12) == made_tid("0x1", 11, 12) > 1 << 50
    True
    """
    said = f"{tx_hash}|{buyer_oid}|{seller_oid}".encode()
    return _MADE_TID + (int.from_bytes(blake2b(said, digest_size=8).digest(), "big") >> 14)


def _distinct(prints: Array) -> Array:
    """Return prints once each, the first of each key, in their order."""
    _, firsts = np.unique(prints[["coin", "time_ms", "tid"]], return_index=True)
    return prints[np.sort(firsts)]


def _times(item: Any, form: Form) -> list[int]:
    if form == "blocks":
        return [item.events[0][1].time] if item.events else []
    return [item[1].time] if form == "fills" else _iso_ms([item.time]).tolist()


def _iso_ms(times: list[datetime]) -> Array:
    """Return times, which are UTC with and without saying so, in the milliseconds that a block's fills have."""
    naive = [time.replace(tzinfo=None) for time in times]
    return np.array(naive, "datetime64[ms]").astype(np.int64)
