"""What does `tickwalk features follow` do: take each bar of a growing lake in its turn, and tell its features?"""

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

_LOOK_S: Final = 0.2
"""How long to wait before the lake is looked at again, once a bar is due; a recorder commits when a bar closes."""
_IDLE_S: Final = 5.0
"""How long to wait at most before that: the recorder's clock is not ours where it was started after a correction."""
_FRESH_BARS: Final = 200
"""A connection gathers what it has read of a growing lake, 0.2 MB a bar of 200 instruments (measured 2026-11-26)."""


@dataclass(frozen=True, slots=True)
class FollowedBar:
    """The features of one bar.

    Args:
        instruments: (S,) ids.
        names: (F,) names.
        row: values and mask.
        after_close_s: how long after the bar's close they were there.
        took_ms: how long reading the bar and computing took.
    """

    instruments: tuple[str, ...]
    names: tuple[str, ...]
    row: LiveRow
    after_close_s: float
    took_ms: float

    def line(self) -> str:
        """Return one line for a person."""
        known = float(self.row.mask.double().mean())
        return (
            f"{iso(self.row.ts_open_ns)}  {len(self.instruments)} instruments  {known:.1%} known  "
            f"{self.after_close_s:.1f} s after the close  {self.took_ms:.0f} ms"
        )

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield one record an instrument; what is not known is null."""
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
    """Yield the features of each bar as its turn comes, until told to stop.

    Args:
        bars: which bars; those that are there already are only looked back on.
        patience_s: how long after its grace a bar is waited for; what is not there by then is unknown.
        stop: ends the wait for the next bar.
        time_source: the present; by default a clock that never leaps, as the recorder's.

    Raises:
        RangeError: the lake holds no bar that fits, or its newest is too old to go on from.
        LakeError: the lake cannot be read, and could not for as long as a bar is waited for.
        SettingsError: the patience is no time.
    """
    if not 0.0 <= patience_s < math.inf:
        raise SettingsError(
            f"--patience is {patience_s:g}; it is a time in seconds, 0 or longer", hint="use 30"
        )
    clock = time_source or SteadyTime()
    names = tuple(item.name for item in get_set(bars.feature_set))
    with _Connection(bars) as connection:
        follower = Follower.begin(connection.lake, bars.question)
        _refuse_old(follower, bars, now_ns=clock.now_ns())
        while not stop.is_set():
            if isinstance(clock, SteadyTime):
                clock.steer()
            now_ns, began_s = clock.now_ns(), time.perf_counter()
            row = connection.step(follower, is_overdue=now_ns > follower.due_ns + int(patience_s * NS))
            if row is None:
                stop.wait(min(max((follower.due_ns - now_ns) / NS, _LOOK_S), _IDLE_S))
                continue
            yield FollowedBar(
                follower.instruments,
                names,
                row,
                after_close_s=(clock.now_ns() - follower.next_ns) / NS,
                took_ms=(time.perf_counter() - began_s) * 1e3,
            )


class _Connection:
    """A lake that is opened anew now and then, for memory's sake, and where `tickwalk lake rebuild` put another."""

    def __init__(self, bars: BarSelection) -> None:
        self._bars, self._steps = bars, 0
        self.lake = Lake.open(bars.settings, read_only=True)
        self._lies = self._where()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.lake.close()

    def step(self, follower: Follower, *, is_overdue: bool) -> LiveRow | None:
        """Take a follower's step; a lake that cannot be read is waited for like a bar."""
        try:
            if self._steps >= _FRESH_BARS or self._where() != self._lies:
                self._open_anew()
            row = follower.step(self.lake, is_overdue=is_overdue)
        except (LakeError, OSError) as error:
            if is_overdue:
                raise LakeError(
                    f"the lake in {self._bars.settings.lake_dir} cannot be read, and could not for as long as a bar is "
                    f"waited for: {error}",
                    hint="see what is wrong with it: tickwalk lake status; and then run this again",
                ) from error
            logger.warning("lake not read", reason=str(error))
            self._steps = _FRESH_BARS
            return None
        self._steps += row is not None
        return row

    def _where(self) -> int:
        """Return which folder the lake is: another one is another lake, though its name is the same."""
        return self._bars.settings.lake_dir.stat().st_ino

    def _open_anew(self) -> None:
        lies = self._where()
        fresh = Lake.open(self._bars.settings, read_only=True)
        self.lake.close()
        self.lake, self._lies, self._steps = fresh, lies, 0


def _refuse_old(follower: Follower, bars: BarSelection, *, now_ns: int) -> None:
    lookback = deepest_lookback(get_set(bars.feature_set))
    if now_ns - follower.newest_ns > max(lookback, 1) * width_ns(bars.width):
        raise RangeError(
            f"the newest {bars.width} bar opened at {iso(follower.newest_ns)}, more than the {lookback} bars ago that "
            f"set {bars.feature_set} looks back",
            hint="start the recorder: tickwalk record",
        )
