"""Bars of one width for all instruments: open bars, publication and revisions.

Every instrument's bars lie on one grid. A bar is published at its close plus the grace period, by the receipt clock,
whether or not anything printed: that row is revision 0 and holds what had been received by then. Later prints and
later findings of the coverage ledger are collected until the next such instant and published as the next revision.
All of this is a function of the journal's receipt times alone, so live and replay agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from ingest.bars.aggregate import Folded, bar_of, fold_groups
from ingest.bars.bar_columns import (
    MARKET_COLUMNS,
    TRADE_COLUMNS,
    ContextNote,
    Quote,
    market_columns,
    trade_columns,
)
from ingest.bars.bar_status import bar_status, is_certifiable, is_incomplete, is_unlisted
from ingest.bars.silent_bars import SilentBars, is_silent
from ingest.bars.trade_buffer import Chunk, Row, TradeBuffer
from ingest.coverage.intervals import Part
from ingest.coverage.ledger import BOOK, TRADES, CoverageLedger
from ingest.coverage.silence import SilenceJudge
from ingest.instruments.trading_calendar import session_at
from storage.clock import DAY_NS, MS_NS, NS, US_NS, floor_ns, width_ns
from storage.contracts.availability import available_ns
from storage.logs import get_logger

logger = get_logger(__name__)

# A bar that closed longer ago than this, and than two bars, is not reopened by a late print, which is still stored as
# a trade. Twice the default lateness of the watermark.
REOPEN_NS: Final = 120 * NS

# A bar that was not fully watched is kept longer, for the venue's own candle an hour after it.
BLIND_NS: Final = 7_200 * NS

# A bar without a print may be doubted while the silence lasts, but is not kept longer than this.
SILENT_NS: Final = DAY_NS

_FORGET_EVERY_NS: Final = 60 * NS

SIDE_CODES: Final = {"buy": 1, "sell": -1, "unknown": 0}


@dataclass(slots=True)
class _InstrumentBars:
    """Recent bars of one instrument, and the prints, quotes and contexts that they are made of."""

    first_open_ns: int
    next_open_ns: int
    silent: SilentBars
    """Bars without a print that have left `published` and may still change."""
    has_trades: bool = True
    delisted_ns: int | None = None
    absences: list[Part] = field(default_factory=list)
    """Earlier intervals in which it was delisted, each up to the first bar after its return."""
    prints: dict[int, TradeBuffer] = field(default_factory=dict)
    quotes: dict[int, Quote] = field(default_factory=dict)
    contexts: dict[int, ContextNote] = field(default_factory=dict)
    published: dict[int, dict[str, Any]] = field(default_factory=dict)
    settled: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Bars that no print can reopen, and that wait for the venue's candle."""
    pending: set[int] = field(default_factory=set)
    late: set[int] = field(default_factory=set)


class BarClock:
    """Bars of one width for all instruments."""

    def __init__(
        self,
        width: str,
        *,
        grace_ns: int,
        lag_ns: int,
        ledger: CoverageLedger,
        silence: SilenceJudge,
        keeps_settled: bool = False,
    ) -> None:
        """Start without instruments.

        Args:
            width: such as `1m`.
            grace_ns: a bar is published this long after its close.
            lag_ns: a repaired bar was available this long after its close.
            ledger: coverage of each bar.
            silence: judges bars without a print.
            keeps_settled: keep bars that will be compared with the venue's candles.
        """
        self.keeps_settled = keeps_settled
        self.width = width
        self.width_ns = width_ns(width)
        self.grace_ns = grace_ns
        self._lag_ns = lag_ns
        self.reopen_ns = max(REOPEN_NS, 2 * self.width_ns)
        """A late print may change a bar for at least this long after its open."""
        self.ledger = ledger
        self.silence = silence
        self._forget_ns = 0
        self._books: dict[str, _InstrumentBars] = {}
        self._dirty: dict[str, int] = {}

    def next_tick_ns(self, after_ns: int) -> int:
        """Return the first publishing instant later than `after_ns`."""
        return floor_ns(after_ns - self.grace_ns, self.width_ns) + self.width_ns + self.grace_ns

    def add_instrument(self, instrument: str, now_ns: int, *, has_trades: bool = True) -> None:
        """Begin an instrument's bars with the one that contains `now_ns`; a delisted instrument continues.

        Args:
            instrument: of the bars.
            now_ns: when it was first subscribed to, or listed again.
            has_trades: false for a venue that publishes books only.
        """
        opened = floor_ns(now_ns, self.width_ns)
        book = self._book(instrument, opened, has_trades=has_trades)
        if book.delisted_ns is not None:
            book.absences.append((book.delisted_ns, opened))
            book.delisted_ns, book.next_open_ns = None, max(book.next_open_ns, opened)

    def _book(self, instrument: str, open_ns: int, *, has_trades: bool = True) -> _InstrumentBars:
        """Return an instrument's bars, which begin at `open_ns` where there are none yet."""
        book = self._books.get(instrument)
        if book is None:
            silent = SilentBars(instrument, self.width, self.width_ns)
            book = self._books[instrument] = _InstrumentBars(open_ns, open_ns, silent, has_trades)
        return book

    def end_instrument(self, instrument: str, at_ns: int) -> None:
        """End the bars of a delisted instrument with the one that is open."""
        book = self._books.get(instrument)
        if book is not None and book.delisted_ns is None:
            book.delisted_ns = at_ns

    def has(self, instrument: str) -> bool:
        """Return whether bars of an instrument are made."""
        return instrument in self._books

    def instruments(self) -> list[str]:
        """Return the instruments whose bars are made."""
        return sorted(self._books)

    def recent(self, instrument: str, most: int) -> list[dict[str, Any]]:
        """Return an instrument's newest published bars, oldest first."""
        published = self._books[instrument].published
        return [published[bar] for bar in sorted(published)[-most:]]

    def has_trades(self, instrument: str) -> bool:
        """Return whether an instrument's venue publishes trades."""
        return self._books[instrument].has_trades

    def trades_of(self, instrument: str, open_ns: int) -> int | None:
        """Return the number of prints of a published bar; None for one that is no longer in memory."""
        book = self._books.get(instrument)
        if book is not None and open_ns in book.silent:
            return 0
        if book is None or open_ns not in book.published:
            return None
        prints = book.prints.get(open_ns)
        return len(prints) if prints is not None else 0

    def row_of(self, instrument: str, open_ns: int) -> dict[str, Any] | None:
        """Return the last revision of a published bar; None for one that is no longer in memory."""
        book = self._books.get(instrument)
        if book is not None and open_ns in book.silent:
            return book.silent.row(open_ns)
        return None if book is None else book.published.get(open_ns) or book.settled.get(open_ns)

    def certify(self, instrument: str, open_ns: int, now_ns: int) -> dict[str, Any]:
        """Certify a published bar with which the venue's candle agrees, and return its next revision."""
        book = self._books[instrument]
        if open_ns in book.silent:
            before = book.silent.row(open_ns)
        else:
            before = book.published.get(open_ns) or book.settled.pop(open_ns)
        row = before | {"certified": True, "revision": before["revision"] + 1}
        self._set_clocks(row, now_ns)
        if open_ns in book.published:
            book.published[open_ns] = row
        elif open_ns in book.silent:
            book.silent.put(open_ns, row)
        return row

    def restore_settled(self, instrument: str, row: dict[str, Any]) -> None:
        """Restore a bar that an earlier recording published, and that only waits for the venue's candle."""
        book, open_ns = self._books[instrument], row["ts_open"] * US_NS
        if is_silent(row):
            book.silent.put(open_ns, row)
        else:
            book.settled[open_ns] = row

    def add_print(self, instrument: str, row: Row, published_to_ns: int) -> None:
        """Add a print.

        Args:
            instrument: of the print.
            row: time, order, price, size, side.
            published_to_ns: bars that close up to this time are already published.
        """
        prints = self._reopened(instrument, floor_ns(row[0], self.width_ns), published_to_ns)
        if prints is not None:
            prints.add(row)

    def add_prints(self, instrument: str, chunk: Chunk, published_to_ns: int) -> None:
        """Add many prints of one instrument, see `add_print`."""
        bars = bar_of(np.ascontiguousarray(chunk["ts_ns"]), self.width_ns)
        cuts = np.flatnonzero(bars[1:] != bars[:-1]) + 1
        for part, bar in zip(np.split(chunk, cuts), bars[np.append(0, cuts)].tolist(), strict=True):
            prints = self._reopened(instrument, bar * self.width_ns, published_to_ns)
            if prints is not None:
                prints.extend(part)

    def _reopened(self, instrument: str, bar: int, published_to_ns: int) -> TradeBuffer | None:
        """Return the buffer for more prints of a bar; None if they come too late, or before its first bar."""
        book = self._books[instrument]
        if bar < book.first_open_ns:
            return None
        # Bars that a recorder missed while it was down are published only at its first publishing instant.
        is_published = bar + self.width_ns <= published_to_ns and bar < book.next_open_ns
        if is_published and bar in book.silent:
            book.published[bar] = book.silent.pop(bar)
        if is_published and bar not in book.published:
            logger.warning("print too late to reopen its bar", instrument=instrument, bar_open_ns=bar)
            return None
        if is_published:
            book.late.add(bar)
        prints = book.prints.get(bar)
        if prints is None:
            prints = book.prints[bar] = TradeBuffer()
        return prints

    def add_quote(self, instrument: str, quote: Quote) -> None:
        """Add a change of the best bid or ask."""
        book = self._books[instrument]
        bar = floor_ns(quote.ts_ns, self.width_ns)
        newest = book.quotes.get(bar)
        if newest is None or quote.ts_ns >= newest.ts_ns:
            book.quotes[bar] = quote

    def add_context(self, instrument: str, note: ContextNote) -> None:
        """Add a context."""
        self._books[instrument].contexts[floor_ns(note.recv_ns, self.width_ns)] = note

    def restore(self, instrument: str, row: dict[str, Any], prints: Iterable[Row]) -> None:
        """Restore a bar that an earlier recording published, with the prints it was made of."""
        open_ns = row["ts_open"] * US_NS
        book = self._book(instrument, open_ns, has_trades=row["trades_applicable"])
        book.first_open_ns = min(book.first_open_ns, open_ns)
        book.next_open_ns = max(book.next_open_ns, open_ns + self.width_ns)
        book.published[open_ns] = row
        rows = list(prints)
        if rows:
            book.prints[open_ns] = TradeBuffer(rows)

    def restore_silent(self, instrument: str, row: dict[str, Any]) -> None:
        """Restore a bar without a print that an earlier recording published, and that may yet be doubted."""
        open_ns = row["ts_open"] * US_NS
        book = self._book(instrument, open_ns)
        book.first_open_ns = min(book.first_open_ns, open_ns)
        book.next_open_ns = max(book.next_open_ns, open_ns + self.width_ns)
        if is_silent(row):
            book.silent.put(open_ns, row)

    def restore_prints(self, instrument: str, open_ns: int, prints: Iterable[Row]) -> None:
        """Restore prints of a bar that had not closed when an earlier recording ended."""
        book = self._book(instrument, open_ns)
        book.first_open_ns = min(book.first_open_ns, open_ns)
        book.prints[open_ns] = TradeBuffer(prints)

    def mark_dirty(self, dirty: dict[str, int]) -> None:
        """Revise bars at the next tick, because their coverage has changed from a venue time on, by instrument."""
        for instrument, from_ns in dirty.items():
            self._dirty[instrument] = min(from_ns, self._dirty.get(instrument, from_ns))

    def tick(self, now_ns: int) -> list[dict[str, Any]]:
        """Publish what is due at a publishing instant.

        Args:
            now_ns: the instant, `next_tick_ns` of some moment.

        Returns:
            Rows of the table `bars`: the bars that close now, and revisions of earlier ones.
        """
        close_ns = now_ns - self.grace_ns
        due = self._changed(close_ns)
        for instrument in sorted(self._books):
            book = self._books[instrument]
            # An instrument restored from an earlier recording also lacks the bars of the time in between.
            until_ns = close_ns if book.delisted_ns is None else min(close_ns, book.delisted_ns)
            due += [(instrument, bar) for bar in range(book.next_open_ns, until_ns, self.width_ns)]
            book.next_open_ns = max(book.next_open_ns, close_ns)
        return self._publish(due, now_ns)

    def settle(self, now_ns: int) -> list[dict[str, Any]]:
        """Publish revisions of published bars, at the end of a recording, when no tick will follow."""
        return self._publish(self._changed(now_ns - self.grace_ns), now_ns)

    def _changed(self, close_ns: int) -> list[tuple[str, int]]:
        """Return the published bars to be revised (late prints, unproven ends, changed coverage), and forget them."""
        due: list[tuple[str, int]] = []
        is_due = close_ns >= self._forget_ns
        if is_due:
            self._forget_ns = close_ns + _FORGET_EVERY_NS
        for instrument in sorted(self._books):
            book = self._books[instrument]
            from_ns = self._dirty.get(instrument)
            again = book.late | book.pending
            if from_ns is not None:
                for bar in [bar for bar in book.silent.opens() if bar + self.width_ns > from_ns]:
                    book.published[bar] = book.silent.pop(bar)
                again |= {bar for bar in book.published if bar + self.width_ns > from_ns}
            if is_due:
                self._forget(instrument, book, close_ns, again)
            due += [(instrument, bar) for bar in sorted(again)]
            book.late, book.pending = set(), set()
        self._dirty.clear()
        return due

    def _publish(self, due: list[tuple[str, int]], now_ns: int) -> list[dict[str, Any]]:
        folded = fold_groups(
            [self._books[instrument].prints.get(bar) or TradeBuffer() for instrument, bar in due]
        )
        rows = [self._row(instrument, bar, folded, i, now_ns) for i, (instrument, bar) in enumerate(due)]
        return [row for row in rows if row is not None]

    def _revocable_ns(self, instrument: str, book: _InstrumentBars, horizon_ns: int) -> int:
        """Return the open of the first bar that a doubt about the silence since the newest print would change."""
        if not book.has_trades:
            return horizon_ns
        from_ns = self.silence.revocable_from_ns(instrument)
        return max(floor_ns(from_ns, self.width_ns), horizon_ns - SILENT_NS)

    def _row(self, instrument: str, bar: int, folded: Folded, i: int, now_ns: int) -> dict[str, Any] | None:
        book = self._books[instrument]
        close_ns = bar + self.width_ns
        channel, proven, doubt = BOOK, [], ""
        if book.has_trades:
            channel, proven = TRADES, self.silence.proofs(instrument)
            doubt = self.silence.reason_unknown(instrument, bar, close_ns)
        watch = self.ledger.watch(instrument, bar, close_ns, now_ns, channel, proven)
        if watch.is_pending:
            book.pending.add(bar)
        before = book.published.get(bar)
        if before is not None:  # what was quoted at its close does not change
            market = {name: before[name] for name in MARKET_COLUMNS}
        else:
            market = market_columns(_last(book.quotes, bar), _last(book.contexts, bar), close_ns)
        row = {
            "instrument": instrument,
            "width": self.width,
            "ts_open": bar // US_NS,
            "ts_close": close_ns // US_NS,
            "session": session_at(instrument, bar),
            "origin": "live",
            "observed_ms": watch.observed_ns // MS_NS,
            "repaired": watch.is_repaired,
            "certified": False,
            "trades_applicable": book.has_trades,
            **(trade_columns(folded, i) if book.has_trades else dict.fromkeys(TRADE_COLUMNS)),
            **market,
        }
        if before is not None and before["certified"]:
            # The candle agreed with these columns; a print that came since makes it another bar.
            row["certified"] = all(before[name] == row[name] for name in TRADE_COLUMNS)
        if is_unlisted(book.delisted_ns, book.absences, bar, close_ns):
            row["status"], row["cause"] = "unlisted", "delisted"
        else:
            row["status"], row["cause"] = bar_status(watch, row, doubt)
        if before is not None and all(before[name] == value for name, value in row.items()):
            return None
        row["revision"] = 0 if before is None else before["revision"] + 1
        self._set_clocks(row, now_ns)
        book.published[bar] = row
        return row

    def _set_clocks(self, row: dict[str, Any], now_ns: int) -> None:
        row["ts_knowable_ns"] = now_ns
        row["ts_available_ns"] = available_ns(
            origin=row["origin"],
            repaired=row["repaired"],
            close_ns=row["ts_open"] * US_NS + self.width_ns,
            knowable_ns=now_ns,
            lag_ns=self._lag_ns,
        )

    def _forget(self, instrument: str, book: _InstrumentBars, close_ns: int, again: set[int]) -> None:
        """Drop bars that nothing can change any more, except those that are revised now."""
        # Unpublished bars are kept: a recorder that was down for hours publishes those hours' bars when it is back.
        horizon = min(close_ns - self.reopen_ns, book.next_open_ns)
        blind_ns, revocable_ns = horizon - BLIND_NS, self._revocable_ns(instrument, book, horizon)
        for bar, row in [
            item for item in book.published.items() if item[0] < horizon and item[0] not in again
        ]:
            waits = self.keeps_settled and is_certifiable(row)
            if bar >= revocable_ns or (bar >= blind_ns and is_incomplete(row)):
                if is_silent(row) and not len(book.prints.get(bar, ())):
                    book.silent.put(bar, book.published.pop(bar))
                continue
            if waits and bar >= blind_ns and is_silent(row):
                book.silent.put(bar, row)
            elif waits:
                book.settled[bar] = row
            del book.published[bar]
        book.silent.discard_before(min(blind_ns, revocable_ns))
        for bar in [bar for bar in book.settled if bar < blind_ns]:
            del book.settled[bar]
        for bar in [bar for bar in book.prints if bar < horizon and bar not in book.published]:
            del book.prints[bar]
        book.pending = {bar for bar in book.pending if bar >= horizon}
        for notes in (book.quotes, book.contexts):
            # The newest before the horizon is still valid at later closes.
            for bar in sorted(bar for bar in notes if bar < horizon)[:-1]:
                del notes[bar]


def _last(notes: dict[int, Any], bar: int) -> Any:
    """Return the newest note of a bar or of one before it."""
    return notes.get(bar) or notes.get(max((b for b in notes if b < bar), default=-1))
