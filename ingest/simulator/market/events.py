"""Scheduled changes of the simulated market: listings, halts, missing book sides, a shifted clock.

Unlike a fault of delivery, these are consistent everywhere: `/info`, snapshots and streams agree.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from typing import Any, Final

from ingest.simulator.faults.faults import (
    ChainHalt,
    ClockOff,
    EmptySide,
    Halt,
    ListingChange,
    MarketChange,
    NullBook,
    SlowBook,
)
from ingest.simulator.market.universe import SimulatedListing, SimulatedUniverse
from ingest.simulator.wire.encoder import Block, Frame, SimulatedPrint, SimulatedQuote, empty_bbo_text

BOTH_SIDES: Final = frozenset({"bid", "ask"})
_CONTEXTS: Final = ("activeAssetCtx", "activeSpotAssetCtx")
_STAMP: Final = re.compile(r'"time":(\d+)')

Windowed = ChainHalt | Halt | SlowBook | NullBook | EmptySide | ClockOff


class MarketSchedule:
    """Scheduled changes, and the universe that they change.

    Args:
        listings: every coin of the source.
        changes: known from the start; a coin that will be `listed` is absent until then.
    """

    def __init__(self, listings: Iterable[SimulatedListing], changes: Iterable[MarketChange] = ()) -> None:
        changes = list(changes)
        listed_later = [
            item.coin for item in changes if isinstance(item, ListingChange) and item.what == "listed"
        ]
        self.universe = SimulatedUniverse(listings, listed_later)
        self._now_s = 0.0
        self._listings: list[ListingChange] = []
        self._windows: list[Windowed] = []
        self._retired: set[str] = set()
        self._emptied: set[str] = set()
        self._frozen: dict[str, str] = {}
        self._last_ms = 0
        self._acts = bool(listed_later)
        for item in changes:
            self.add(item)

    def add(self, change: MarketChange) -> None:
        """Schedule a change; one whose time has passed happens at the next block."""
        self._acts = True
        if isinstance(change, ListingChange):
            self._listings.append(change)
            self._listings.sort(key=lambda item: item.at_s)
        else:
            self._windows.append(change)

    def advance(self, now_s: float) -> None:
        """Advance to the time of a block, in seconds since the start of the source, and change listings."""
        self._now_s = max(self._now_s, now_s)
        while self._listings and self._listings[0].at_s <= self._now_s:
            change = self._listings.pop(0)
            if change.what == "delisted":
                self.universe.delist(change.coin)
                self._retired.add(change.coin)
                continue
            if change.what == "listed":
                self.universe.list_coin(change.coin)
            else:
                self.universe.recycle(change.coin, change.size_decimals)
            self._retired.discard(change.coin)

    @property
    def is_halted(self) -> bool:
        """Return whether the chain makes no blocks."""
        return any(isinstance(item, ChainHalt) for item in self._active())

    @property
    def offset_ms(self) -> int:
        """Return the offset of the venue's clock."""
        return round(sum(item.by_s for item in self._active() if isinstance(item, ClockOff)) * 1_000)

    def is_dark(self, coin: str) -> bool:
        """Return whether a coin was delisted by a change, or is halted."""
        return coin in self._retired or any(
            isinstance(item, Halt) and item.coin == coin for item in self._active()
        )

    def is_null(self, coin: str) -> bool:
        """Return whether a coin's book is null."""
        return any(isinstance(item, NullBook) and item.coin == coin for item in self._active())

    def missing_sides(self, coin: str) -> frozenset[str]:
        """Return which of `bid` and `ask` a coin's book lacks."""
        if not self._acts:
            return frozenset()
        if self.is_dark(coin):
            return BOTH_SIDES
        return frozenset(
            item.side for item in self._active() if isinstance(item, EmptySide) and item.coin == coin
        )

    def apply(self, block: Block) -> Block:
        """Return a block with the changes applied; the same block if there are none."""
        if not self._acts:
            return block
        self._emptied = {coin for coin in self._emptied if self.is_dark(coin)}
        self._frozen = {coin: text for coin, text in self._frozen.items() if self.is_dark(coin)}
        frames = [new for frame in block.frames if (new := self._change(frame)) is not None]
        fundings = [row for row in block.fundings if self.is_known(row.coin) and not self.is_dark(row.coin)]
        slow, last_ms = block.slow_book, self._last_ms
        self._last_ms = block.time_ms
        for item in self._active():
            if isinstance(item, SlowBook):
                cadence_ms = round(item.cadence_s * 1_000)
                slow = block.time_ms // cadence_ms != last_ms // cadence_ms
        time_ms = block.time_ms
        if offset_ms := self.offset_ms:
            time_ms += offset_ms
            frames = [shifted(frame, offset_ms) for frame in frames]
        return Block(time_ms, block.clock_ns, frames, fundings, slow, block.fast_book)

    def apply_past(self, block: Block) -> Block:
        """Return a block before the first instant served, without coins that are not listed yet."""
        if not self._acts:
            return block
        frames = [frame for frame in block.frames if self.is_known(frame.coin)]
        fundings = [row for row in block.fundings if self.is_known(row.coin)]
        return dataclasses.replace(block, frames=frames, fundings=fundings)

    def is_known(self, coin: str) -> bool:
        """Return whether a coin is in the universe; an empty one knows any."""
        return not coin or self.universe.knows(coin)

    def _active(self) -> list[Windowed]:
        return [item for item in self._windows if item.holds(self._now_s)]

    def _change(self, frame: Frame) -> Frame | None:
        """Return the changed frame, or None if it is dropped."""
        coin = frame.coin
        if not self.is_known(coin):
            return None
        missing = self.missing_sides(coin)
        if not missing:
            return frame
        if frame.channel in _CONTEXTS:
            return frame._replace(text=self._context(frame, frozen=missing == BOTH_SIDES))
        if missing != BOTH_SIDES:
            return _without_side(frame, missing) if frame.channel == "bbo" else frame
        if frame.channel != "bbo" or coin in self._emptied:
            return None
        # An empty bbo is sent once: the channel sends only changes.
        self._emptied.add(coin)
        return frame._replace(text=empty_bbo_text(coin, int(_stamp(frame.text))), quote=None)

    def _context(self, frame: Frame, *, frozen: bool) -> str:
        """Return a context without the fields that need both sides of a book; a frozen one keeps its first text."""
        if frozen and frame.coin in self._frozen:
            return self._frozen[frame.coin]
        message: dict[str, Any] = json.loads(frame.text)
        context = message["data"]["ctx"]
        context |= {key: None for key in ("premium", "midPx", "impactPxs") if key in context}
        text = json.dumps(message, separators=(",", ":"))
        if frozen:
            self._frozen[frame.coin] = text
        return text


def shifted(frame: Frame, offset_ms: int) -> Frame:
    """Return a frame with its timestamps, and those of its trades and quote, shifted."""

    def move(text: str) -> str:
        return _STAMP.sub(lambda found: f'"time":{int(found[1]) + offset_ms}', text)

    prints = tuple(
        SimulatedPrint(item.coin, item.time_ms + offset_ms, item.tid, item.price, item.size, move(item.text))
        for item in frame.prints
    )
    quote = frame.quote
    moved: SimulatedQuote | None = (
        None if quote is None else quote._replace(time_ms=quote.time_ms + offset_ms)
    )
    return frame._replace(text=move(frame.text), prints=prints, quote=moved)


def _without_side(frame: Frame, missing: frozenset[str]) -> Frame:
    message: dict[str, Any] = json.loads(frame.text)
    bid, ask = message["data"]["bbo"]
    message["data"]["bbo"] = [None if "bid" in missing else bid, None if "ask" in missing else ask]
    return frame._replace(text=json.dumps(message, separators=(",", ":")))


def _stamp(text: str) -> str:
    found = _STAMP.search(text)
    return found[1] if found else "0"
