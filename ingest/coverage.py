"""What was watched, from when to when, and what proves it?

The ledger is the only source of a bar's status. Its times are the venue's: a connection proves that everything
up to the newest venue time it has delivered was delivered, so a span ends there and not at the moment the socket
broke. A span begins when the subscription was acknowledged, never earlier.

A hole between two spans may be bridged: when the prints that the venue resends after a reconnect, its most recent
ones without omission, reach back past the hole's beginning, nothing was missed in between.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from storage.clock import US_NS

TRADES: Final = "trades"
RECORDER_DOWN: Final = "recorder down"
SILENT_STREAM: Final = "silent stream"
NOT_PROVEN_YET: Final = "not proven yet"

Key = tuple[str, str]
"""(channel, instrument)"""


@dataclass(slots=True)
class Span:
    """A stretch of venue time in which one key was watched on one connection."""

    connection: int
    from_ns: int
    to_ns: int


@dataclass(slots=True)
class Gap:
    """A stretch of venue time in which one key was not watched at all."""

    connection: int
    from_ns: int
    to_ns: int
    cause: str
    is_bridged: bool = False


_Stretch = TypeVar("_Stretch", Span, Gap)


@dataclass(frozen=True, slots=True)
class Watch:
    """What the ledger knows of one bar.

    Args:
        observed_ns: how much of it was watched.
        is_complete: all of it was watched.
        is_repaired: what was not watched is proven to hold no other print.
        cause: why it is neither; empty otherwise.
        is_pending: the missing part is the end of a span that may still grow.
    """

    observed_ns: int
    is_complete: bool
    is_repaired: bool
    cause: str
    is_pending: bool


@dataclass(slots=True)
class _Coin:
    event_ns: int
    recv_ns: int


@dataclass(slots=True)
class _Connection:
    number: int
    opened_ns: int
    alive_ns: int
    since: dict[Key, int] = field(default_factory=dict)
    coins: dict[str, _Coin] = field(default_factory=dict)


class Ledger:
    """Keeps spans and gaps for every (channel, instrument), and the rows they become."""

    def __init__(self, recording: str, *, silence_ns: int, lag_ns: int, is_inferred: bool) -> None:
        """Start an empty ledger.

        Args:
            recording: its name, first part of every row's key.
            silence_ns: an instrument silent on all channels for longer is not proven alive.
            lag_ns: how far the venue's delivery may run behind its own clock; a pong proves only up to that.
            is_inferred: a capture without control frames: subscriptions are inferred from what arrives.
        """
        self.recording = recording
        self._silence_ns = silence_ns
        self._lag_ns = lag_ns
        self._evidence = "inferred" if is_inferred else "socket"
        self._open: dict[int, _Connection] = {}
        self._spans: dict[Key, list[Span]] = {}
        self._gaps: dict[Key, list[Gap]] = {}
        self._lost: dict[Key, tuple[int, str]] = {}
        self._silent: set[tuple[int, str]] = set()
        self._dirty: dict[str, int] = {}
        self._rows: list[dict[str, Any]] = []
        self._revisions: dict[tuple[object, ...], int] = {}

    # What happened.

    def open(self, number: int, now_ns: int) -> None:
        """A connection was opened."""
        self._open[number] = _Connection(number, now_ns, 0)

    def close(self, number: int, now_ns: int, cause: str) -> None:
        """A connection was lost, or closed on purpose: its spans end at the newest venue time it proved."""
        connection = self._open.pop(number, None)
        if connection is None:
            return
        for key, since in connection.since.items():
            self._end_span(connection, key, since, self._grown_to(connection, key, now_ns), cause, now_ns)

    def subscribe(self, number: int, channel: str, instrument: str, now_ns: int) -> bool:
        """The venue acknowledged a subscription (or a capture implies it). Returns whether it is new here."""
        connection = self._open[number]
        key = (channel, instrument)
        if key in connection.since:
            return False
        connection.since[key] = now_ns
        connection.coins.setdefault(instrument, _Coin(now_ns, now_ns))
        lost = self._lost.pop(key, None)
        if lost is not None and not self._is_watched_elsewhere(number, key):
            self._add_gap(number, key, lost[0], now_ns, lost[1], now_ns)
        return True

    def unsubscribe(self, number: int, channel: str, instrument: str, now_ns: int) -> None:
        """The venue acknowledged the end of a subscription."""
        connection = self._open[number]
        key = (channel, instrument)
        if key in connection.since:
            until = self._grown_to(connection, key, now_ns)
            self._end_span(connection, key, connection.since.pop(key), until, "unsubscribed", now_ns)

    def hear(self, number: int, instrument: str, event_ns: int | None, now_ns: int) -> None:
        """A message of an instrument arrived.

        Args:
            number: on which connection.
            instrument: whose message.
            event_ns: the venue's time in it; None where the channel carries none.
            now_ns: when it arrived.
        """
        connection = self._open[number]
        # A venue time ahead of our clock proves nothing beyond the present.
        stamp = now_ns - self._lag_ns if event_ns is None else min(event_ns, now_ns)
        coin = connection.coins.setdefault(instrument, _Coin(now_ns, now_ns))
        if now_ns - coin.recv_ns > self._silence_ns:
            self._split_at_silence(connection, instrument, coin, now_ns)
        coin.event_ns = max(coin.event_ns, stamp)
        coin.recv_ns = now_ns
        connection.alive_ns = max(connection.alive_ns, stamp)

    def pong(self, number: int, now_ns: int) -> None:
        """The connection answered a ping: all that the venue had sent before has arrived."""
        connection = self._open[number]
        connection.alive_ns = max(connection.alive_ns, now_ns - self._lag_ns)

    def bridge(self, instrument: str, oldest_ns: int, now_ns: int) -> None:
        """The venue resent its most recent prints, back to `oldest_ns`: holes that begin later hide nothing.

        The batch is whole after its oldest instant only (that block may be cut), hence strictly later.
        """
        for gap in self._gaps.get((TRADES, instrument), ()):
            if oldest_ns < gap.from_ns and not gap.is_bridged:
                gap.is_bridged = True
                self._mark_dirty(instrument, gap.from_ns)
                self._emit_gap((TRADES, instrument), gap, now_ns)

    def restore(self, key: Key, span: Span | None, gap: Gap | None, cause: str) -> None:
        """Take over what an earlier recording knew: a span or a gap, and why watching ended."""
        if span is not None:
            self._spans.setdefault(key, []).append(span)
            if span.to_ns >= self._lost.get(key, (0, ""))[0]:
                self._lost[key] = (span.to_ns, cause)
        if gap is not None:
            self._gaps.setdefault(key, []).append(gap)

    # What is known.

    def open_connections(self) -> list[int]:
        """Return the numbers of the connections that are open."""
        return list(self._open)

    def watch(self, instrument: str, open_ns: int, close_ns: int, now_ns: int) -> Watch:
        """Say how much of `[open_ns, close_ns)` of an instrument's trades was watched, and what proves it."""
        key = (TRADES, instrument)
        covered = [(s.from_ns, s.to_ns) for s in _recent(self._spans.get(key, ()), open_ns)]
        is_open = False
        for connection in self._open.values():
            if key in connection.since:
                is_open = True
                covered.append((connection.since[key], self._grown_to(connection, key, now_ns)))
        missing = _subtract([(open_ns, close_ns)], covered)
        observed_ns = close_ns - open_ns - sum(to - start for start, to in missing)
        if not missing:
            return Watch(observed_ns, True, False, "", False)
        gaps = list(_recent(self._gaps.get(key, ()), open_ns))
        lacking = _subtract(missing, [(g.from_ns, g.to_ns) for g in gaps if g.is_bridged])
        if not lacking:
            return Watch(observed_ns, False, True, "", False)
        cause, is_pending = self._why(lacking, gaps, is_open, instrument)
        return Watch(observed_ns, False, False, cause, is_pending)

    def tick(self, now_ns: int) -> None:
        """Notice instruments that have just been silent for too long."""
        for connection in self._open.values():
            for instrument, coin in connection.coins.items():
                mark = (connection.number, instrument)
                if now_ns - coin.recv_ns > self._silence_ns and mark not in self._silent:
                    self._silent.add(mark)
                    self._mark_dirty(instrument, coin.event_ns)

    def take_dirty(self) -> dict[str, int]:
        """Return, once, the venue time from which each instrument's bars must be looked at again."""
        dirty, self._dirty = self._dirty, {}
        return dirty

    def take_rows(self) -> list[dict[str, Any]]:
        """Return rows of the table `coverage` that are new since the last call."""
        rows, self._rows = self._rows, []
        return rows

    # How.

    def _grown_to(self, connection: _Connection, key: Key, now_ns: int) -> int:
        """Return the venue time up to which an open span is proven; never before its begin."""
        coin = connection.coins.get(key[1])
        is_silent = coin is not None and now_ns - coin.recv_ns > self._silence_ns
        proven_ns = coin.event_ns if coin is not None and is_silent else connection.alive_ns
        return max(connection.since[key], proven_ns)

    def _is_watched_elsewhere(self, number: int, key: Key) -> bool:
        return any(key in other.since for other in self._open.values() if other.number != number)

    def _split_at_silence(self, connection: _Connection, instrument: str, coin: _Coin, now_ns: int) -> None:
        self._silent.discard((connection.number, instrument))
        for key in [key for key in connection.since if key[1] == instrument]:
            since = connection.since[key]
            self._end_span(connection, key, since, max(since, coin.event_ns), SILENT_STREAM, now_ns)
            lost = self._lost.pop(key, None)
            if lost is not None and not self._is_watched_elsewhere(connection.number, key):
                self._add_gap(connection.number, key, lost[0], now_ns, lost[1], now_ns)
            connection.since[key] = now_ns

    def _end_span(
        self, connection: _Connection, key: Key, since: int, until: int, cause: str, now_ns: int
    ) -> None:
        span = Span(connection.number, since, until)
        self._spans.setdefault(key, []).append(span)
        self._emit_span(key, span, cause, now_ns)
        self._mark_dirty(key[1], until)
        if not self._is_watched_elsewhere(connection.number, key):
            self._lost[key] = (until, cause)

    def _add_gap(self, number: int, key: Key, from_ns: int, to_ns: int, cause: str, now_ns: int) -> None:
        if to_ns <= from_ns:
            return
        gap = Gap(number, from_ns, to_ns, cause)
        self._gaps.setdefault(key, []).append(gap)
        self._mark_dirty(key[1], from_ns)
        self._emit_gap(key, gap, now_ns)

    def _mark_dirty(self, instrument: str, from_ns: int) -> None:
        self._dirty[instrument] = min(from_ns, self._dirty.get(instrument, from_ns))

    def _why(
        self, lacking: list[tuple[int, int]], gaps: Iterable[Gap], is_open: bool, instrument: str
    ) -> tuple[str, bool]:
        start, to = max(lacking, key=lambda part: part[1] - part[0])
        for gap in gaps:
            if gap.from_ns < to and start < gap.to_ns and not gap.is_bridged:
                return gap.cause, False
        lost = self._lost.get((TRADES, instrument))
        if lost is not None and to > lost[0]:
            return lost[1], False
        first = min((s.from_ns for s in self._spans.get((TRADES, instrument), ())), default=None)
        opened = [
            c.since[(TRADES, instrument)] for c in self._open.values() if (TRADES, instrument) in c.since
        ]
        earliest = min([*opened, *([first] if first is not None else [])], default=None)
        if earliest is None or to <= earliest:
            return RECORDER_DOWN, False
        if is_open and any((c.number, instrument) in self._silent for c in self._open.values()):
            return SILENT_STREAM, False  # if it speaks again, the gap that this makes marks the bars dirty
        return NOT_PROVEN_YET, is_open

    def _emit_span(self, key: Key, span: Span, cause: str, now_ns: int) -> None:
        self._emit(
            key, span.connection, span.from_ns, span.to_ns, "watched", cause, self._evidence, False, now_ns
        )

    def _emit_gap(self, key: Key, gap: Gap, now_ns: int) -> None:
        evidence = "overlap" if gap.is_bridged else self._evidence
        self._emit(
            key, gap.connection, gap.from_ns, gap.to_ns, "gap", gap.cause, evidence, gap.is_bridged, now_ns
        )

    def _emit(
        self,
        key: Key,
        connection: int,
        from_ns: int,
        to_ns: int,
        kind: str,
        cause: str,
        evidence: str,
        is_bridged: bool,
        now_ns: int,
    ) -> None:
        identity = (key, connection, from_ns, kind)
        revision = self._revisions.get(identity, -1) + 1
        self._revisions[identity] = revision
        self._rows.append(
            {
                "journal": self.recording,
                "connection": connection,
                "channel": key[0],
                "instrument": key[1],
                "ts_from": from_ns // US_NS,
                "ts_to": to_ns // US_NS,
                "kind": kind,
                "cause": cause,
                "evidence": evidence,
                "bridged": is_bridged,
                "revision": revision,
                "ts_knowable_ns": now_ns,
            }
        )


def _recent(items: Iterable[_Stretch], open_ns: int) -> Iterable[_Stretch]:
    return (item for item in items if item.to_ns > open_ns)


def _subtract(parts: list[tuple[int, int]], holes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return what is left of `parts` outside of `holes`; all are right-open."""
    for start, to in holes:
        left = []
        for a, b in parts:
            if to <= a or b <= start:
                left.append((a, b))
                continue
            if a < start:
                left.append((a, start))
            if to < b:
                left.append((to, b))
        parts = left
    return parts
