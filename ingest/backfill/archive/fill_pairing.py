"""Pairing of an hour of fills by arrays, with a fallback one by one.

Fills that are one B and one A of one trade, as nearly all are, are paired by arrays, all of an hour at once; the rest
goes through `ingest.backfill.archive.fills.Pairing`, one by one, which states the reasons.
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
    """Fills, or trades, by column; one array each, since gathering rows of one array took four times as long.

    `coin` is a code, `object` the number of the object and `line` that of the line in it; for a trade, `side` is the
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
        """Return the fills at some indices, or where a mask is true."""
        return Fills({name: column[chosen] for name, column in self._columns.items()})

    @staticmethod
    def join(parts: Sequence[Fills]) -> Fills:
        """Concatenate several."""
        columns = {}
        for name, kind in COLUMNS.items():
            columns[name] = np.concatenate([*(part[name] for part in parts), np.empty(0, kind)])
        return Fills(columns)


@dataclass(frozen=True, slots=True)
class RejectedFills:
    """Fills that make no trade, the rule that they break, and the position of the first."""

    unpaired: Unpaired
    object: int
    line: int


def pair_fills(fills: Fills, coins: Sequence[str]) -> tuple[Fills, list[RejectedFills]]:
    """Return the trades that fills make, in the order of their first fill, and the rejected fills.

    Args:
        fills: in any order; the same fill may come more than once.
        coins: names by code.
    """
    is_remaining = np.ones(len(fills), np.bool_)
    takers, firsts = [], []
    for match in (_match_adjacent, _match_by_tid):
        one, other = match(fills["tid"], np.flatnonzero(is_remaining))
        fits = _are_pairs(fills, one, other)
        one, other = one[fits], other[fits]
        is_remaining[one] = is_remaining[other] = False
        takers.append(np.where(fills["crossed"][one], one, other))
        firsts.append(np.minimum(one, other))
        if not is_remaining.any():
            break
    rejected: list[RejectedFills] = []
    if is_remaining.any():
        more, rejected = _pair_slowly(fills, np.flatnonzero(is_remaining), coins)
        takers.append(more[:, 0])
        firsts.append(more[:, 1])
    taker = np.concatenate(takers)
    # Adjacent pairs are in order already.
    return fills.at(taker if len(takers) == 1 else taker[np.argsort(np.concatenate(firsts))]), rejected


def _match_adjacent(tid: Array, left: Array) -> tuple[Array, Array]:  # noqa: ARG001 - the first pass takes all
    """Return the indices of adjacent fills, as a node writes them, that share a tid which no other has."""
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


def _match_by_tid(tid: Array, left: Array) -> tuple[Array, Array]:
    """Return the indices of two remaining fills, wherever they lie, that share a tid which no other has."""
    # A stable sort takes ten times as long and is not needed: fills of one tid are a pair, or checked one by one.
    by_tid = left[np.argsort(tid[left])]
    tid = tid[by_tid]
    starts = np.flatnonzero(np.concatenate(([True], tid[1:] != tid[:-1])))
    twos = starts[np.diff(np.append(starts, len(tid))) == 2]
    return by_tid[twos], by_tid[twos + 1]


def _are_pairs(fills: Fills, one: Array, other: Array) -> Array:
    """Return for each two fills whether they are one trade."""
    fits: Array = fills["side"][one] * fills["side"][other] == -1
    fits &= fills["crossed"][one] != fills["crossed"][other]
    for name in ("coin", "time_ms", "price", "size"):
        fits &= fills[name][one] == fills[name][other]
    return fits & (fills["price"][one] > 0) & (fills["size"][one] > 0)


def _pair_slowly(fills: Fills, left: Array, coins: Sequence[str]) -> tuple[Array, list[RejectedFills]]:
    """Return (taker, first) of each trade among the remaining fills, and the rejected ones."""
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
    rejected = []
    for item in unpaired:
        first = min(where[item.key].values())
        rejected.append(RejectedFills(item, int(fills["object"][first]), int(fills["line"][first])))
    return np.array(found, np.int64).reshape(-1, 2), rejected


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


def drop_duplicates(prints: Fills, coins: Sequence[str]) -> tuple[Fills, list[RejectedFills]]:
    """Return trades once each, the first of each key, in their order, and the later ones that contradict it.

    Args:
        prints: in the order of their objects.
        coins: names by code.
    """
    keys = np.column_stack([prints[name] for name in ("coin", "time_ms", "tid")])
    _, firsts, groups = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    first = firsts[groups.reshape(-1)]
    is_other = np.zeros(len(prints), np.bool_)
    for name in ("side", "price", "size"):
        is_other |= prints[name] != prints[name][first]
    rejected = []
    for n in np.flatnonzero(is_other).tolist():
        fill = _as_fill(prints, n, coins)
        what = Unpaired(fill.key, "an earlier trade has its key, with other values", (fill,))
        rejected.append(RejectedFills(what, int(prints["object"][n]), int(prints["line"][n])))
    return prints.at(np.sort(firsts)), rejected
