"""Local clock offset against the venue and NTP, and detection of clock steps.

Three comparisons, each an answer in the journal, so that the rows of `clocks` are a pure function of it: the
venue's `exchangeStatus`, a time server (NTP, RFC 5905), and the machine's own monotonic clock, which shows when
somebody set the wall clock. An offset is our clock minus the other one, at the midpoint between request and answer; the
true offset lies within half the round trip of it. A time server that does not answer is a state, not an error: the
recording continues.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from storage.clock import MS_NS, US_NS
from storage.errors import VenueError

OffsetSource = Literal["venue", "ntp", "monotonic"]
OffsetVerdict = Literal["ok", "off", "unknown"]

# A time server slews a clock by at most 500 us a second; a clock that moved further was set.
_STEER: Final = 1e-3
_STEP_MS: Final = 50.0
# An older offset is no longer meaningful.
_STALE_NS: Final = 600 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class OffsetSample:
    """One comparison.

    Args:
        source: the other clock.
        at_ns: our time, at the midpoint between request and answer.
        offset_ms: our clock minus the other.
        uncertainty_ms: the true offset lies within this.
        known_ns: our time when the answer arrived.
    """

    source: OffsetSource
    at_ns: int
    offset_ms: float
    uncertainty_ms: float
    known_ns: int


class ClockOffsets:
    """Clock comparisons of one recording: rows, the newest offsets, and a verdict."""

    def __init__(self, journal: str, *, limit_ms: float) -> None:
        """Start without any comparison.

        Args:
            journal: the recording, in every row.
            limit_ms: our clock may be off by this much.
        """
        self._journal = journal
        self._limit_ms = limit_ms
        self._newest: dict[OffsetSource, OffsetSample] = {}
        self._reading: tuple[int, int] | None = None
        self.stepped = 0

    def add_answer(
        self, request: Mapping[str, Any], response: Any, asked_ns: int, received_ns: int
    ) -> list[dict[str, Any]]:
        """Return the rows of `clocks` from a journalled answer; most answers give none.

        Raises:
            VenueError: a clock's answer lacks its time; the caller quarantines it.
        """
        kind = request.get("type")
        if kind == "clock":
            return self._compare_reading(response, received_ns)
        if kind == "exchangeStatus":
            found = venue_sample(response, asked_ns, received_ns)
        elif kind == "ntp" and isinstance(response, dict) and "offset_ms" in response:
            found = ntp_sample(response, asked_ns, received_ns)
        else:
            return []
        return [self.add(found)]

    def add(self, sample: OffsetSample) -> dict[str, Any]:
        """Add a comparison and return its row."""
        self._newest[sample.source] = sample
        return {
            "journal": self._journal,
            "source": sample.source,
            "ts": sample.at_ns // US_NS,
            "offset_ms": sample.offset_ms,
            "uncertainty_ms": sample.uncertainty_ms,
            "ts_knowable_ns": sample.known_ns,
        }

    def offsets_ms(self, now_ns: int) -> dict[str, float]:
        """Return the newest offset by source, without offsets older than ten minutes."""
        return {
            source: sample.offset_ms
            for source, sample in sorted(self._newest.items())
            if now_ns - sample.known_ns <= _STALE_NS
        }

    def verdict(self, now_ns: int, *, least_lag_ms: float | None = None) -> OffsetVerdict:
        """Return whether our clock is right.

        It is `off` where a comparison is beyond the limit by more than its uncertainty, where the clock was set by more
        than the limit (it was wrong, or it is now), or where a frame came further from the future than the limit
        (`least_lag_ms`); `unknown` where there is no recent comparison.
        """
        if least_lag_ms is not None and least_lag_ms < -self._limit_ms:
            return "off"
        recent = [sample for sample in self._newest.values() if now_ns - sample.known_ns <= _STALE_NS]
        if any(abs(sample.offset_ms) - sample.uncertainty_ms > self._limit_ms for sample in recent):
            return "off"
        return "ok" if any(sample.source != "monotonic" for sample in recent) else "unknown"

    def _compare_reading(self, response: Any, received_ns: int) -> list[dict[str, Any]]:
        """Compare how far the wall clock and the monotonic clock advanced since the last reading."""
        wall_ns, mono_ns = _integer(response, "wall_ns"), _integer(response, "mono_ns")
        before, self._reading = self._reading, (wall_ns, mono_ns)
        if before is None or mono_ns < before[1]:
            return []
        elapsed_ms = (mono_ns - before[1]) / MS_NS
        moved_ms = (wall_ns - before[0]) / MS_NS - elapsed_ms
        if abs(moved_ms) <= _STEP_MS + _STEER * elapsed_ms:
            return []
        self.stepped += 1
        # Stamped by the receipt clock: the wall clock's own reading jumps with the step.
        return [self.add(OffsetSample("monotonic", received_ns, moved_ms, _STEP_MS, received_ns))]


def venue_sample(response: Any, asked_ns: int, received_ns: int) -> OffsetSample:
    """Return the comparison with the venue's clock from an `exchangeStatus` answer.

    Raises:
        VenueError: it has no time.
    """
    theirs_ns = _integer(response, "time") * MS_NS
    middle_ns = (asked_ns + received_ns) // 2
    # The venue's time is in whole milliseconds, hence the half.
    uncertainty_ms = max(0, received_ns - asked_ns) / 2 / MS_NS + 0.5
    return OffsetSample("venue", middle_ns, (middle_ns - theirs_ns) / MS_NS, uncertainty_ms, received_ns)


def ntp_sample(response: Mapping[str, Any], asked_ns: int, received_ns: int) -> OffsetSample:
    """Return the comparison with a time server from an answer of `ask_ntp`."""
    try:
        offset_ms, delay_ms = float(response["offset_ms"]), float(response["delay_ms"])
    except (KeyError, TypeError, ValueError) as error:
        raise VenueError(f"the time server's answer {response!r} lacks a number: {error}") from error
    return OffsetSample("ntp", (asked_ns + received_ns) // 2, offset_ms, max(0.0, delay_ms) / 2, received_ns)


def _integer(response: Any, name: str) -> int:
    value = response.get(name) if isinstance(response, dict) else None
    if not isinstance(value, int) or isinstance(value, bool):
        raise VenueError(f"a clock's answer has {name} {value!r}, which is no whole number")
    return value
