"""Prints that were refused: the seconds of venue time from which a quarantined print is missing.

A frame or a print that cannot be used is proof of a print that is missing. Its time is kept as a gap in the trades of
every instrument that it may have named, rounded to whole seconds: no bar is narrower, so rounding touches no further
bar. Only a later proof of the same time closes such a gap: a resent batch in which every print could be read, or the
venue's candle that agrees with the bar in every figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ingest.coverage.intervals import Gap, Part, subtract
from storage.clock import NS

PRINTS_REFUSED: Final = "prints refused"
VENUE_STATEMENT: Final = "venue_statement"

# A gap grows while refusals follow each other; afterwards the venue may have stated something about its time.
_GROWS_NS: Final = 60 * NS


class RefusedPrints:
    """Times of prints that were refused, until the ledger makes gaps of them.

    They wait for a publishing instant, so that a venue whose every message is unreadable makes one gap that grows, and
    not a gap a print.
    """

    def __init__(self) -> None:
        self._parts: dict[str, list[Part]] = {}

    def add(self, instrument: str, from_ns: int, to_ns: int) -> None:
        """Add the interval of venue time in which a print of an instrument is missing; both ends belong to it."""
        part = (from_ns // NS * NS, to_ns // NS * NS + NS)
        parts = self._parts.setdefault(instrument, [])
        if part not in parts[-2:]:
            parts.append(part)

    def take(self) -> dict[str, list[Part]]:
        """Return disjoint intervals in order of time, by instrument, and forget them."""
        taken, self._parts = self._parts, {}
        return {instrument: _merged(parts) for instrument, parts in sorted(taken.items())}


def grow_gaps(gaps: list[Gap], parts: Sequence[Part], now_ns: int) -> list[Gap]:
    """Add refused intervals to an instrument's gaps; return the gaps that are new or have grown.

    Args:
        gaps: of the instrument's trades; changed in place.
        parts: see `RefusedPrints.take`.
        now_ns: the present.
    """
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


def _may_grow(gap: Gap, start: int, now_ns: int) -> bool:
    is_open = gap.cause == PRINTS_REFUSED and not gap.is_bridged
    return is_open and gap.from_ns <= start <= gap.to_ns and now_ns - gap.known_ns <= _GROWS_NS


def _merged(parts: Sequence[Part]) -> list[Part]:
    merged: list[Part] = []
    for start, to in sorted(parts):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(to, merged[-1][1]))
        else:
            merged.append((start, to))
    return merged
