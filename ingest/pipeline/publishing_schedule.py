"""Publishing instants of all bar widths, and up to where bars are already out."""

from __future__ import annotations

from collections.abc import Sequence

from ingest.bars.builder import BarClock


class PublishingSchedule:
    """Decides when bars are published.

    A bar is published at its close plus the grace period, whatever its width. The schedule holds the next such
    instant; every bar that was due before it is out.
    """

    def __init__(self, clocks: Sequence[BarClock]) -> None:
        """Start without an instant; `start` sets the first one.

        Args:
            clocks: the bars of each width.
        """
        self._clocks = clocks
        self._next_ns = 0
        self._published_to_ns: list[int] = []

    @property
    def next_ns(self) -> int:
        """The next publishing instant; 0 before `start`."""
        return self._next_ns

    @property
    def published_to_ns(self) -> list[int]:
        """By clock: bars that close up to this time are already out."""
        return self._published_to_ns

    def start(self, now_ns: int) -> None:
        """Set the first publishing instant after `now_ns`; a schedule that has started is left as it is."""
        if not self._next_ns:
            self._set_next(now_ns)

    def due(self, tick_ns: int) -> list[BarClock]:
        """Return the clocks that publish at an instant."""
        return [clock for clock in self._clocks if clock.next_tick_ns(tick_ns - 1) == tick_ns]

    def advance(self, tick_ns: int) -> None:
        """Go on to the first publishing instant after `tick_ns`, whose bars are out."""
        self._set_next(tick_ns)

    def _set_next(self, after_ns: int) -> None:
        self._next_ns = min(clock.next_tick_ns(after_ns) for clock in self._clocks)
        self._published_to_ns = [
            clock.next_tick_ns(self._next_ns - 1) - clock.grace_ns - clock.width_ns for clock in self._clocks
        ]
