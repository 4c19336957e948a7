"""Parser of archived fills and trades into columns, at the speed of the JSON decoder.

Fills are parsed into columns piece by piece, and paired when all objects of the hour were read
(`ingest.backfill.archive.fill_pairing`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from itertools import chain
from typing import Any, Final, Literal

import msgspec
import numpy as np
from msgspec.structs import astuple
from numpy.typing import NDArray

from ingest.backfill.archive.fill_pairing import COLUMNS, Fills, RejectedFills, drop_duplicates, pair_fills
from ingest.backfill.archive.fills import NO_TRADES, Fill
from ingest.backfill.archive.ndjson import MalformedLine, NdjsonReader
from ingest.backfill.archive.object_keys import Form
from ingest.backfill.archive.refused_fills import RefusedSpan, spans_of_line
from ingest.pipeline.rows import ZERO_HASH

Array = NDArray[Any]

# Trades of `node_trades` have no tid. Synthetic ones lie above 2^50, where the venue's own end.
_SYNTHETIC_TID: Final = 1 << 50


class UserFill(msgspec.Struct, array_like=True, gc=False):
    """A user, not decoded, and a fill; a tuple would burden the garbage collector."""

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


class TextCodes(dict[str, int]):
    """Codes of texts in order of appearance."""

    def __missing__(self, text: str) -> int:
        self[text] = code = len(self)
        return code


@dataclass(slots=True)
class Hour:
    """Parsed contents of an hour.

    Args:
        prints: trades in the order of the archive.
        coins: names by code.
        beats_ms: sorted times of fills of any coin.
        odd: fills that make no trade.
        bad: malformed lines.
        refused: times of the trades that are in `odd` and `bad`.
        left_out: number of fills marked as no trade, such as settlements.
    """

    prints: Fills
    coins: list[str]
    beats_ms: Array
    odd: list[RejectedFills] = field(default_factory=list)
    bad: list[MalformedLine] = field(default_factory=list)
    refused: list[RefusedSpan] = field(default_factory=list)
    left_out: int = 0


class HourReader:
    """Parser of the objects that may hold events of an hour."""

    def __init__(self, from_ms: int, to_ms: int, *, spill_ms: int, coins: Iterable[str] = ()) -> None:
        """Prepare to parse `[from_ms, to_ms)`.

        Args:
            from_ms, to_ms: the hour.
            spill_ms: how far events may be out of order in an object.
            coins: only these (default: all).
        """
        self._from_ms, self._to_ms, self._spill_ms = from_ms, to_ms, spill_ms
        self._wanted = frozenset(coins)
        self._codes = TextCodes()
        self._fills: list[Fills] = []
        self._prints: list[Fills] = []
        self._beats: list[Array] = []
        self._bad: list[MalformedLine] = []
        self._refused: list[RefusedSpan] = []
        self._left_out = 0

    def add(self, pieces: Iterable[bytes], form: Form, object_number: int) -> None:
        """Parse an object; of a neighbouring hour only the part that may hold events of this one."""
        reader: NdjsonReader[Any] = NdjsonReader(_KINDS[form])
        parse: Callable[[list[Any], Array, int], tuple[Fills, list[int], Array]]
        parse = getattr(self, f"_parse_{form}")
        line = 0
        newest_ms = self._from_ms
        unplaced: list[tuple[MalformedLine, int]] = []
        for piece in pieces:
            first, last = self._first_and_last_ms(piece, reader, form)
            if last is not None and last < self._from_ms - self._spill_ms:
                line += piece.count(b"\n")
                continue
            if first is not None and first >= self._to_ms + self._spill_ms:
                break
            items, numbers, bad, line = reader.read(piece, object_number, line)
            rows, beats, beat_lines = parse(items, numbers, object_number)
            del items  # while they are still in the cache
            inside = (rows["time_ms"] >= self._from_ms) & (rows["time_ms"] < self._to_ms)
            (self._prints if form == "trades" else self._fills).append(
                rows if inside.all() else rows.at(inside)
            )
            self._beats.append(np.array(beats, np.int64))
            self._bad += bad
            if bad or unplaced:
                unplaced = self._place(unplaced, bad, self._beats[-1], beat_lines, newest_ms)
            newest_ms = max([newest_ms, *beats[-1:]])
        for item, before_ms in unplaced:
            self._refused += spans_of_line(item.raw, before_ms, self._to_ms)

    def _place(
        self,
        unplaced: list[tuple[MalformedLine, int]],
        bad: list[MalformedLine],
        beats: Array,
        lines: Array,
        newest_ms: int,
    ) -> list[tuple[MalformedLine, int]]:
        """Note what malformed lines may have held; return those after the last readable line of the piece.

        Args:
            unplaced: lines of earlier pieces, and the time before each.
            bad: lines of the piece.
            beats, lines: (n,) times in the piece, and the numbers of their lines, rising.
            newest_ms: time before the piece.
        """
        waiting = []
        for item, before_ms in [*unplaced, *((item, newest_ms) for item in bad)]:
            at = int(np.searchsorted(lines, item.line))
            earlier_ms = int(beats[at - 1]) if at else before_ms
            if at < len(lines):
                self._refused += spans_of_line(item.raw, earlier_ms, int(beats[at]))
            else:
                waiting.append((item, earlier_ms))
        return waiting

    def finish(self) -> Hour:
        """Return the hour after all objects were added."""
        names = list(self._codes)
        prints, odd = pair_fills(Fills.join(self._fills), names)
        if self._prints:
            prints, other = drop_duplicates(Fills.join([*self._prints, prints]), names)
            odd = [*odd, *other]
        beats = np.sort(np.concatenate([*self._beats, np.empty(0, np.int64)]))
        keys = [item.unpaired.key for item in odd]
        refused = [*self._refused, *(RefusedSpan(coin, time_ms, time_ms) for coin, time_ms, _ in keys)]
        return Hour(prints, names, beats, odd, self._bad, refused, self._left_out)

    def _first_and_last_ms(
        self, piece: bytes, reader: NdjsonReader[Any], form: Form
    ) -> tuple[int | None, int | None]:
        """Return the times of the first and last line of a piece; None where they have none."""
        if form != "trades":
            first, last = _TIME.search(piece), _TIME.match(piece, max(0, piece.rfind(b'"time"')))
            return (int(first[1]), int(last[1])) if first and last else (None, None)
        head = piece[: piece.find(b"\n") + 1] or piece
        tail = piece[piece.rstrip().rfind(b"\n") + 1 :]
        items = [*reader.read(head, 0, 0)[0], *reader.read(tail, 0, 0)[0]]
        times = _iso_ms([item.time for item in items]).tolist()
        return (times[0], times[-1]) if times else (None, None)

    def _parse_blocks(
        self, blocks: list[BlockLine], numbers: Array, object_number: int
    ) -> tuple[Fills, list[int], Array]:
        events = [block.events for block in blocks]
        beat_lines = numbers[np.array([bool(event) for event in events], np.bool_)]
        beats = [event[0].fill.time for event in events if event]
        fills = [event.fill for event in chain.from_iterable(events)]
        numbers = np.repeat(numbers, [len(event) for event in events])
        return self._columns(fills, numbers, object_number), beats, beat_lines

    def _parse_fills(
        self, lines: list[UserFill], numbers: Array, object_number: int
    ) -> tuple[Fills, list[int], Array]:
        fills = [line.fill for line in lines]
        return self._columns(fills, numbers, object_number), [fill.time for fill in fills], numbers

    def _parse_trades(
        self, lines: list[_Print], numbers: Array, object_number: int
    ) -> tuple[Fills, list[int], Array]:
        times = _iso_ms([line.time for line in lines])
        indices = [n for n, line in enumerate(lines) if not self._wanted or line.coin in self._wanted]
        chosen = [lines[n] for n in indices]
        columns: dict[str, Any] = {
            "coin": [self._codes[item.coin] for item in chosen],
            "side": [1 if item.side == "B" else -1 for item in chosen],
            "crossed": np.ones(len(indices)),
            "twap": [item.hash == ZERO_HASH for item in chosen],
            "object": np.full(len(indices), object_number),
            "line": numbers[indices],
            "time_ms": times[indices],
            "tid": [synthetic_tid(item.hash, *(party.oid for party in item.side_info)) for item in chosen],
            "oid": np.zeros(len(indices)),
            "price": [item.px for item in chosen],
            "size": [item.sz for item in chosen],
        }
        rows = Fills({name: np.array(columns[name], kind) for name, kind in COLUMNS.items()})
        return rows, times.tolist(), numbers

    def _columns(self, fills: list[Fill], line: Array, object_number: int) -> Fills:
        # Transposing tuples of all attributes took 469 ns a fill; one attribute after another took 528.
        coin, px, sz, side, time, oid, crossed, tid, tx_hash, directions = _transposed(fills)
        if self._wanted or not NO_TRADES.isdisjoint(directions):
            indices = [n for n, text in enumerate(directions) if text not in NO_TRADES]
            self._left_out += len(fills) - len(indices)
            indices = [n for n in indices if not self._wanted or coin[n] in self._wanted]
            fills, line = [fills[n] for n in indices], line[indices]
            coin, px, sz, side, time, oid, crossed, tid, tx_hash, _ = _transposed(fills)
        count = len(fills)
        sides = "".join(side).encode("ascii", "replace")
        if len(sides) != count:
            sides = bytes(ord(text) if text in ("A", "B") else 0 for text in side)
        return Fills(
            {
                "coin": np.fromiter(map(self._codes.__getitem__, coin), np.int32, count),
                "side": _SIDES[np.frombuffer(sides, np.uint8)],
                "crossed": np.fromiter(crossed, np.bool_, count),
                "twap": np.array([text == ZERO_HASH for text in tx_hash], np.bool_),
                "object": np.full(count, object_number, np.int32),
                "line": line,
                "time_ms": np.fromiter(time, np.int64, count),
                "tid": np.fromiter(tid, np.int64, count),
                "oid": np.fromiter(oid, np.int64, count),
                "price": np.fromiter(px, np.float64, count),
                "size": np.fromiter(sz, np.float64, count),
            }
        )


def _transposed(fills: list[Fill]) -> Sequence[tuple[Any, ...]]:
    """Return the attributes of fills, one tuple each."""
    return list(zip(*map(astuple, fills), strict=True)) or [()] * len(Fill.__struct_fields__)


_KINDS: Final[dict[Form, Any]] = {"blocks": BlockLine, "fills": UserFill, "trades": _Print}
_TIME: Final = re.compile(rb'"time"\s*:\s*(\d+)')
_SIDES: Final = np.zeros(256, np.int8)
_SIDES[ord("B")], _SIDES[ord("A")] = 1, -1


def synthetic_tid(tx_hash: str, buyer_oid: int, seller_oid: int) -> int:
    """Return a trade id for a trade of `node_trades`, which has none, from its transaction and both orders.

    >>> synthetic_tid("0x1", 11, 12) == synthetic_tid("0x1", 11, 12) > 1 << 50
    True
    """
    text = f"{tx_hash}|{buyer_oid}|{seller_oid}".encode()
    return _SYNTHETIC_TID + (int.from_bytes(blake2b(text, digest_size=8).digest(), "big") >> 14)


def _iso_ms(times: list[datetime]) -> Array:
    """Return times in milliseconds; they are UTC with or without a zone."""
    naive = [time.replace(tzinfo=None) for time in times]
    return np.array(naive, "datetime64[ms]").astype(np.int64)
