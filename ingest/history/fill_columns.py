"""How do the lines of an hour become columns of prints, at the speed at which JSON can be read?

Fills are read into columns piece by piece, and paired all at once: what is one B and one A of one trade, as nearly all
are, is paired by arrays; the rest goes through `ingest.history.fills.Pairing`, one by one, which knows the reasons.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
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

_COLUMNS: Final = {
    "coin": "i4",
    "side": "i1",
    "crossed": "?",
    "twap": "?",
    "object": "i4",
    "line": "i8",
    "time_ms": "i8",
    "tid": "i8",
    "oid": "i8",
    "price": "f8",
    "size": "f8",
}


class Fills:
    """Fills, or prints, by column; one array each, since gathering rows of one array took four times as long.

    `coin` is a code, `object` the number of the object and `line` that of the line in it; of a print, `side` is the
    aggressor's: 1 bought, -1 sold, 0 neither.
    """

    __slots__ = ("_columns",)

    def __init__(self, columns: Mapping[str, Array]) -> None:
        self._columns = dict(columns)

    def __len__(self) -> int:
        return len(self._columns["coin"])

    def __getitem__(self, name: str) -> Array:
        return self._columns[name]

    def at(self, chosen: Array) -> Fills:
        """Return those at some places, or where a mask holds."""
        return Fills({name: column[chosen] for name, column in self._columns.items()})

    @staticmethod
    def join(parts: Sequence[Fills]) -> Fills:
        """Return all of several."""
        columns = {}
        for name, kind in _COLUMNS.items():
            columns[name] = np.concatenate([*(part[name] for part in parts), np.empty(0, kind)])
        return Fills(columns)


# Prints of `node_trades` have no tid. Theirs are made above 2^50, where the venue's own end.
_MADE_TID: Final = 1 << 50


class UserFill(msgspec.Struct, array_like=True, gc=False):
    """A user, who is left where he is, and his fill; a tuple would be the garbage collector's to look at."""

    user: msgspec.Raw
    fill: Fill


class BlockLine(msgspec.Struct, gc=False):
    """A block and its fills."""

    events: list[UserFill]


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
    """Fills that make no print, and the rule they break; where the first of them stands."""

    unpaired: Unpaired
    object: int
    line: int


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
        prints: in the order in which the archive wrote them.
        coins: names by code.
        beats_ms: times at which any coin's fill was written, in order.
        odd: fills that make no print.
        bad: lines that say nothing.
        left_out: fills that are no trades by their own word, such as settlements.
    """

    prints: Fills
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
        self._fills: list[Fills] = []
        self._prints: list[Fills] = []
        self._beats: list[Array] = []
        self._bad: list[BadLine] = []
        self._left_out = 0

    def add(self, pieces: Iterable[bytes], form: Form, object_number: int) -> None:
        """Take an object; of a neighbour no more is decoded than may hold the hour's events."""
        reader: Reader[Any] = Reader(_KINDS[form])
        take: Callable[[list[Any], Array, int], tuple[Fills, list[int]]] = getattr(self, f"_take_{form}")
        line = 0
        for piece in pieces:
            first, last = self._ends(piece, reader, form)
            if last is not None and last < self._from_ms - self._spill_ms:
                line += piece.count(b"\n")
                continue
            if first is not None and first >= self._to_ms + self._spill_ms:
                break
            items, numbers, bad, line = reader.read(piece, object_number, line)
            rows, beats = take(items, numbers, object_number)
            del items  # while they are still in the cache
            inside = (rows["time_ms"] >= self._from_ms) & (rows["time_ms"] < self._to_ms)
            (self._prints if form == "trades" else self._fills).append(
                rows if inside.all() else rows.at(inside)
            )
            self._beats.append(np.array(beats, np.int64))
            self._bad += bad

    def finish(self) -> Hour:
        """Return the hour."""
        names = list(self._codes)
        prints, odd = pair(Fills.join(self._fills), names)
        if self._prints:
            prints = _distinct(Fills.join([*self._prints, prints]))
        beats = np.sort(np.concatenate([*self._beats, np.empty(0, np.int64)]))
        return Hour(prints, names, beats, odd, self._bad, self._left_out)

    def _ends(self, piece: bytes, reader: Reader[Any], form: Form) -> tuple[int | None, int | None]:
        """Return the times of a piece's first and last line; None where they say none."""
        if form != "trades":
            first, last = _TIME.search(piece), _TIME.match(piece, max(0, piece.rfind(b'"time"')))
            return (int(first[1]), int(last[1])) if first and last else (None, None)
        head = piece[: piece.find(b"\n") + 1] or piece
        tail = piece[piece.rstrip().rfind(b"\n") + 1 :]
        items = [*reader.read(head, 0, 0)[0], *reader.read(tail, 0, 0)[0]]
        times = _iso_ms([item.time for item in items]).tolist()
        return (times[0], times[-1]) if times else (None, None)

    def _take_blocks(
        self, blocks: list[BlockLine], numbers: Array, object_number: int
    ) -> tuple[Fills, list[int]]:
        events = [block.events for block in blocks]
        beats = [event[0].fill.time for event in events if event]
        fills = [event.fill for event in chain.from_iterable(events)]
        numbers = np.repeat(numbers, [len(event) for event in events])
        return self._columns(fills, numbers, object_number), beats

    def _take_fills(
        self, lines: list[UserFill], numbers: Array, object_number: int
    ) -> tuple[Fills, list[int]]:
        fills = [line.fill for line in lines]
        return self._columns(fills, numbers, object_number), [fill.time for fill in fills]

    def _take_trades(
        self, lines: list[_Print], numbers: Array, object_number: int
    ) -> tuple[Fills, list[int]]:
        times = _iso_ms([line.time for line in lines])
        kept = [n for n, line in enumerate(lines) if not self._wanted or line.coin in self._wanted]
        chosen = [lines[n] for n in kept]
        columns: dict[str, Any] = {
            "coin": [self._codes[item.coin] for item in chosen],
            "side": [1 if item.side == "B" else -1 for item in chosen],
            "crossed": np.ones(len(kept)),
            "twap": [item.hash == ZERO_HASH for item in chosen],
            "object": np.full(len(kept), object_number),
            "line": numbers[kept],
            "time_ms": times[kept],
            "tid": [made_tid(item.hash, *(party.oid for party in item.side_info)) for item in chosen],
            "oid": np.zeros(len(kept)),
            "price": [item.px for item in chosen],
            "size": [item.sz for item in chosen],
        }
        return Fills({name: np.array(columns[name], kind) for name, kind in _COLUMNS.items()}), times.tolist()

    def _columns(self, fills: list[Fill], line: Array, object_number: int) -> Fills:
        if self._wanted or not NO_TRADES.isdisjoint(map(_DIR, fills)):
            wanted = self._wanted
            kept = [n for n, fill in enumerate(fills) if fill.dir not in NO_TRADES]
            self._left_out += len(fills) - len(kept)
            kept = [n for n in kept if not wanted or fills[n].coin in wanted]
            fills, line = [fills[n] for n in kept], line[kept]
        count, codes = len(fills), self._codes
        columns: dict[str, Array] = {
            name: np.fromiter(map(value, fills), kind, count) for name, (value, kind) in _VALUES.items()
        }
        columns["coin"] = np.fromiter(map(codes.__getitem__, map(_COIN, fills)), np.int32, count)
        sides = "".join(map(_SIDE, fills)).encode("ascii", "replace")
        if len(sides) != count:
            sides = bytes(ord(fill.side) if fill.side in ("A", "B") else 0 for fill in fills)
        columns["side"] = _SIDES[np.frombuffer(sides, np.uint8)]
        columns["twap"] = np.array([fill.hash == ZERO_HASH for fill in fills], np.bool_)
        columns["line"], columns["object"] = line, np.full(count, object_number, np.int32)
        return Fills(columns)


_KINDS: Final[dict[Form, Any]] = {"blocks": BlockLine, "fills": UserFill, "trades": _Print}
_TIME: Final = re.compile(rb'"time"\s*:\s*(\d+)')
_COIN, _DIR, _SIDE = attrgetter("coin"), attrgetter("dir"), attrgetter("side")
_SIDES: Final = np.zeros(256, np.int8)
_SIDES[ord("B")], _SIDES[ord("A")] = 1, -1
# An attribute at a time: an array takes it from C to C (20 ns a fill, where tuples of all of them take 500).
_VALUES: Final = {
    "time_ms": (attrgetter("time"), np.int64),
    "tid": (attrgetter("tid"), np.int64),
    "oid": (attrgetter("oid"), np.int64),
    "price": (attrgetter("px"), np.float64),
    "size": (attrgetter("sz"), np.float64),
    "crossed": (attrgetter("crossed"), np.bool_),
}


def pair(fills: Fills, coins: Sequence[str]) -> tuple[Fills, list[Odd]]:
    """Return the prints that fills make, in the order of their first fill, and what makes none.

    Args:
        fills: in any order; the same fill may come more than once.
        coins: names by code.
    """
    if not len(fills):
        return fills, []
    # Not stable, which takes ten times as long: what shares a tid is two of a trade, or looked at one by one.
    by_tid = np.argsort(fills["tid"])
    tid = fills["tid"][by_tid]
    starts = np.flatnonzero(np.concatenate(([True], tid[1:] != tid[:-1])))
    twos = starts[np.diff(np.append(starts, len(tid))) == 2]
    one, other = by_tid[twos], by_tid[twos + 1]
    is_taker = fills["crossed"][one]
    fits = fills["side"][one] * fills["side"][other] == -1
    fits &= is_taker != fills["crossed"][other]
    for name in ("coin", "time_ms", "price", "size"):
        fits &= fills[name][one] == fills[name][other]
    fits &= (fills["price"][one] > 0) & (fills["size"][one] > 0)
    taker, first = np.where(is_taker, one, other)[fits], np.minimum(one, other)[fits]
    is_left = np.ones(len(fills), np.bool_)
    is_left[one[fits]] = is_left[other[fits]] = False
    odd: list[Odd] = []
    if is_left.any():
        more, odd = _pair_slowly(fills, np.flatnonzero(is_left), coins)
        taker, first = np.append(taker, more[:, 0]), np.append(first, more[:, 1])
    return fills.at(taker[np.argsort(first)]), odd


def _pair_slowly(fills: Fills, left: Array, coins: Sequence[str]) -> tuple[Array, list[Odd]]:
    """Return (taker, first) of each print among fills that are not two of one tid, and what makes none."""
    pairing = Pairing()
    where: dict[tuple[str, int, int], dict[tuple[str, int], int]] = {}
    for n in left.tolist():
        fill = _as_fill(fills, n, coins)
        pairing.add([fill])
        where.setdefault(fill.key, {}).setdefault((fill.side, fill.oid), n)
    trades, unpaired = pairing.settle()
    found = []
    for trade in trades:
        places = where[trade.coin, trade.time_ms, trade.tid].values()
        found.append((next(n for n in places if fills["crossed"][n]), min(places)))
    odd = []
    for item in unpaired:
        first = min(where[item.key].values())
        odd.append(Odd(item, int(fills["object"][first]), int(fills["line"][first])))
    return np.array(found, np.int64).reshape(-1, 2), odd


def _as_fill(fills: Fills, n: int, coins: Sequence[str]) -> Fill:
    return Fill(
        coin=coins[int(fills["coin"][n])],
        px=float(fills["price"][n]),
        sz=float(fills["size"][n]),
        side={1: "B", -1: "A"}.get(int(fills["side"][n]), "?"),
        time=int(fills["time_ms"][n]),
        oid=int(fills["oid"][n]),
        crossed=bool(fills["crossed"][n]),
        tid=int(fills["tid"][n]),
        hash=ZERO_HASH if fills["twap"][n] else "",
    )


def made_tid(tx_hash: str, buyer_oid: int, seller_oid: int) -> int:
    """Return a trade id for a print of `node_trades`, which has none: of its transaction and both orders.

    >>> made_tid("0x1", 11, 12) == made_tid("0x1", 11, 12) > 1 << 50
    True
    """
    said = f"{tx_hash}|{buyer_oid}|{seller_oid}".encode()
    return _MADE_TID + (int.from_bytes(blake2b(said, digest_size=8).digest(), "big") >> 14)


def _distinct(prints: Fills) -> Fills:
    """Return prints once each, the first of each key, in their order."""
    keys = np.column_stack([prints[name] for name in ("coin", "time_ms", "tid")])
    _, firsts = np.unique(keys, axis=0, return_index=True)
    return prints.at(np.sort(firsts))


def _iso_ms(times: list[datetime]) -> Array:
    """Return times, which are UTC with and without saying so, in the milliseconds that a block's fills have."""
    naive = [time.replace(tzinfo=None) for time in times]
    return np.array(naive, "datetime64[ms]").astype(np.int64)
