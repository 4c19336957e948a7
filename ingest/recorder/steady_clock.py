"""What time is it, for a recorder whose machine's clock may be set at any moment?

Receipt times must never fall, and must not leap an hour because someone corrected the clock. So time runs on from
the wall's reading at the start by the boot clock, which goes on through a suspended machine, and leans towards the
wall by a tenth at most: a second's correction is made in ten. A wall that is further away than a time server's
correction was set, rightly or wrongly: it is not followed, since prints would come from the future, or too late for
their bars. That the clock is off is told (`ingest.pipeline.clock_offset`); whoever wants the new time at once restarts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_UNIT: Final = 1024
_LEAN: Final = _UNIT // 10
# Within this the wall is followed exactly: less than a clock differs from its neighbours.
_CLOSE_NS: Final = 1_000_000
# Further than this the wall is not followed. A print may come 5 s from the future and is refused beyond that.
_FAR_NS: Final = 4_000_000_000
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _boot_ns() -> int:
    return time.clock_gettime_ns(_CLOCK)


class SteadyTime:
    """A `TimeSource` that never falls and never leaps."""

    def __init__(
        self, wall_ns: Callable[[], int] = time.time_ns, run_ns: Callable[[], int] = _boot_ns
    ) -> None:
        """Start with the wall's reading.

        Args:
            wall_ns: the clock that may be set.
            run_ns: one that only runs.
        """
        self._wall_ns = wall_ns
        self._run_ns = run_ns
        self._base_ns = wall_ns()
        self._since_ns = run_ns()
        self._rate = _UNIT

    def now_ns(self) -> int:
        """Return the present in nanoseconds since 1970."""
        return self._base_ns + ((self._run_ns() - self._since_ns) * self._rate >> 10)

    def steer(self) -> int:
        """Lean towards the wall from now on; called about once a second. Returns how far the wall is ahead, in ns."""
        now_ns = self.now_ns()
        self._base_ns, self._since_ns = now_ns, self._run_ns()
        ahead_ns = self._wall_ns() - now_ns
        is_followed = _CLOSE_NS <= abs(ahead_ns) <= _FAR_NS
        lean = 0 if not is_followed else _LEAN if ahead_ns > 0 else -_LEAN
        self._rate = _UNIT + lean
        return ahead_ns
