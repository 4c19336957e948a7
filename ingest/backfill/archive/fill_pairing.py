"""Which fills are two of one trade? Told by arrays where that goes, else one by one, with the reason.

What is one B and one A of one trade, as nearly all are, is paired by arrays, all of an hour at once; the rest goes
through `ingest.backfill.archive.fills.Pairing`, one by one, which knows the reasons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ingest.backfill.archive.fills import Fill, Pairing, Unpaired
from ingest.pipeline.rows import ZERO_HASH

Array = NDArray[Any]

COLUMNS: Final = {
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
        for name, kind in COLUMNS.items():
            columns[name] = np.concatenate([*(part[name] for part in parts), np.empty(0, kind)])
        return Fills(columns)


@dataclass(frozen=True, slots=True)
class RejectedFills:
    """Fills that make no print, and the rule they break; where the first of them stands."""

    unpaired: Unpaired
    object: int
    line: int


def pair(fills: Fills, coins: Sequence[str]) -> tuple[Fills, list[RejectedFills]]:
    """Return the prints that fills make, in the order of their first fill, and what makes none.

    Args:
        fills: in any order; the same fill may come more than once.
        coins: names by code.
    """
    is_left = np.ones(len(fills), np.bool_)
    takers, firsts = [], []
    for look in (_side_by_side, _by_tid):
        one, other = look(fills["tid"], np.flatnonzero(is_left))
        fits = _fit(fills, one, other)
        one, other = one[fits], other[fits]
        is_left[one] = is_left[other] = False
        takers.append(np.where(fills["crossed"][one], one, other))
        firsts.append(np.minimum(one, other))
        if not is_left.any():
            break
    odd: list[RejectedFills] = []
    if is_left.any():
        more, odd = _pair_slowly(fills, np.flatnonzero(is_left), coins)
        takers.append(more[:, 0])
        firsts.append(more[:, 1])
    taker = np.concatenate(takers)
    # Those that lie side by side are in order already.
    return fills.at(taker if len(takers) == 1 else taker[np.argsort(np.concatenate(firsts))]), odd


def _side_by_side(tid: Array, left: Array) -> tuple[Array, Array]:  # noqa: ARG001 - the first look is at all
    """Return the places of two that follow each other, as a node writes them, and share a tid that no other has."""
    one = np.flatnonzero(tid[1:] == tid[:-1])
    in_order = np.sort(tid[one])
    is_other = np.ones(len(tid), np.bool_)
    is_other[one] = is_other[one + 1] = False
    others = tid[is_other]
    at = np.minimum(np.searchsorted(in_order, others), max(0, len(in_order) - 1))
    again = others[in_order[at] == others] if len(in_order) else others[:0]
    again = np.concatenate([again, in_order[1:][in_order[1:] == in_order[:-1]]])
    one = one[~np.isin(tid[one], again)] if len(again) else one
    return one, one + 1


def _by_tid(tid: Array, left: Array) -> tuple[Array, Array]:
    """Return the places of two, wherever they lie among what is left, that share a tid which no other of those has."""
    # Not stable, which takes ten times as long: what shares a tid is two of a trade, or looked at one by one.
    by_tid = left[np.argsort(tid[left])]
    tid = tid[by_tid]
    starts = np.flatnonzero(np.concatenate(([True], tid[1:] != tid[:-1])))
    twos = starts[np.diff(np.append(starts, len(tid))) == 2]
    return by_tid[twos], by_tid[twos + 1]


def _fit(fills: Fills, one: Array, other: Array) -> Array:
    """Say of each two whether they are one trade."""
    fits: Array = fills["side"][one] * fills["side"][other] == -1
    fits &= fills["crossed"][one] != fills["crossed"][other]
    for name in ("coin", "time_ms", "price", "size"):
        fits &= fills[name][one] == fills[name][other]
    return fits & (fills["price"][one] > 0) & (fills["size"][one] > 0)


def _pair_slowly(fills: Fills, left: Array, coins: Sequence[str]) -> tuple[Array, list[RejectedFills]]:
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
        odd.append(RejectedFills(item, int(fills["object"][first]), int(fills["line"][first])))
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


def distinct(prints: Fills) -> Fills:
    """Return prints once each, the first of each key, in their order."""
    keys = np.column_stack([prints[name] for name in ("coin", "time_ms", "tid")])
    _, firsts = np.unique(keys, axis=0, return_index=True)
    return prints.at(np.sort(firsts))
