"""Detection of streams that are silent for longer than their usual pace explains.

Pure: instants are arguments, nanoseconds of the clock that frames are stamped with. A stream is one channel of one
coin on one connection. Its pace, the longest recent silence, is learnt over all connections that carry it.

- Books and contexts come at a steady pace: after `factor` times their longest silence they are subscribed again.
- Trades, quotes and candles come when something happens. While another channel of the coin flows, only a silence far
  beyond the coin's own pace counts, or one that another connection contradicts by receiving what this one does not.
- A stream that stays silent, or falls silent again at once, has its socket reconnected, once. If that does not help
  either, it is subscribed again now and then. Every false alarm makes the detector 1.5 times as patient, for a while.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from storage.clock import NS
from storage.settings.recording import RecordSettings

Key = tuple[str, str]
"""(channel, coin)"""

# Sent when something happens, and not at a pace of its own.
_EVENTS: Final = frozenset({"trades", "bbo", "candle"})
# Answered with a snapshot when subscribed; for the others that is not certain.
_ANSWERED: Final = frozenset(
    {"trades", "l2Book", "l2BookFast", "activeAssetCtx", "allMids", "allDexsAssetCtxs", "fastAssetCtxs"}
)
# The venue's own name of a channel that is subscribed under another.
_SUBSCRIBED_AS: Final = {"activeSpotAssetCtx": "activeAssetCtx"}
_EVENT_FACTOR: Final = 4.0
_LEAST_ARRIVALS: Final = 8
_PATIENCE: Final = 1.5
# A longest silence counts half after so long: the slow pace of a night must not hide outages of the day.
_HALF_LIFE_NS: Final = 1_800 * NS
# A longer pause between checks, or a negative one, means that we slept or the clock was set: no silence is proven.
_MOST_STEP_NS: Final = 10 * NS
_CADENCE_GAPS: Final = 63
_CADENCE_LEAST_GAPS: Final = 31
_DRIFT: Final = 1.5
_FAST_BOOK_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class StaleStream:
    """A silent stream: subscribe to it again, or reconnect its socket if `is_lost`."""

    connection: int
    channel: str
    coin: str
    silent_s: float
    allowed_s: float
    is_lost: bool
    is_news: bool
    """False if it was reported before without effect."""


@dataclass(frozen=True, slots=True)
class StreamRecovered:
    """A stream that flows after it was subscribed again."""

    connection: int
    channel: str
    coin: str


@dataclass(frozen=True, slots=True)
class PaceChange:
    """A channel that no longer comes at the expected pace, or does so again (`is_over`)."""

    channel: str
    expected_s: float
    measured_s: float
    is_over: bool


Event = StaleStream | StreamRecovered | PaceChange


@dataclass(slots=True)
class _Pace:
    longest_ns: float = 0.0
    at_ns: int = 0
    arrivals: int = 0

    def learn(self, gap_ns: float, now_ns: int) -> None:
        decayed = self.longest_ns * 0.5 ** (max(0, now_ns - self.at_ns) / _HALF_LIFE_NS)
        self.longest_ns = max(gap_ns, decayed)
        self.at_ns = now_ns
        self.arrivals += 1


@dataclass(slots=True)
class _Stream:
    connection: int
    key: Key
    received_ns: int
    subscribed_ns: int
    """When it was last subscribed."""
    proven_ns: int = 0
    """When a frame last came well after that: what follows a subscription at once proves nothing."""
    is_flowing: bool = True
    allowed_ns: float = 0.0
    """The silence for which it was subscribed again."""


@dataclass(slots=True)
class _Cadence:
    expected_s: float
    gaps_s: deque[float] = field(default_factory=lambda: deque(maxlen=_CADENCE_GAPS))
    has_drifted: bool = False


class StaleStreamDetector:
    """Watch every stream of every connection of one recorder."""

    def __init__(self, record: RecordSettings) -> None:
        """Start with nothing watched, by `silence_factor`, `silence_least_s`, `silence_most_s` and `slow_book_s`."""
        self._factor = record.silence_factor
        self._least_ns = record.silence_least_s * NS
        self._most_ns = max(record.silence_most_s * NS, self._least_ns)
        # What follows a subscription at once is the venue's snapshot, which proves no stream.
        self._settle_ns = 0.3 * self._least_ns
        self._streams: dict[tuple[int, str, str], _Stream] = {}
        self._carriers: dict[Key, list[_Stream]] = {}
        self._siblings: dict[str, list[_Stream]] = {}
        self._paces: dict[Key, _Pace] = {}
        self._unresponsive: set[Key] = set()
        self._cadences = {
            "l2Book": _Cadence(record.slow_book_s),
            "l2BookFast": _Cadence(_FAST_BOOK_S),
        }
        self._events: list[Event] = []
        self._checked_ns = 0

    # Inputs.

    def watch(self, connection: int, channel: str, coin: str, now_ns: int) -> None:
        """Watch a confirmed subscription; one that was renewed stays watched as it was."""
        if (connection, channel, coin) in self._streams:
            return
        stream = _Stream(connection, (channel, coin), now_ns, now_ns)
        self._streams[connection, channel, coin] = stream
        self._carriers.setdefault(stream.key, []).append(stream)
        if coin:
            self._siblings.setdefault(coin, []).append(stream)
        self._paces.setdefault(stream.key, _Pace())

    def unwatch(self, connection: int, channel: str, coin: str) -> None:
        """Stop watching a subscription that is no longer wanted."""
        stream = self._streams.pop((connection, channel, coin), None)
        if stream is not None:
            self._carriers[stream.key].remove(stream)
            if coin:
                self._siblings[coin].remove(stream)

    def closed(self, connection: int) -> None:
        """Stop watching a lost connection; the learnt paces are kept."""
        for number, channel, coin in [place for place in self._streams if place[0] == connection]:
            self.unwatch(number, channel, coin)

    def record_frames(
        self, channel: str, coin: str, recv_ns: int, count: int = 1, *, connection: int
    ) -> None:
        """Note received frames; streams that are not watched are ignored.

        Args:
            channel: as subscribed, or as the venue calls it.
            coin: empty for a channel of the whole venue.
            recv_ns: receipt of the last of them.
            count: how many.
            connection: that received them.
        """
        channel = _SUBSCRIBED_AS.get(channel, channel)
        stream = self._streams.get((connection, channel, coin))
        if stream is None:
            return
        gap_ns = max(0, recv_ns - stream.received_ns)
        stream.received_ns = max(stream.received_ns, recv_ns)
        if channel in self._cadences:
            self._cadences[channel].gaps_s.append(gap_ns / NS / count)
        if stream.is_flowing:
            self._paces[stream.key].learn(gap_ns, recv_ns)
        if recv_ns - stream.subscribed_ns <= self._settle_ns:
            return
        stream.proven_ns = stream.received_ns
        if not stream.is_flowing or stream.key in self._unresponsive:
            stream.is_flowing = True
            self._unresponsive.discard(stream.key)
            self._events.append(StreamRecovered(connection, channel, coin))

    def check(self, now_ns: int) -> list[Event]:
        """Return what to act on or to log; each finding once."""
        step_ns, self._checked_ns = now_ns - self._checked_ns, now_ns
        if not 0 <= step_ns <= _MOST_STEP_NS:
            for stream in self._streams.values():
                stream.received_ns = stream.subscribed_ns = now_ns
                stream.proven_ns = min(stream.proven_ns, now_ns)
        events, self._events = self._events, []
        lost: set[int] = set()
        for stream in self._streams.values():
            found = self._check_stream(stream, now_ns)
            # One socket is reconnected once, however many of its streams are lost.
            if found is not None and stream.connection not in lost:
                events.append(found)
                if found.is_lost:
                    lost.add(stream.connection)
        events.extend(self._drifts())
        return events

    def cadence_s(self, channel: str) -> float | None:
        """Return the median pause between frames of a book channel, in seconds; None before it is known."""
        gaps_s = self._cadences[channel].gaps_s
        return median(gaps_s) if len(gaps_s) >= _CADENCE_LEAST_GAPS else None

    def _check_stream(self, stream: _Stream, now_ns: int) -> StaleStream | None:
        silent_ns = now_ns - stream.received_ns
        # The checks below cost more, and nearly all streams flow.
        if silent_ns <= self._least_ns:
            return None
        if not stream.is_flowing and stream.received_ns < stream.subscribed_ns and stream.key[0] in _ANSWERED:
            # Not even the snapshot came.
            is_late = now_ns - stream.subscribed_ns > self._least_ns
            return self._escalate(stream, silent_ns, now_ns) if is_late else None
        allowed_ns = self._allowed_ns(stream)
        if allowed_ns is None or min(silent_ns, now_ns - stream.subscribed_ns) <= allowed_ns:
            return None
        if not stream.is_flowing and (stream.key[0] not in _EVENTS or self._is_contradicted(stream)):
            return self._escalate(stream, silent_ns, now_ns)
        return self._resubscribe(stream, silent_ns, allowed_ns, now_ns, is_news=stream.is_flowing)

    def _escalate(self, stream: _Stream, silent_ns: int, now_ns: int) -> StaleStream | None:
        if stream.key not in self._unresponsive:
            self._unresponsive.add(stream.key)
            return self._silence(stream, silent_ns, is_lost=True, is_news=True)
        if now_ns - stream.subscribed_ns > self._most_ns:
            return self._resubscribe(stream, silent_ns, stream.allowed_ns, now_ns, is_news=False)
        return None

    def _resubscribe(
        self, stream: _Stream, silent_ns: int, allowed_ns: float, now_ns: int, *, is_news: bool
    ) -> StaleStream:
        stream.subscribed_ns, stream.allowed_ns, stream.is_flowing = now_ns, allowed_ns, False
        # If it was really quiet, allow a longer silence the next time.
        pace = self._paces[stream.key]
        pace.longest_ns = max(pace.longest_ns, min(allowed_ns, self._most_ns) / self._factor) * _PATIENCE
        pace.at_ns = now_ns
        return self._silence(
            stream, silent_ns, is_lost=False, is_news=is_news and stream.key not in self._unresponsive
        )

    def _silence(self, stream: _Stream, silent_ns: int, *, is_lost: bool, is_news: bool) -> StaleStream:
        channel, coin = stream.key
        return StaleStream(
            stream.connection,
            channel,
            coin,
            round(silent_ns / NS, 3),
            round(stream.allowed_ns / NS, 3),
            is_lost,
            is_news,
        )

    def _allowed_ns(self, stream: _Stream) -> float | None:
        """Return how long a stream may be silent; None while its pace is unknown."""
        channel, coin = stream.key
        pace = self._paces[stream.key]
        if self._is_contradicted(stream):
            return self._least_ns
        if channel not in _EVENTS:
            longest_ns = pace.longest_ns
            if channel in self._cadences:
                longest_ns = max(longest_ns, self._cadences[channel].expected_s * NS)
            elif pace.arrivals < _LEAST_ARRIVALS:
                return self._most_ns
            return min(max(self._factor * longest_ns, self._least_ns), self._most_ns)
        if channel == "candle" or pace.arrivals < _LEAST_ARRIVALS:
            return None
        own_ns = max(self._factor * pace.longest_ns, self._least_ns)
        others = [other for other in self._siblings[coin] if other.key != stream.key]
        is_alive = any(self._checked_ns - other.received_ns <= self._least_ns for other in others)
        return own_ns * _EVENT_FACTOR if is_alive or not others else min(own_ns, self._most_ns)

    def _is_contradicted(self, stream: _Stream) -> bool:
        """Return whether another stream received, well after this one, what this one should have carried too."""
        channel, coin = stream.key
        witnesses = self._carriers[stream.key]
        if channel == "candle":  # one is sent whenever the coin trades
            witnesses = [*witnesses, *self._carriers.get(("trades", coin), ())]
        return any(other.proven_ns > stream.received_ns + self._least_ns for other in witnesses)

    def _drifts(self) -> list[PaceChange]:
        found = []
        for channel, cadence in self._cadences.items():
            measured_s = self.cadence_s(channel)
            if measured_s is None:
                continue
            has_drifted = not cadence.expected_s / _DRIFT <= measured_s <= cadence.expected_s * _DRIFT
            if has_drifted != cadence.has_drifted:
                cadence.has_drifted = has_drifted
                found.append(PaceChange(channel, cadence.expected_s, round(measured_s, 3), not has_drifted))
        return found
