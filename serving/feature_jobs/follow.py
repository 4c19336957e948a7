"""Job of `tickwalk features follow`: compute the features of each new bar of a growing lake."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Self

from features.feature import deepest_lookback
from features.follow import Follower
from features.live import LiveRow
from features.sets import get_set
from ingest.recorder.steady_clock import SteadyTime
from serving.feature_jobs.selection import BarSelection
from storage.clock import NS, TimeSource, iso, width_ns
from storage.errors import LakeError, RangeError, SettingsError
from storage.lake.lake import Lake
from storage.logs import get_logger

logger = get_logger(__name__)

_POLL_S: Final = 0.2
"""Seconds between polls of the lake while a bar is due; a recorder commits when a bar closes."""
_IDLE_POLL_S: Final = 5.0
"""Longest wait before a bar is due: the recorder's clock may differ if it started after a clock correction."""
_REOPEN_BARS: Final = 200
"""A connection caches what it reads of a growing lake: 0.2 MB per bar of 200 instruments (measured 2026-11-26)."""


@dataclass(frozen=True, slots=True)
class FollowedBar:
    """The features of one bar.

    Args:
        instruments: (S,) ids.
        names: (F,) names.
        row: values and mask.
        after_close_s: seconds from the bar's close until the features were computed.
        took_ms: time to read the bar and compute.
    """

    instruments: tuple[str, ...]
    names: tuple[str, ...]
    row: LiveRow
    after_close_s: float
    took_ms: float

    def line(self) -> str:
        """Return one line for the terminal."""
        known = float(self.row.mask.double().mean())
        return (
            f"{iso(self.row.ts_open_ns)}  {len(self.instruments)} instruments  {known:.1%} known  "
            f"{self.after_close_s:.1f} s after the close  {self.took_ms:.0f} ms"
        )

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield one record per instrument; unknown values are null."""
        for instrument, values, mask in zip(
            self.instruments, self.row.values.tolist(), self.row.mask.tolist(), strict=True
        ):
            known = {
                name: value if is_known else None
                for name, value, is_known in zip(self.names, values, mask, strict=True)
            }
            yield {"ts_open": iso(self.row.ts_open_ns), "instrument": instrument, **known}


def follow_bars(
    bars: BarSelection, *, patience_s: float, stop: threading.Event, time_source: TimeSource | None = None
) -> Iterator[FollowedBar]:
    """Yield the features of each new bar until `stop` is set.

    Args:
        bars: which bars; bars that exist already only fill the lookback.
        patience_s: seconds to wait for a bar after its grace period; a bar still missing then is unknown.
        stop: ends the wait for the next bar.
        time_source: the current time (default: a clock that never jumps, as in the recorder).

    Raises:
        RangeError: the lake holds no matching bar, or the newest is too old to continue from.
        LakeError: the lake could not be read for as long as a bar is waited for.
        SettingsError: `patience_s` is negative or not finite.
    """
    if not 0.0 <= patience_s < math.inf:
        raise SettingsError(
            f"--patience is {patience_s:g}; it is a time in seconds, 0 or longer", hint="use 30"
        )
    clock = time_source or SteadyTime()
    names = tuple(item.name for item in get_set(bars.feature_set))
    with _Connection(bars) as connection:
        follower = Follower.begin(connection.lake, bars.store_key)
        _refuse_old(follower, bars, now_ns=clock.now_ns())
        while not stop.is_set():
            if isinstance(clock, SteadyTime):
                clock.steer()
            now_ns, began_s = clock.now_ns(), time.perf_counter()
            row = connection.step(follower, is_overdue=now_ns > follower.due_ns + int(patience_s * NS))
            if row is None:
                stop.wait(min(max((follower.due_ns - now_ns) / NS, _POLL_S), _IDLE_POLL_S))
                continue
            yield FollowedBar(
                follower.instruments,
                names,
                row,
                after_close_s=(clock.now_ns() - follower.next_ns) / NS,
                took_ms=(time.perf_counter() - began_s) * 1e3,
            )


class _Connection:
    """A lake connection that is reopened every 200 bars to free memory, and after `tickwalk lake rebuild`."""

    def __init__(self, bars: BarSelection) -> None:
        self._bars, self._steps = bars, 0
        self.lake = Lake.open(bars.settings, read_only=True)
        self._inode = self._read_inode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.lake.close()

    def step(self, follower: Follower, *, is_overdue: bool) -> LiveRow | None:
        """Run one step of the follower; retry a lake that cannot be read until the bar is overdue."""
        try:
            if self._steps >= _REOPEN_BARS or self._read_inode() != self._inode:
                self._reopen()
            row = follower.step(self.lake, is_overdue=is_overdue)
        except (LakeError, OSError) as error:
            if is_overdue:
                raise LakeError(
                    f"the lake in {self._bars.settings.lake_dir} could not be read for as long as a bar is waited for: "
                    f"{error}",
                    hint="check it with: tickwalk lake status; then run this again",
                ) from error
            logger.warning("lake not read", reason=str(error))
            self._steps = _REOPEN_BARS
            return None
        self._steps += row is not None
        return row

    def _read_inode(self) -> int:
        """Return the inode of the lake's folder, which changes when a rebuilt lake replaces it."""
        return self._bars.settings.lake_dir.stat().st_ino

    def _reopen(self) -> None:
        inode = self._read_inode()
        fresh = Lake.open(self._bars.settings, read_only=True)
        self.lake.close()
        self.lake, self._inode, self._steps = fresh, inode, 0


def _refuse_old(follower: Follower, bars: BarSelection, *, now_ns: int) -> None:
    lookback = deepest_lookback(get_set(bars.feature_set))
    if now_ns - follower.newest_ns > max(lookback, 1) * width_ns(bars.width):
        raise RangeError(
            f"the newest {bars.width} bar opened at {iso(follower.newest_ns)}, more than the {lookback} bars ago that "
            f"set {bars.feature_set} looks back",
            hint="start the recorder: tickwalk record",
        )
