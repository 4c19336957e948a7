"""Silence of streams of prints: what proves it, what contradicts it, and how long it may last without proof.

That other channels flow proves nothing about prints. A stream that prints nothing is judged in this order:

1. Proof that prints are missing: the volume of the day rose while none arrived, or the venue's candle counts some.
2. Proof that none is: the prints that the venue resends reach back to the newest one, or its candle counts as many.
3. Its own rhythm (`ingest.coverage.rhythm`): a longer silence than that allows is a gap since the newest print.

Without proof and without a rhythm the silence is unknown. A gap made here ends with the next print or with a proof,
and asks for the stream to be subscribed again: the prints resent then may prove that nothing was missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from ingest.coverage.intervals import Gap, Part, merge, subtract
from ingest.coverage.ledger import CoverageLedger
from ingest.coverage.rhythm import GAP_FACTOR, LONG_NS, Ints, PrintRhythm
from storage.clock import NS, US_NS

SILENT_TRADES: Final = "trades silent beyond their rhythm"
VOLUME_ROSE: Final = "trades missing: volume rose"
CANDLE_COUNTS: Final = "trades missing: candle counts more"
RHYTHM_NOT_KNOWN: Final = "rhythm not known"
REVOCABLE: Final = frozenset({SILENT_TRADES, VOLUME_ROSE, CANDLE_COUNTS})
"""Causes of gaps that what the venue resends can bridge, although no connection ended them."""

RENEW_NS: Final = 300 * NS
"""A stream is subscribed again at most once in so long."""
ENDLESS: Final = 1 << 62
# Contexts and prints come on channels of their own, and may overtake each other by this much.
_SLACK_NS: Final = LONG_NS // 2

_Rise = tuple[str, int, int]
"""(instrument, receipt of the context before, receipt of the one in which the volume had risen)"""
_Pause = tuple[int, int, int, int]
"""Receipt and venue time of a print, and of the next one long after it."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """A stream of prints that is to be subscribed again.

    Args:
        instrument: of the stream.
        cause: why it is doubted.
        is_repeated: it was subscribed again in this silence before, without effect.
    """

    instrument: str
    cause: str
    is_repeated: bool


class SilenceJudge:
    """Judges the silences of all streams of prints; a function of the records alone."""

    def __init__(self, ledger: CoverageLedger, horizon_ns: int) -> None:
        """Start with nothing known.

        Args:
            ledger: receives gaps, and knows what was watched.
            horizon_ns: proofs of older silences are dropped.
        """
        self.rhythm = PrintRhythm()
        self._ledger = ledger
        self._horizon_ns = horizon_ns
        self._alarms: dict[str, Gap] = {}
        """Gaps that last, by instrument."""
        self._proofs: dict[str, list[Part]] = {}
        self._proven_to_ns: dict[str, int] = {}
        """By instrument: nothing is missing between its newest print and this time."""
        self._doubted: dict[str, Gap] = {}
        """By instrument: the gap for which its trades are to be subscribed again."""
        self._renewed_ns: dict[str, int] = {}
        self._volumes: dict[tuple[int, str], tuple[float, int]] = {}
        self._rises: list[_Rise] = []
        self._pauses: dict[str, list[_Pause]] = {}

    # Prints.

    def add_prints(
        self, codes: Ints, ts_ns: Ints, recv_ns: Ints, before: Callable[[int], None] | None = None
    ) -> None:
        """Learn new prints in order of arrival.

        Args:
            codes, ts_ns, recv_ns: (m,) code in `rhythm`, venue time and receipt of each.
            before: called with the index of a print whose gap is judged, to report what was received before it.
        """
        at = 0
        while (at := self.rhythm.learn(codes, ts_ns, recv_ns, at)) < len(codes):
            if before is not None:
                before(at)
            self._judge_gap(int(codes[at]), int(ts_ns[at]), int(recv_ns[at]))
            at += 1

    def add_resent(self, instrument: str, ts_ns: Iterable[int], *, oldest_ns: int, now_ns: int) -> None:
        """Learn the prints that the venue resent without omission, after the ledger has bridged gaps by them.

        Args:
            instrument: of the prints.
            ts_ns: times of those that were new.
            oldest_ns: the oldest of all.
            now_ns: when they arrived.
        """
        code = self.rhythm.code(instrument)
        self._end_bridged(instrument)
        if 0 <= self.rhythm.newest_ns[code] < oldest_ns:
            self._judge_gap(code, oldest_ns, now_ns)  # they do not reach back
        self.prove(instrument, oldest_ns + US_NS, now_ns)
        if self.rhythm.allowed_ns(code) is None:
            self._ledger.mark_dirty(instrument, oldest_ns)
        times = np.array(sorted(ts_ns), np.int64)
        self.add_prints(np.full(len(times), code), times, np.full(len(times), now_ns))
        gap = self._doubted.get(instrument)
        if gap is not None and (gap.is_bridged or gap.to_ns != ENDLESS):
            del self._doubted[instrument]  # asked once; what was resent does not reach back

    def add_answered(self, instrument: str, ts_ns: Iterable[int], now_ns: int) -> None:
        """Learn prints that the venue's answer added after those of the stream, once the ledger has bridged the gap."""
        code = self.rhythm.code(instrument)
        self._end_bridged(instrument)
        if instrument in self._alarms:
            return
        newest_ns = int(self.rhythm.newest_ns[code])
        times = np.array(sorted(at_ns for at_ns in ts_ns if at_ns > newest_ns), np.int64)
        self.add_prints(np.full(len(times), code), times, np.full(len(times), now_ns))

    def _judge_gap(self, code: int, ts_ns: int, recv_ns: int) -> None:
        """Decide whether the gap that a print closes belongs to the rhythm, or is doubted."""
        rhythm = self.rhythm
        instrument = rhythm.instruments[code]
        newest_ns = int(rhythm.newest_ns[code])
        pause = (int(rhythm.arrived_ns[code]), newest_ns, recv_ns, max(ts_ns, newest_ns))
        self._pauses.setdefault(instrument, []).append(pause)
        self._end_bridged(instrument)
        alarm = self._alarms.get(instrument)
        if alarm is not None:
            if ts_ns > newest_ns:
                self._end(instrument, alarm, max(ts_ns, alarm.from_ns), recv_ns)
        elif ts_ns - newest_ns > LONG_NS and self._has_unproven(instrument, newest_ns, ts_ns):
            pass
        elif ts_ns - newest_ns > self._allowed_ns(code, newest_ns) and not self._is_proven(instrument, ts_ns):
            from_ns = self._doubtful_from_ns(instrument, newest_ns)
            self._doubt(instrument, Gap(-1, from_ns, ts_ns, SILENT_TRADES, overrides=True), recv_ns)
        else:
            rhythm.close_gap(code, ts_ns, recv_ns)
            return
        rhythm.skip_gap(code, ts_ns, recv_ns)

    # Time.

    def tick(self, now_ns: int) -> None:
        """Doubt what is silent for too long, or proven to miss prints."""
        rhythm, ledger = self.rhythm, self._ledger
        for instrument in list(self._alarms):
            self._end_bridged(instrument)
        self._judge_rises(now_ns)
        for code in rhythm.silent_codes(now_ns):
            instrument = rhythm.instruments[code]
            watched = None if instrument in self._alarms else ledger.watched_trades(instrument, now_ns)
            if watched is None:
                continue
            newest_ns, proven_ns = int(rhythm.newest_ns[code]), watched[1]
            start_ns = max(newest_ns, self._unproven_to_ns(instrument, newest_ns))
            if proven_ns - start_ns > self._allowed_ns(code, start_ns):
                self._begin(instrument, start_ns, SILENT_TRADES, now_ns)
        for instrument, proofs in self._proofs.items():
            if proofs[0][1] < now_ns - self._horizon_ns:
                self._proofs[instrument] = [part for part in proofs if part[1] >= now_ns - self._horizon_ns]
        self._proofs = {instrument: proofs for instrument, proofs in self._proofs.items() if proofs}

    def stop(self, now_ns: int) -> None:
        """Write the gaps that last, at the end of a recording."""
        self.tick(now_ns)
        for instrument, gap in list(self._alarms.items()):
            watched = self._ledger.watched_trades(instrument, now_ns)
            to_ns = now_ns if watched is None else watched[1]
            self._end(instrument, gap, max(to_ns, gap.from_ns), now_ns)

    def resume_alarm(self, instrument: str, cause: str, from_ns: int, now_ns: int) -> None:
        """Continue a gap that lasted when an earlier recording ended."""
        self._open(instrument, Gap(-1, from_ns, ENDLESS, cause, overrides=True), now_ns)

    # Proofs.

    def prove(self, instrument: str, from_ns: int, to_ns: int) -> None:
        """Note that no print is missing between two venue times."""
        proofs = self._proofs.setdefault(instrument, [])
        self._proofs[instrument] = merge([*proofs, (from_ns, to_ns)])
        known_ns = self._proven_to_ns.get(instrument, 0)
        newest_ns = self._newest_ns(instrument)
        if from_ns <= max(newest_ns + US_NS, known_ns):
            self._proven_to_ns[instrument] = max(to_ns, known_ns)

    def proofs(self, instrument: str) -> list[Part]:
        """Return the parts of time in which no print of an instrument is missing, as was proven."""
        return self._proofs.get(instrument, [])

    def contradict(self, instrument: str, open_ns: int, close_ns: int, now_ns: int) -> None:
        """Note that the venue's candle counts prints in a bar in which we have none."""
        if not self._has_unproven(instrument, open_ns, close_ns):
            self._doubt(instrument, Gap(-1, open_ns, close_ns, CANDLE_COUNTS, overrides=True), now_ns)

    def note_volume(self, connection: int, instrument: str, volume: float | None, recv_ns: int) -> None:
        """Note the volume of the last day, which can only rise by prints.

        Args:
            connection: that received it; each has its own delay.
            instrument: of the context.
            volume: base units; None where the venue does not give it.
            recv_ns: its receipt.
        """
        if volume is None:
            return
        before = self._volumes.get((connection, instrument))
        self._volumes[connection, instrument] = (volume, recv_ns)
        if before is None or volume <= before[0]:
            return
        # Most rises are explained at once. The others wait: while columns are processed, prints may come late here.
        code = self.rhythm.code(instrument)
        if self.rhythm.arrived_ns[code] < before[1] - _SLACK_NS:
            self._rises.append((instrument, before[1], recv_ns))

    def forget_volumes(self, connection: int) -> None:
        """Forget the volumes of a connection that was closed."""
        self._volumes = {key: value for key, value in self._volumes.items() if key[0] != connection}

    def _judge_rises(self, now_ns: int) -> None:
        """Doubt the streams on which no print arrived around a rise of the volume."""
        waiting = [rise for rise in self._rises if rise[2] + _SLACK_NS > now_ns]
        for instrument, from_ns, to_ns in (rise for rise in self._rises if rise[2] + _SLACK_NS <= now_ns):
            first_ns, last_ns = from_ns - _SLACK_NS, to_ns + _SLACK_NS
            code = self.rhythm.code(instrument)
            newest_ns = int(self.rhythm.newest_ns[code])
            if self._proven_to_ns.get(instrument, 0) >= to_ns or instrument in self._alarms:
                continue
            if self.rhythm.arrived_ns[code] < first_ns:
                watched = self._ledger.watched_trades(instrument, now_ns)
                if watched is not None and watched[0] <= first_ns:
                    start_ns = max(newest_ns, self._unproven_to_ns(instrument, newest_ns))
                    self._begin(instrument, start_ns if start_ns > 0 else watched[0], VOLUME_ROSE, now_ns)
                continue
            for arrived_ns, at_ns, next_ns, until_ns in self._pauses.get(instrument, ()):
                is_around = arrived_ns < first_ns and next_ns > last_ns and until_ns > at_ns
                if is_around and not self._has_unproven(instrument, at_ns, until_ns):
                    gap = Gap(-1, at_ns + US_NS, until_ns, VOLUME_ROSE, overrides=True)
                    self._doubt(instrument, gap, now_ns)
        self._rises = waiting
        self._pauses.clear()  # a rise that still waits can only lie in a pause that ends later

    # Queries.

    def reason_unknown(self, instrument: str, open_ns: int, close_ns: int) -> str:
        """Return why the silence of a watched bar is not known; empty where it is."""
        code = self.rhythm.code(instrument)
        if self.rhythm.known_ns[code] <= close_ns:
            return ""
        bridged = ((gap.from_ns, gap.to_ns) for gap in self._ledger.trade_gaps(instrument) if gap.is_bridged)
        proven = [*self.proofs(instrument), *bridged]
        return RHYTHM_NOT_KNOWN if subtract([(open_ns, close_ns)], proven) else ""

    def revocable_from_ns(self, instrument: str) -> int:
        """Return the venue time from which bars without prints may yet be doubted."""
        alarm = self._alarms.get(instrument)
        from_ns = max(self._newest_ns(instrument), self._proven_to_ns.get(instrument, 0))
        return from_ns if alarm is None else min(from_ns, alarm.from_ns)

    def due_renewals(self, now_ns: int) -> list[Renewal]:
        """Return the streams that are to be subscribed again now, each at most once in `RENEW_NS`."""
        due = []
        for instrument, gap in self._doubted.items():
            before_ns = self._renewed_ns.get(instrument, -RENEW_NS)
            if not gap.is_bridged and now_ns - before_ns >= RENEW_NS:
                due.append(Renewal(instrument, gap.cause, before_ns >= gap.from_ns))
        self._renewed_ns |= {renewal.instrument: now_ns for renewal in due}
        return due

    # Internals.

    def _allowed_ns(self, code: int, start_ns: int) -> int:
        """Return the silence that is allowed after an instant; a silence that was proven is a gap of its own."""
        allowed_ns = self.rhythm.allowed_ns(code)
        if allowed_ns is None:
            return ENDLESS
        proven_ns = self._proven_to_ns.get(self.rhythm.instruments[code], 0)
        return max(allowed_ns, GAP_FACTOR * (proven_ns - start_ns))

    def _has_unproven(self, instrument: str, from_ns: int, to_ns: int) -> bool:
        """Return whether trades between two venue times may be missing for a reason that the ledger knows."""
        gaps = self._ledger.trade_gaps(instrument)
        return self._ledger.is_lost(instrument, to_ns) or any(
            gap.from_ns < to_ns and from_ns < gap.to_ns and not gap.is_bridged for gap in gaps
        )

    def _unproven_to_ns(self, instrument: str, after_ns: int) -> int:
        """Return the end of the last unproven gap that ended after a venue time; 0 for none."""
        gaps = self._ledger.trade_gaps(instrument)
        return max((gap.to_ns for gap in gaps if gap.to_ns > after_ns and not gap.is_bridged), default=0)

    def _newest_ns(self, instrument: str) -> int:
        """Return the venue time of an instrument's newest print; negative for none."""
        code = self.rhythm.code(instrument)
        return int(self.rhythm.newest_ns[code])

    def _doubtful_from_ns(self, instrument: str, start_ns: int) -> int:
        return max(start_ns, self._proven_to_ns.get(instrument, 0)) + US_NS

    def _is_proven(self, instrument: str, to_ns: int) -> bool:
        return self._proven_to_ns.get(instrument, 0) >= to_ns

    def _begin(self, instrument: str, start_ns: int, cause: str, now_ns: int) -> None:
        from_ns = self._doubtful_from_ns(instrument, start_ns)
        self._open(instrument, Gap(-1, from_ns, ENDLESS, cause, overrides=True), now_ns)

    def _open(self, instrument: str, gap: Gap, now_ns: int) -> None:
        self._alarms[instrument] = gap
        self.rhythm.hold(self.rhythm.code(instrument), is_held=True)
        self._doubt(instrument, gap, now_ns)

    def _end(self, instrument: str, gap: Gap, to_ns: int, now_ns: int) -> None:
        gap.to_ns = to_ns
        self._ledger.put_gap(instrument, gap, now_ns)
        self._drop(instrument)

    def _end_bridged(self, instrument: str) -> None:
        alarm = self._alarms.get(instrument)
        if alarm is not None and alarm.is_bridged:
            self._drop(instrument)

    def _drop(self, instrument: str) -> None:
        del self._alarms[instrument]
        self.rhythm.hold(self.rhythm.code(instrument), is_held=False)

    def _doubt(self, instrument: str, gap: Gap, now_ns: int) -> None:
        self._doubted[instrument] = gap
        self._ledger.put_gap(instrument, gap, now_ns)
