"""Coverage ledger: watched spans and gaps of every stream, and what proves them.

The ledger is the only source of a bar's status. Its times are the venue's: a connection proves that everything
up to the newest venue time it has delivered was delivered, so a span ends there and not at the moment the socket
broke. A span begins when the subscription was acknowledged, never earlier.

A gap between two spans may be bridged: the venue resends its most recent prints after a reconnect, without omission.
When these reach back past the beginning of the gap, nothing was missed in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any, Final

from ingest.coverage.causes import SILENT_STREAM, main_cause
from ingest.coverage.intervals import BarCoverage, Gap, Part, WatchedSpan, length, recent, subtract
from ingest.coverage.ledger_rows import CoverageRows, Key, is_within
from ingest.coverage.open_connections import Chain, CoinMessages, OpenConnection
from ingest.coverage.refusals import PRINTS_REFUSED, VENUE_STATEMENT, RefusedPrints, refused_parts

TRADES: Final = "trades"
BOOK: Final = "book"
"""The one channel of an instrument without trades."""


class CoverageLedger:
    """Spans and gaps of every (channel, instrument), and their rows."""

    def __init__(
        self, recording: str, *, silence_ns: int, lag_ns: int, horizon_ns: int, is_inferred: bool
    ) -> None:
        """Start an empty ledger.

        Args:
            recording: its name, first part of every row's key.
            silence_ns: an instrument silent on all channels for longer is not proven alive.
            lag_ns: how far the venue's delivery may lag behind its own clock; a pong proves only up to that.
            horizon_ns: spans and gaps that ended longer ago are dropped, once their rows are written.
            is_inferred: a capture without control frames: subscriptions are inferred from its frames.
        """
        self.chain: Chain | None = None
        self._horizon_ns = horizon_ns
        self._silence_ns = silence_ns
        self._lag_ns = lag_ns
        self._open: dict[int, OpenConnection] = {}
        self._spans: dict[Key, list[WatchedSpan]] = {}
        self._gaps: dict[Key, list[Gap]] = {}
        self._lost: dict[Key, tuple[int, str]] = {}
        self._silent: set[tuple[int, str]] = set()
        self._dirty: dict[str, int] = {}
        self._rows = CoverageRows(recording, evidence="inferred" if is_inferred else "socket")
        self._stalls: dict[str, Gap] = {}
        self.refused = RefusedPrints(TRADES, self._gaps, self._rows, self.mark_dirty)

    # Events.

    def open(self, number: int) -> None:
        """Add an open connection."""
        self._open[number] = OpenConnection(number, 0)

    def close(self, number: int, now_ns: int, cause: str) -> None:
        """Remove a connection that was lost or closed; its spans end at the newest venue time that it proved."""
        connection = self._open.pop(number, None)
        if connection is None:
            return
        for key, since in connection.since.items():
            self._end_span(connection, key, since, self._grown_to(connection, key, now_ns), cause, now_ns)
        for instrument in connection.coins:
            self._silent.discard((number, instrument))

    def subscribe(self, number: int, channel: str, instrument: str, now_ns: int) -> bool:
        """Begin a span after an acknowledged (or, in a capture, implied) subscription; return whether it is new."""
        connection = self._open[number]
        key = (channel, instrument)
        if key in connection.since:
            return False
        connection.since[key] = now_ns
        connection.coins.setdefault(instrument, CoinMessages(now_ns, now_ns))
        lost = self._lost.pop(key, None)
        if lost is not None and not self._is_watched_elsewhere(number, key):
            self._add_gap(number, key, lost[0], now_ns, lost[1], now_ns)
        return True

    def unsubscribe(self, number: int, channel: str, instrument: str, now_ns: int) -> None:
        """End a span after the venue acknowledged the end of the subscription."""
        connection = self._open[number]
        key = (channel, instrument)
        if key in connection.since:
            until = self._grown_to(connection, key, now_ns)
            # A watchdog resubscribes a silent stream: what was lost by then was lost to the silence.
            cause = SILENT_STREAM if self._is_silent(connection, instrument, now_ns) else "unsubscribed"
            self._end_span(connection, key, connection.since.pop(key), until, cause, now_ns)

    def record_message(self, number: int, instrument: str, event_ns: int | None, now_ns: int) -> None:
        """Record that a message of an instrument arrived.

        Args:
            number: of the connection.
            instrument: of the message.
            event_ns: the venue's time in it; None where the channel carries none.
            now_ns: when it arrived.
        """
        connection = self._open[number]
        # A venue time ahead of our clock proves nothing beyond now.
        stamp = now_ns - self._lag_ns if event_ns is None else min(event_ns, now_ns)
        coin = connection.coins.setdefault(instrument, CoinMessages(now_ns, now_ns))
        if now_ns - coin.recv_ns > self._silence_ns:
            self._split_at_silence(connection, instrument, coin, now_ns)
        coin.event_ns = max(coin.event_ns, stamp)
        coin.recv_ns = now_ns
        connection.alive_ns = max(connection.alive_ns, stamp)

    def pong(self, number: int, now_ns: int) -> None:
        """Record that a connection answered a ping: all that the venue sent before has arrived."""
        connection = self._open[number]
        connection.alive_ns = max(connection.alive_ns, now_ns - self._lag_ns)

    def bridge(self, instrument: str, oldest_ns: int, now_ns: int) -> None:
        """Bridge the gaps that begin after `oldest_ns`, back to which the venue resent its most recent prints.

        The batch is complete only after its oldest instant (that block may be cut), hence strictly later.
        """
        for gap in self._gaps.get((TRADES, instrument), ()):
            if oldest_ns < gap.from_ns and not gap.is_bridged and not gap.is_final:
                self._bridge((TRADES, instrument), gap, "overlap", now_ns)

    def confirm(self, instrument: str, open_ns: int, close_ns: int, now_ns: int) -> None:
        """Mark a bar as complete, because the venue's candle counts as many prints as we have."""
        key = (TRADES, instrument)
        is_refused = self.refused.has(instrument, open_ns, close_ns)
        if not is_refused and any(
            g.from_ns <= open_ns and close_ns <= g.to_ns and g.is_bridged for g in self._gaps.get(key, ())
        ):
            return
        gap = Gap(-1, open_ns, close_ns, "counted by the venue")
        self._gaps.setdefault(key, []).append(gap)
        self._bridge(key, gap, VENUE_STATEMENT, now_ns)

    def has_open_gap(self, instrument: str) -> bool:
        """Return whether the newest gap in an instrument's trades is not bridged and still can be."""
        gaps = self._gaps.get((TRADES, instrument), ())
        newest = max(gaps, key=lambda gap: gap.to_ns, default=None)
        return newest is not None and not newest.is_bridged and not newest.is_final

    def has_left_out(self, number: int, instrument: str, times_ns: list[int], slack_ns: int) -> bool:
        """Return whether unseen prints show that an open stream of trades was dead.

        Args:
            number: of the connection that delivered them; its own late prints do not count against it.
            instrument: of the trades.
            times_ns: venue times of prints that were not seen before.
            slack_ns: messages may overtake each other by this much, at the end of what was proven.
        """
        key = (TRADES, instrument)
        oldest_ns = min(times_ns, default=0)
        gaps = [(g.from_ns, g.to_ns) for g in recent(self._gaps.get(key, ()), oldest_ns)]
        watched = [(s.from_ns, s.to_ns) for s in recent(self._spans.get(key, ()), oldest_ns)]
        # A twin that is open should have delivered them too.
        twins = [c for c in self._open.values() if c.number != number and key in c.since]
        watched += [(c.since[key], c.alive_ns) for c in twins]
        covered = subtract([(start, to - slack_ns) for start, to in watched], gaps)
        return any(start <= at < to for at in times_ns for start, to in covered)

    def retract(self, instrument: str, from_ns: int, now_ns: int) -> None:
        """Retract the coverage since `from_ns`, because an open stream left out a print.

        Args:
            instrument: of the trades.
            from_ns: the newest print that the stream had delivered.
            now_ns: the present; the stream has just been resubscribed.
        """
        self._add_gap(-1, (TRADES, instrument), from_ns, now_ns, SILENT_STREAM, now_ns, overrides=True)

    def put_gap(self, instrument: str, gap: Gap, now_ns: int) -> None:
        """Add a gap in an instrument's trades that other evidence shows, or write the next row of one that was added.

        Args:
            instrument: of the trades.
            gap: it may still grow; its row ends now.
            now_ns: the present.
        """
        key = (TRADES, instrument)
        gaps = self._gaps.setdefault(key, [])
        if not any(gap is known for known in gaps):
            gaps.append(gap)
        self.mark_dirty(instrument, gap.from_ns)
        self._rows.add_gap(key, replace(gap, to_ns=min(gap.to_ns, max(now_ns, gap.from_ns))), now_ns)

    def mark_unreadable(self, from_ns: int, to_ns: int, cause: str) -> None:
        """Add a gap to every open stream, because records between two receipt times cannot be read."""
        for connection in self._open.values():
            for key in connection.since:
                proven_ns = self._grown_to(connection, key, from_ns)
                self._add_gap(connection.number, key, proven_ns, to_ns, cause, to_ns, overrides=True)

    def stall(self, scope: str, from_ns: int, cause: str) -> None:
        """Begin a stall: open streams prove nothing from an instant on.

        Args:
            scope: an instrument, or the prefix of a venue's instruments.
            from_ns: when it began, in venue time.
            cause: why.
        """
        if scope not in self._stalls:
            self._stalls[scope] = Gap(-1, from_ns, 1 << 62, cause, overrides=True, is_final=True)
            self._mark_scope(scope, from_ns)

    def is_stalled(self, scope: str) -> bool:
        """Return whether an instrument, or a scope of them, is stalled now."""
        return scope in self._stalls

    def stall_cause(self, scope: str) -> str:
        """Return why an instrument, or a scope of them, is stalled now; an empty text if it is not."""
        gap = self._stalls.get(scope)
        return "" if gap is None else gap.cause

    def stalls(self) -> list[tuple[str, str]]:
        """Return (scope, cause) of the stalls that last."""
        return [(scope, gap.cause) for scope, gap in self._stalls.items()]

    def resume(self, scope: str, to_ns: int, now_ns: int) -> None:
        """End a stall."""
        gap = self._stalls.pop(scope, None)
        if gap is None:
            return
        gap.to_ns = max(to_ns, gap.from_ns)
        for key in self._keys(scope):
            self._gaps.setdefault(key, []).append(gap)
        self._mark_scope(scope, gap.from_ns)
        self._rows.add_gap(("*" if scope.endswith("|") else BOOK, scope), gap, now_ns)

    def carry_on(self, number: int, channel: str, instrument: str, since_ns: int) -> None:
        """Continue a stream of an earlier recording, which has proven it up to `since_ns`."""
        connection = self._open[number]
        connection.since[(channel, instrument)] = since_ns
        connection.coins.setdefault(instrument, CoinMessages(since_ns, since_ns))
        self._lost.pop((channel, instrument), None)

    def restore(self, key: Key, span: WatchedSpan | None, gap: Gap | None, cause: str) -> None:
        """Restore a span or a gap of an earlier recording, and why watching ended."""
        if span is not None:
            self._spans.setdefault(key, []).append(span)
            if span.to_ns >= self._lost.get(key, (0, ""))[0]:
                self._lost[key] = (span.to_ns, cause)
        if gap is not None:
            self._gaps.setdefault(key, []).append(gap)

    # Queries.

    def open_connections(self) -> list[int]:
        """Return the numbers of the connections that are open."""
        return list(self._open)

    def is_open(self, number: int) -> bool:
        """Say whether a connection is open."""
        return number in self._open

    def is_subscribed(self, number: int, channel: str, instrument: str) -> bool:
        """Say whether an open connection carries a stream."""
        return (channel, instrument) in self._open[number].since

    def newest_ns(self, instrument: str) -> int:
        """Return the newest venue time of an instrument on any open connection; 0 for none."""
        coins = (connection.coins.get(instrument) for connection in self._open.values())
        return max((coin.event_ns for coin in coins if coin is not None), default=0)

    def last_message_ns(self, instrument: str = "") -> int:
        """Return when a message of an instrument, or of any, last arrived on an open connection; 0 for never."""
        coins = [
            coin
            for connection in self._open.values()
            for name, coin in connection.coins.items()
            if not instrument or name == instrument
        ]
        return max((coin.recv_ns for coin in coins), default=0)

    def last_gap(self, instrument: str) -> Gap | None:
        """Return the newest gap of an instrument that is not bridged, including one that lasts."""
        stalls = [gap for scope, gap in self._stalls.items() if is_within(instrument, scope)]
        gaps = [gap for channel in (TRADES, BOOK) for gap in self._gaps.get((channel, instrument), ())]
        return max(
            (gap for gap in stalls + gaps if not gap.is_bridged), key=attrgetter("to_ns"), default=None
        )

    def proven_ns(self, number: int, channel: str, instrument: str, now_ns: int) -> int:
        """Return the venue time up to which an open stream is proven."""
        return self._grown_to(self._open[number], (channel, instrument), now_ns)

    def instruments_on(self, number: int, channel: str) -> list[str]:
        """Return the instruments of which a connection carries a channel; none if it is not open."""
        connection = self._open.get(number)
        return [] if connection is None else sorted(key[1] for key in connection.since if key[0] == channel)

    def watched_since_ns(self, channel: str, instrument: str) -> int:
        """Return the venue time at which watching began, of what is remembered; 0 for never."""
        key = (channel, instrument)
        begins = [connection.since[key] for connection in self._open.values() if key in connection.since]
        return min([*begins, *(span.from_ns for span in self._spans.get(key, ()))], default=0)

    def open_streams(self) -> list[tuple[int, str, str]]:
        """Return (connection, channel, instrument) of every open stream."""
        return [(c.number, *key) for c in self._open.values() for key in c.since]

    def watched_trades(self, instrument: str, now_ns: int) -> Part | None:
        """Return since when open connections carry an instrument's trades and up to when they are proven, or None."""
        key = (TRADES, instrument)
        carriers = [connection for connection in self._open.values() if key in connection.since]
        if not carriers:
            return None
        since_ns = min(connection.since[key] for connection in carriers)
        return since_ns, max(self._grown_to(connection, key, now_ns) for connection in carriers)

    def trade_gaps(self, instrument: str) -> list[Gap]:
        """Return the gaps in an instrument's trades."""
        return self._gaps.get((TRADES, instrument), [])

    def is_lost(self, instrument: str, at_ns: int) -> bool:
        """Return whether an instrument's trades were lost before a venue time and are not subscribed again."""
        lost = self._lost.get((TRADES, instrument))
        return lost is not None and lost[0] < at_ns

    def watch(
        self,
        instrument: str,
        open_ns: int,
        close_ns: int,
        now_ns: int,
        channel: str = TRADES,
        proven: Sequence[Part] = (),
    ) -> BarCoverage:
        """Return how much of `[open_ns, close_ns)` of an instrument was watched, and what proves it.

        Args:
            instrument: of the bar.
            open_ns, close_ns: of the bar.
            now_ns: the present.
            channel: whose coverage counts.
            proven: parts in which nothing is missing, as was proven beside this ledger.
        """
        key = (channel, instrument)
        covered: list[Part] = [(s.from_ns, s.to_ns) for s in recent(self._spans.get(key, ()), open_ns)]
        is_open = False
        for connection in self._open.values():
            if key in connection.since:
                is_open = True
                covered.append((connection.since[key], self._grown_to(connection, key, now_ns)))
        bar = [(open_ns, close_ns)]
        gaps = recent(self._gaps.get(key, ()), open_ns) + [
            gap for scope, gap in self._stalls.items() if is_within(instrument, scope)
        ]
        overriding = [(g.from_ns, g.to_ns) for g in gaps if g.overrides]
        missing = subtract(bar, covered)
        if overriding:
            missing = subtract(bar, subtract(subtract(bar, missing), overriding))
        observed_ns = close_ns - open_ns - length(missing)
        if not missing:
            return BarCoverage(observed_ns, True, False, "", False)
        lacking = subtract(missing, [(g.from_ns, g.to_ns) for g in gaps if g.is_bridged])
        if lacking and proven:  # a doubt about what was watched is lifted where nothing is missing
            doubted = [(g.from_ns, g.to_ns) for g in gaps if g.overrides and not g.is_final]
            lacking = subtract(lacking, subtract(doubted, subtract(doubted, proven)))
        # A bridged gap shows that every print of it was resent, and not that each of them could be read.
        refused = refused_parts(bar[0], gaps)
        if not lacking and not refused:
            return BarCoverage(observed_ns, False, True, "", False)
        lacking = subtract(lacking, refused)
        cause, is_pending = self._cause_of(lacking, gaps, is_open, key) if lacking else ("", False)
        if refused:
            cause = PRINTS_REFUSED
        return BarCoverage(observed_ns, False, False, cause, is_pending)

    def tick(self, now_ns: int) -> None:
        """Make gaps of refused prints, detect instruments that have just become silent, and drop old spans and gaps."""
        self.refused.apply(now_ns)
        for connection in self._open.values():
            for instrument, coin in connection.coins.items():
                mark = (connection.number, instrument)
                if now_ns - coin.recv_ns > self._silence_ns and mark not in self._silent:
                    self._silent.add(mark)
                    self.mark_dirty(instrument, coin.event_ns)
        long_ago_ns = now_ns - self._horizon_ns
        for spans in self._spans.values():
            if spans and spans[0].to_ns < long_ago_ns:
                spans[:] = recent(spans, long_ago_ns)
        for gaps in self._gaps.values():
            if gaps and gaps[0].to_ns < long_ago_ns:
                gaps[:] = recent(gaps, long_ago_ns)

    def take_dirty(self) -> dict[str, int]:
        """Return the venue times from which bars must be revised, by instrument, and forget them."""
        dirty, self._dirty = self._dirty, {}
        return dirty

    def take_rows(self) -> list[dict[str, Any]]:
        """Return rows of the table `coverage` that are new since the last call."""
        return self._rows.take()

    # Internals.

    def _grown_to(self, connection: OpenConnection, key: Key, now_ns: int) -> int:
        """Return the venue time up to which an open span is proven; never before its beginning."""
        proven_ns = connection.alive_ns
        if self._is_silent(connection, key[1], now_ns):
            proven_ns = connection.coins[key[1]].event_ns
        return max(connection.since[key], proven_ns)

    def _is_silent(self, connection: OpenConnection, instrument: str, now_ns: int) -> bool:
        coin = connection.coins.get(instrument)
        return coin is not None and now_ns - coin.recv_ns > self._silence_ns

    def _is_watched_elsewhere(self, number: int, key: Key) -> bool:
        return any(key in other.since for other in self._open.values() if other.number != number)

    def _split_at_silence(
        self, connection: OpenConnection, instrument: str, coin: CoinMessages, now_ns: int
    ) -> None:
        self._silent.discard((connection.number, instrument))
        for key in [key for key in connection.since if key[1] == instrument]:
            since = connection.since[key]
            self._end_span(connection, key, since, max(since, coin.event_ns), SILENT_STREAM, now_ns)
            lost = self._lost.pop(key, None)
            if lost is not None and not self._is_watched_elsewhere(connection.number, key):
                self._add_gap(connection.number, key, lost[0], now_ns, lost[1], now_ns)
            connection.since[key] = now_ns

    def _end_span(
        self, connection: OpenConnection, key: Key, since: int, until: int, cause: str, now_ns: int
    ) -> None:
        span = WatchedSpan(connection.number, since, until)
        self._spans.setdefault(key, []).append(span)
        self._rows.add_span(key, span, cause, now_ns)
        self.mark_dirty(key[1], until)
        spans = recent(self._spans[key], until)
        covered = [(s.from_ns, s.to_ns) for s in spans]
        to_ns = max([until, *(s.to_ns for s in spans)])
        if self._is_watched_elsewhere(connection.number, key):
            others = [c.since[key] for c in self._open.values() if key in c.since and c is not connection]
            covered += [(other, now_ns) for other in others]
            to_ns = now_ns
        else:
            self._lost[key] = (to_ns, cause)
        # A twin was subscribed all the while but has proven less: what neither has proven is a gap.
        covered += [(g.from_ns, g.to_ns) for g in recent(self._gaps.get(key, ()), until)]
        for start, to in subtract([(until, to_ns)], covered):
            self._add_gap(connection.number, key, start, to, cause, now_ns)

    def _add_gap(
        self,
        number: int,
        key: Key,
        from_ns: int,
        to_ns: int,
        cause: str,
        now_ns: int,
        overrides: bool = False,
    ) -> None:
        if to_ns <= from_ns:
            return
        if self.chain is not None and not overrides and self.chain.was_alive(from_ns, to_ns):
            cause = f"{cause}; chain alive"
        gap = Gap(number, from_ns, to_ns, cause, overrides=overrides)
        self._gaps.setdefault(key, []).append(gap)
        self.mark_dirty(key[1], from_ns)
        self._rows.add_gap(key, gap, now_ns)

    def _bridge(self, key: Key, gap: Gap, evidence: str, now_ns: int) -> None:
        gap.is_bridged, gap.evidence, gap.known_ns = True, evidence, now_ns
        gap.to_ns = min(gap.to_ns, now_ns)
        self.mark_dirty(key[1], gap.from_ns)
        self._rows.add_gap(key, gap, now_ns)

    def _keys(self, scope: str) -> list[Key]:
        """Return the keys of instruments within a scope."""
        known = {key for connection in self._open.values() for key in connection.since} | set(self._spans)
        return sorted(key for key in known if is_within(key[1], scope))

    def _mark_scope(self, scope: str, from_ns: int) -> None:
        for _, instrument in self._keys(scope):
            self.mark_dirty(instrument, from_ns)

    def mark_dirty(self, instrument: str, from_ns: int) -> None:
        """Revise the bars of an instrument from a venue time on, because more is known of them."""
        self._dirty[instrument] = min(from_ns, self._dirty.get(instrument, from_ns))

    def _cause_of(
        self, lacking: list[Part], gaps: Iterable[Gap], is_open: bool, key: Key
    ) -> tuple[str, bool]:
        first = min((s.from_ns for s in self._spans.get(key, ())), default=None)
        opened = [c.since[key] for c in self._open.values() if key in c.since]
        return main_cause(
            lacking,
            gaps,
            self._lost.get(key),
            earliest_ns=min([*opened, *([first] if first is not None else [])], default=None),
            is_open=is_open,
            is_silent=any((c.number, key[1]) in self._silent for c in self._open.values()),
        )
