"""Validation of order book snapshots, and their rows in the table `books`.

Each snapshot must be valid by itself: bids strictly falling, asks strictly rising, not crossed, every price and size
above zero, no more levels than its mode allows. Either side may be empty. A GaiaEx book and the Hyperliquid book of the
same coin may cross each other, because one lags behind the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, Protocol

from ingest.journal.records import Record
from ingest.venues.hyperliquid.messages import Level

Mode = Literal["slow", "fast", "relay"]

MOST_LEVELS: Final[dict[Mode, int]] = {"slow": 20, "fast": 5, "relay": 100}
"""Levels a side. Hyperliquid's as of 2026-07-25; GaiaEx documents none for its socket, 50 is the most over REST."""

_LARGEST: Final = 1e12


class Book(Protocol):
    """A snapshot of either venue: its time in ms, and bids and asks from the best level on."""

    @property
    def time(self) -> int: ...

    @property
    def levels(self) -> tuple[list[Level], list[Level]]: ...


def unusable_book(book: Book, mode: Mode = "slow") -> str:
    """Return why a book's levels cannot be used, or an empty text; the caller checks its time."""
    bids, asks = book.levels
    faults = [
        _unusable_side("bid", bids, MOST_LEVELS[mode], -1),
        _unusable_side("ask", asks, MOST_LEVELS[mode], 1),
    ]
    if bids and asks and not bids[0].px < asks[0].px:
        faults.append(f"crossed: bid {bids[0].px:g} is not below ask {asks[0].px:g}")
    return "; ".join(filter(None, faults))


def _unusable_side(name: str, levels: Sequence[Level], most: int, sign: int) -> str:
    if len(levels) > most:
        return f"{len(levels)} {name}s are more than {most}"
    before = 0.0
    for number, level in enumerate(levels):
        price = level.px
        if not 0.0 < price < _LARGEST or not 0.0 < level.sz < _LARGEST:
            return f"{name} {number} ({level.sz:g} at {price:g}) is not above 0 and below {_LARGEST:g}"
        if number and not sign * (price - before) > 0.0:
            rule = "rise" if sign > 0 else "fall"
            return f"{name}s do not {rule}: {price:g} follows {before:g} at level {number}"
        before = price
    return ""


def book_row(
    recording: str, record: Record, instrument: str, book: Book, mode: Mode, *, is_stale: bool = False
) -> dict[str, Any]:
    """Return a row of `books`.

    Args:
        recording: the recording's name.
        record: the frame with the book.
        instrument: of the book.
        book: the snapshot.
        mode: of the book.
        is_stale: the venue flags it as stale.
    """
    bids, asks = book.levels
    return {
        "instrument": instrument,
        "ts_event": book.time * 1000,
        "mode": mode,
        "bid_px": [level.px for level in bids],
        "bid_sz": [level.sz for level in bids],
        "ask_px": [level.px for level in asks],
        "ask_sz": [level.sz for level in asks],
        "is_stale": is_stale,
        "origin": "live",
        "ts_recv_ns": record.recv_ns,
        "ts_knowable_ns": record.recv_ns,
        "journal": recording,
        "frame": record.frame,
    }
