"""Prints that were refused: the seconds of venue time from which a quarantined print is missing.

A frame or a print that cannot be used is proof of a print that is missing. Its time is kept as a gap in the trades of
every instrument that it may have named, rounded to whole seconds: no bar is narrower, so rounding touches no further
bar. Only a later proof of the same time closes such a gap: a resent batch in which every print could be read, or the
venue's candle that agrees with the bar in every figure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ingest.coverage.intervals import Gap, Part, merge, subtract
from ingest.coverage.ledger_rows import CoverageRows, Key
from storage.clock import NS

PRINTS_REFUSED: Final = "prints refused"
VENUE_STATEMENT: Final = "venue_statement"

# A gap grows while refusals follow each other; afterwards the venue may have stated something about its time.
_GROWS_NS: Final = 60 * NS


class RefusedPrints:
    """Refused prints of one ledger.

    Their times wait for a publishing instant before they become gaps, so that a venue whose every message is unreadable
    makes one gap that grows, and not a gap a print.
    """

    def __init__(
        self,
        channel: str,
        gaps: dict[Key, list[Gap]],
        rows: CoverageRows,
        mark_dirty: Callable[[str, int], None],
    ) -> None:
        """Start with nothing refused.

        Args:
            channel: of the prints.
            gaps: of the ledger, by channel and instrument.
            rows: of the ledger.
            mark_dirty: called with an instrument and the venue time from which its bars must be revised.
        """
        self._channel = channel
        self._gaps = gaps
        self._rows = rows
        self._mark_dirty = mark_dirty
        self._parts: dict[str, list[Part]] = {}

    def add(self, instrument: str, from_ns: int, to_ns: int) -> None:
        """Note that a print of an instrument was refused, with a time from `from_ns` to `to_ns`, both included."""
        part = (from_ns // NS * NS, to_ns // NS * NS + NS)
        parts = self._parts.setdefault(instrument, [])
        if part not in parts[-2:]:
            parts.append(part)

    def apply(self, now_ns: int) -> None:
        """Make gaps of what was refused since the last call."""
        taken, self._parts = self._parts, {}
        for instrument, parts in sorted(taken.items()):
            key = (self._channel, instrument)
            for gap in _grow(self._gaps.setdefault(key, []), merge(parts), now_ns):
                self._mark_dirty(instrument, gap.from_ns)
                self._rows.add_gap(key, gap, now_ns)

    def has(self, instrument: str, open_ns: int, close_ns: int) -> bool:
        """Return whether prints of an interval were refused, and nothing has shown since that none is missing."""
        return bool(refused_parts((open_ns, close_ns), self._gaps.get((self._channel, instrument), ())))


def refused_parts(bar: Part, gaps: Sequence[Gap]) -> list[Part]:
    """Return the parts of a bar in which prints were refused, and which no later proof has shown to be complete."""
    parts: list[Part] = []
    for gap in gaps:
        if gap.cause != PRINTS_REFUSED or gap.is_bridged:
            continue
        inside = (max(gap.from_ns, bar[0]), min(gap.to_ns, bar[1]))
        if inside[0] < inside[1]:
            stated = [
                (other.from_ns, other.to_ns)
                for other in gaps
                if other.is_bridged and other.evidence == VENUE_STATEMENT and other.known_ns >= gap.known_ns
            ]
            parts += subtract([inside], stated)
    return parts


def _grow(gaps: list[Gap], parts: Sequence[Part], now_ns: int) -> list[Gap]:
    """Add refused intervals to an instrument's gaps; return the gaps that are new or have grown."""
    changed = []
    for start, to in parts:
        gap = next((gap for gap in reversed(gaps) if _may_grow(gap, start, now_ns)), None)
        if gap is None:
            gap = Gap(-1, start, to, PRINTS_REFUSED, overrides=True)
            gaps.append(gap)
        elif to <= gap.to_ns:
            continue  # known already
        gap.to_ns, gap.known_ns = to, now_ns
        changed.append(gap)
    return changed


def _may_grow(gap: Gap, start: int, now_ns: int) -> bool:
    is_open = gap.cause == PRINTS_REFUSED and not gap.is_bridged
    return is_open and gap.from_ns <= start <= gap.to_ns and now_ns - gap.known_ns <= _GROWS_NS
