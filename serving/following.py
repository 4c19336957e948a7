"""What does `tickwalk features follow` do: take each bar of a growing lake in its turn, and tell its features?"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from features.follow import Follower
from features.manifest import Question
from features.sets import get_set
from features.step import Row
from serving.features import Bars
from storage.clock import NS, TimeSource, WallTime, iso, width_ns
from storage.errors import RangeError
from storage.lake import Lake

_LOOK_S: Final = 0.2
"""How long to wait before the lake is looked at again; a recorder commits when a bar closes."""


@dataclass(frozen=True, slots=True)
class Told:
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
    row: Row
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
    bars: Bars, *, patience_s: float, stop: threading.Event, time_source: TimeSource | None = None
) -> Iterator[Told]:
    """Yield the features of each bar as its turn comes, until told to stop.

    Args:
        bars: which bars; those that are there already are only looked back on.
        patience_s: how long after its grace a bar is waited for; what is not there by then is unknown.
        stop: ends the wait for the next bar.
        time_source: the present.

    Raises:
        RangeError: the lake holds no bar that fits, or its newest is too old to go on from.
    """
    clock = time_source or WallTime()
    names = tuple(item.name for item in get_set(bars.feature_set))
    question = Question(
        bars.feature_set, bars.width, bars.settings.bars.grace_ns, instruments=bars.instruments
    )
    with Lake.open(bars.settings, read_only=True) as lake:
        follower = Follower.begin(lake, question)
        _refuse_old(follower, bars, now_ns=clock.now_ns())
        while not stop.is_set():
            now_ns, began_s = clock.now_ns(), time.perf_counter()
            row = follower.step(lake, is_overdue=now_ns > follower.due_ns + int(patience_s * NS))
            if row is None:
                stop.wait(_LOOK_S)
                continue
            yield Told(
                follower.instruments,
                names,
                row,
                after_close_s=(clock.now_ns() - follower.next_ns) / NS,
                took_ms=(time.perf_counter() - began_s) * 1e3,
            )


def _refuse_old(follower: Follower, bars: Bars, *, now_ns: int) -> None:
    lookback = max(item.lookback_bars for item in get_set(bars.feature_set))
    if now_ns - follower.next_ns > max(lookback, 1) * width_ns(bars.width):
        raise RangeError(
            f"the newest {bars.width} bar opened at {iso(follower.next_ns)}, more than the {lookback} bars ago that "
            f"set {bars.feature_set} looks back",
            hint="start the recorder: tickwalk record",
        )
