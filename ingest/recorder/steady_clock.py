"""A clock that never goes back and never steps, though the machine's clock may be set at any time.

Receipt times must never fall, and must not jump by an hour because someone corrected the clock. So time starts at the
wall clock's reading and advances with the boot clock, which continues while the machine is suspended. It is slewed
towards the wall clock by a tenth at most: a correction of one second takes ten. A wall clock that is further away than
a time server's correction was set by someone, rightly or wrongly, and is not followed: prints would come from the
future, or too late for their bars. The offset is reported (`ingest.pipeline.clock_offset`); a restart adopts the new
time at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_UNIT: Final = 1024
_SLEW: Final = _UNIT // 10
# Within this no slewing is needed: clocks differ by more than that from their neighbours.
_CLOSE_NS: Final = 1_000_000
# Further than this the wall clock is not followed. A print may come 5 s from the future and is refused beyond that.
_FAR_NS: Final = 4_000_000_000
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _boot_ns() -> int:
    return time.clock_gettime_ns(_CLOCK)


class SteadyTime:
    """A `TimeSource` that never goes back and never steps."""

    def __init__(
        self, wall_ns: Callable[[], int] = time.time_ns, run_ns: Callable[[], int] = _boot_ns
    ) -> None:
        """Start with the wall clock's reading.

        Args:
            wall_ns: the clock that may be set.
            run_ns: a clock that nobody sets.
        """
        self._wall_ns = wall_ns
        self._run_ns = run_ns
        self._base_ns = wall_ns()
        self._since_ns = run_ns()
        self._rate = _UNIT

    def now_ns(self) -> int:
        """Return the time in nanoseconds since 1970."""
        return self._base_ns + ((self._run_ns() - self._since_ns) * self._rate >> 10)

    def steer(self) -> int:
        """Slew towards the wall clock; called about once a second. Returns how far the wall clock is ahead, in ns."""
        now_ns = self.now_ns()
        self._base_ns, self._since_ns = now_ns, self._run_ns()
        ahead_ns = self._wall_ns() - now_ns
        is_followed = _CLOSE_NS <= abs(ahead_ns) <= _FAR_NS
        slew = 0 if not is_followed else _SLEW if ahead_ns > 0 else -_SLEW
        self._rate = _UNIT + slew
        return ahead_ns
