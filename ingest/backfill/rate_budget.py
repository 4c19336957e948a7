"""Rate limit that all backfills of a home share, beside a recorder.

The venue counts what an address spends, and a recorder must never be refused because of a backfill. So a recorder
spends `record.rest_weight_per_minute`, as if it were alone, and the backfills of a home share 0.7 of that: with the
default 600 + 420 of the venue's 1,200. The rest is for answers, whose rows are charged when they are there.

The file `journal/backfill.budget` records what was spent. A running backfill locks it, so backfills of a home run one
after another, and what the last one spent still counts for the next, even if it was killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

from ingest.feed.rate_limiter import RateLimiter, RateLimitRule
from storage.clock import NS, TimeSource
from storage.errors import JournalError
from storage.file_lock import file_lock
from storage.settings import Settings

_SHARE: Final = 0.7
_WINDOW_S: Final = 60.0
_FILE: Final = "backfill.budget"


def weight_per_minute(settings: Settings) -> int:
    """Return the weight that the backfills of a home may spend a minute."""
    return max(1, int(settings.record.rest_weight_per_minute * _SHARE))


class _RecordedRateLimiter(RateLimiter):
    """A rate limiter that records its spending in a file."""

    def __init__(self, limit: RateLimitRule, handle: TextIO, clock: TimeSource) -> None:
        super().__init__(limit)
        self._handle, self._clock = handle, clock
        now_s, now_ns = asyncio.get_running_loop().time(), clock.now_ns()
        for line in handle.read().splitlines():
            # A killed backfill may leave half a line; no entry is younger than now, whatever a clock says.
            if len(fields := line.split()) == 2:
                super().charge(int(fields[1]), now_s - max(0.0, (now_ns - int(fields[0])) / NS))
        self.spent(now_s)
        handle.seek(0)
        handle.truncate()
        for spent_s, weight in self._spent[0]:
            self._record(now_ns - int((now_s - spent_s) * NS), weight)

    def charge(self, weight: int, now_s: float) -> None:
        """Spend a weight, and record it."""
        super().charge(weight, now_s)
        if weight:
            self._record(self._clock.now_ns(), weight)

    def _record(self, now_ns: int, weight: int) -> None:
        self._handle.write(f"{now_ns} {weight}\n")
        self._handle.flush()


@contextmanager
def shared_rate_limit(
    settings: Settings, clock: TimeSource, *, is_recorded: bool = True
) -> Iterator[RateLimiter]:
    """Yield the rate limiter of a backfill, and keep other backfills of this home out meanwhile.

    Args:
        settings: home, and rate limit of the recorder.
        clock: stamps entries of the file.
        is_recorded: false for a dry run, which needs next to nothing and may run at any time.

    Raises:
        JournalError: another backfill is running.
    """
    limit = RateLimitRule(weight_per_minute(settings), _WINDOW_S)
    if not is_recorded:
        yield RateLimiter(limit)
        return
    error = JournalError(
        f"another backfill of {settings.home} asks the venue now, and they share one budget",
        hint="wait until it has ended, and run the same command again",
    )
    with file_lock(settings.journal_dir / _FILE, error=error, mode="a+") as handle:
        handle.seek(0)
        yield _RecordedRateLimiter(limit, handle, clock)
