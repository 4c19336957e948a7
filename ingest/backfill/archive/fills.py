"""Pairing of archived fills into trades.

A node writes each trade twice, once for the buyer and once for the seller: fills are not trades, and neither their
count nor their volume may be halved blindly. A trade is a pair: equal in coin, time, `tid`, price and size, one side
`B` and one `A`, and exactly one that `crossed` the book, whose side is the aggressor's. Fills that do not pair are set
aside with the reason. Source: the venue's historical data and node pages (read 2026-08-22), and order_book_server.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

# Changes of a position without a trade in the book.
NO_TRADES: Final = frozenset(
    {
        "Spot Dust Conversion",
        "Settlement",
        "Split Outcome",
        "Merge Outcome",
        "Merge Question",
        "Negate Question",
        "Net Child Vaults",
    }
)
_DELEVERAGING: Final = "Auto-Deleveraging"
_SIDES: Final = {"B": "buy", "A": "sell"}

Key = tuple[str, int, int]
"""(coin, time in ms, tid): the venue's key of a trade."""


class Fill(msgspec.Struct, frozen=True, gc=False):
    """One side of a trade; prices and sizes come as decimal strings, `time` in ms."""

    coin: str
    px: float
    sz: float
    side: str
    time: int
    oid: int
    crossed: bool
    tid: int
    hash: str = ""
    dir: str = ""

    @property
    def key(self) -> Key:
        """Key that both sides of a trade share."""
        return self.coin, self.time, self.tid


@dataclass(frozen=True, slots=True)
class ArchiveTrade:
    """One trade; `aggressor` is `buy` or `sell`, `is_forced` marks an auto-deleveraging."""

    coin: str
    time_ms: int
    tid: int
    aggressor: str
    price: float
    size: float
    hash: str
    is_forced: bool


@dataclass(frozen=True, slots=True)
class Unpaired:
    """Fills that make no trade, and the rule that they break."""

    key: Key
    reason: str
    fills: tuple[Fill, ...]


class Pairing:
    """Pair fills that come in any order and more than once: layouts and hours of an archive overlap."""

    def __init__(self) -> None:
        self._open: dict[Key, dict[tuple[str, int], Fill]] = {}
        self._conflicting: dict[Key, list[Fill]] = {}
        self.left_out = 0
        """Number of fills marked as no trade, such as settlements."""

    def add(self, fills: Iterable[Fill]) -> None:
        """Add fills."""
        for fill in fills:
            if fill.dir in NO_TRADES:
                self.left_out += 1
                continue
            known = self._open.setdefault(fill.key, {}).setdefault((fill.side, fill.oid), fill)
            if known != fill and _figures(known) != _figures(fill):
                self._conflicting.setdefault(fill.key, []).append(fill)

    def settle(self, before_ms: int | None = None) -> tuple[list[ArchiveTrade], list[Unpaired]]:
        """Return, once, the trades before an instant (or all) in order of their key, and the unpaired fills.

        Args:
            before_ms: time before which all fills were added; if hours are read one by one, the start of the next hour
                less what may spill over.
        """
        due = sorted(key for key in self._open if before_ms is None or key[1] < before_ms)
        trades: list[ArchiveTrade] = []
        unpaired: list[Unpaired] = []
        for key in due:
            fills = (*self._open.pop(key).values(), *self._conflicting.pop(key, ()))
            reason = _violated_rule(fills)
            if reason:
                unpaired.append(Unpaired(key, reason, fills))
            else:
                trades.append(_trade(fills))
        trades.sort(key=lambda trade: (trade.time_ms, trade.coin, trade.tid))
        return trades, unpaired


def _figures(fill: Fill) -> tuple[Any, ...]:
    return fill.px, fill.sz, fill.crossed


def _violated_rule(fills: tuple[Fill, ...]) -> str:
    """Return why the fills of one key are no trade, or an empty string."""
    sides = sorted(fill.side for fill in fills)
    if sides == ["A", "A"] or sides == ["B", "B"]:
        return f"both fills are on side {sides[0]}"
    if sides != ["A", "B"]:
        return f"{len(fills)} fills on sides {'/'.join(sides)}: a trade has one B and one A"
    one, other = fills
    if (one.px, one.sz) != (other.px, other.sz):
        return f"price and size differ: {one.px} x {one.sz} and {other.px} x {other.sz}"
    if one.crossed == other.crossed:
        return f"{'both' if one.crossed else 'neither'} of the fills crossed: the aggressor is not known"
    if not (one.px > 0 and one.sz > 0):
        return f"price {one.px} and size {one.sz} are not above 0"
    return ""


def _trade(fills: tuple[Fill, ...]) -> ArchiveTrade:
    taker = next(fill for fill in fills if fill.crossed)
    is_forced = any(fill.dir == _DELEVERAGING for fill in fills)
    return ArchiveTrade(
        taker.coin, taker.time, taker.tid, _SIDES[taker.side], taker.px, taker.sz, taker.hash, is_forced
    )
