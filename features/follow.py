"""What are the features of each bar as it closes, beside the recorder?

A follower reads the lake that the recorder writes, bar after bar, and takes a live step (features/step.py) with each.
A bar's turn comes when its grace is over and the lake holds something that became knowable later, of every venue: the
recorder commits in the order in which it hears, so whatever was knowable by then is in the lake, and the features are
those that a build makes of the same bars on any later day, to the bit (tests/features/test_follow.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

import numpy as np
import torch

from features.cache import load_stretch
from features.manifest import Question
from features.panel import UNKNOWN, Panel, no_bar_of, no_bars
from features.sets import columns_of, get_set
from features.step import Live, Row
from storage.clock import US_NS, width_ns

if TYPE_CHECKING:
    from storage.lake import Lake

_NEWEST: Final = """
SELECT epoch_us(max(ts_open)) AS newest_us FROM bars
WHERE width = ? AND list_contains(?, origin) AND (? OR list_contains(?, instrument))
"""
_HEARD: Final = " UNION ALL ".join(
    f"SELECT instrument FROM {table} WHERE ts_knowable_ns > ?"
    for table in ("trades", "quotes", "contexts", "books")
)
_VENUES: Final = f"SELECT DISTINCT split_part(instrument, '|', 1) AS venue FROM ({_HEARD})"


class Follower:
    """Features of the bars of a lake that grows.

    Args:
        question: which bars, and which features.
        seen: the bars before the first that is followed; at least as many as the set looks back.

    Attributes:
        instruments: (S,) ids; those that `seen` holds, for good.
        next_ns: open of the bar whose turn is next.
    """

    def __init__(self, question: Question, seen: Panel) -> None:
        self.instruments = seen.instruments
        self.next_ns = int(seen.ts_close_ns[-1])
        self._question, self._width_ns = question, seen.width_ns
        self._live = Live.after(seen, question.feature_set)
        self._venues = {name.partition("|")[0] for name in seen.instruments}

    @classmethod
    def begin(cls, lake: Lake, question: Question) -> Self:
        """Follow a lake from its newest bar on.

        Raises:
            RangeError: the lake holds no bar that fits, or none before the newest.
            InstrumentError: an instrument that was asked for has none.
        """
        asked = question.instruments
        [newest] = lake.query(
            _NEWEST, (question.width, list(question.origins), asked is None, list(asked or ()))
        ).to_pylist()
        if newest["newest_us"] is None:
            raise no_bar_of(asked[0]) if asked else no_bars(question.width, question.origins, None, None)
        lookback = max(item.lookback_bars for item in get_set(question.feature_set))
        stop_ns = newest["newest_us"] * US_NS
        start_ns = stop_ns - max(lookback, 1) * width_ns(question.width)
        seen = _read(lake, question, asked, start_ns, stop_ns)
        if not seen.instruments:
            raise no_bars(question.width, question.origins, start_ns, stop_ns)
        if absent := sorted(set(asked or ()) - set(seen.instruments)):
            raise no_bar_of(absent[0])
        return cls(question, seen)

    @property
    def due_ns(self) -> int:
        """When the next bar's turn comes at the earliest: its close plus the grace."""
        return self.next_ns + self._width_ns + self._question.grace_ns

    def step(self, lake: Lake, *, is_overdue: bool = False) -> Row | None:
        """Return the features of the next bar; nothing while something may still come that was knowable in time.

        Args:
            lake: the tables, as they are now.
            is_overdue: do not wait; what is not there is unknown.
        """
        if not is_overdue and not self._is_written(lake):
            return None
        stop_ns = self.next_ns + self._width_ns
        bar = _spread(_read(lake, self._question, self.instruments, self.next_ns, stop_ns), self.instruments)
        self.next_ns = stop_ns
        return self._live.step(bar)

    def _is_written(self, lake: Lake) -> bool:
        heard = lake.query(_VENUES, (self.due_ns,) * 4)["venue"].to_pylist()
        return self._venues <= set(heard)


def _read(
    lake: Lake, question: Question, instruments: tuple[str, ...] | None, start_ns: int, stop_ns: int
) -> Panel:
    return load_stretch(
        lake,
        width=question.width,
        start_ns=start_ns,
        stop_ns=stop_ns,
        instruments=instruments,
        origins=question.origins,
        joined=columns_of(get_set(question.feature_set)),
        at=lake.snapshot(),
        grace_ns=question.grace_ns,
    )


def _spread(panel: Panel, instruments: tuple[str, ...]) -> Panel:
    """Return the panel of these instruments; one that it lacks is unknown."""
    place = {name: row for row, name in enumerate(panel.instruments)}
    rows = torch.tensor([row for row, name in enumerate(instruments) if name in place], dtype=torch.int64)
    found = torch.tensor([place[name] for name in instruments if name in place], dtype=torch.int64)
    status = torch.full((len(instruments), panel.n_steps), UNKNOWN, dtype=torch.uint8)
    status[rows] = panel.status[found]
    values = {}
    for name, value in panel.values.items():
        values[name] = torch.full(status.shape, torch.nan, dtype=torch.float64)
        values[name][rows] = value[found]
    return Panel(instruments, panel.width_ns, np.asarray(panel.ts_open_ns), values, status)
