"""What may a backfill ask of the venue a minute, beside a recorder and after another backfill?

The venue counts what an address spends, and a recorder must never be refused because of the past. So a recorder spends
`record.rest_weight_per_minute`, as if it were alone, and the backfills of a home share 0.7 of as much: with the
default 600 + 420 of the venue's 1,200. What is left is for answers, whose rows are charged when they are there.

The file `journal/backfill.budget` notes what was spent. Whoever asks holds it, so backfills of a home ask one after the
other, and what the last one spent still counts for the next, also where it was killed.
"""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

from ingest.feed.rate_limiter import RateLimiter, RateLimitRule
from storage.clock import NS, TimeSource
from storage.errors import JournalError
from storage.settings import Settings

_SHARE: Final = 0.7
_PER_S: Final = 60.0
_FILE: Final = "backfill.budget"


def weight_per_minute(settings: Settings) -> int:
    """Return what the backfills of a home may spend a minute."""
    return max(1, int(settings.record.rest_weight_per_minute * _SHARE))


class _NotedBudget(RateLimiter):
    """A budget that writes down what is spent of it."""

    def __init__(self, limit: RateLimitRule, handle: TextIO, clock: TimeSource) -> None:
        super().__init__(limit)
        self._handle, self._clock = handle, clock
        now_s, now_ns = asyncio.get_running_loop().time(), clock.now_ns()
        for line in handle.read().splitlines():
            # One that was killed may have left half of a line; nothing is younger than now, whatever a clock says.
            if len(said := line.split()) == 2:
                super().charge(int(said[1]), now_s - max(0.0, (now_ns - int(said[0])) / NS))
        self.spent(now_s)
        handle.seek(0)
        handle.truncate()
        for spent_s, weight in self._spent[0]:
            self._note(now_ns - int((now_s - spent_s) * NS), weight)

    def charge(self, weight: int, now_s: float) -> None:
        """Spend, and write it down."""
        super().charge(weight, now_s)
        if weight:
            self._note(self._clock.now_ns(), weight)

    def _note(self, now_ns: int, weight: int) -> None:
        self._handle.write(f"{now_ns} {weight}\n")
        self._handle.flush()


@contextmanager
def allowance(settings: Settings, clock: TimeSource, *, is_noted: bool = True) -> Iterator[RateLimiter]:
    """Yield what a backfill may spend; nobody else of this home asks for the past meanwhile.

    Args:
        settings: whose home, and the recorder's budget.
        clock: tells how long ago something was spent.
        is_noted: false for a look beforehand, which asks next to nothing and may be taken at any time.

    Raises:
        JournalError: another backfill is asking.
    """
    limit = RateLimitRule(weight_per_minute(settings), _PER_S)
    if not is_noted:
        yield RateLimiter(limit)
        return
    path = settings.journal_dir / _FILE
    with path.open("a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise JournalError(
                f"another backfill of {settings.home} asks the venue now, and they share one budget",
                hint="wait until it has ended, and run the same command again",
            ) from error
        handle.seek(0)
        yield _NotedBudget(limit, handle, clock)
