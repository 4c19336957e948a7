"""What are the features of each bar as it closes, beside the recorder?

A follower reads the lake that the recorder writes, bar after bar, and takes a live step (features/live.py) with each.
A recorder gives every instrument a row for every bar, printed or not, in one commit with all else that it had heard by
then. So a bar is whole once every instrument that had the bar before has this one too, however many recorders there
are; what is computed then is what a build makes of the same bars on any later day, to the bit
(tests/features/test_follow.py). One that had no bar before and has one now, because it was listed, or its recorder is
back with what it missed, makes the follower look back anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

import numpy as np
import torch

from features.feature import deepest_lookback
from features.live import LiveFeatures, LiveRow
from features.panel.panel import UNKNOWN, Panel, missing_instrument_error, no_bars_error
from features.sets import columns_of, get_set
from features.store.manifest import StoreKey
from features.store.panel_cache import load_stretch
from storage.clock import DAY_NS, NS, US_NS, floor_ns, iso, width_ns
from storage.errors import RangeError
from storage.logs import get_logger

if TYPE_CHECKING:
    from storage.lake.lake import Lake

logger = get_logger(__name__)

_ENDS: Final = """
SELECT epoch_us(min(ts_open)) AS first_us, epoch_us(max(ts_open)) AS last_us FROM bars
WHERE width = ? AND list_contains(?, origin) AND (? OR list_contains(?, instrument))
"""
# Who has a row for a bar, whenever that became known; the newest revision says whether it is still listed.
_PRESENT: Final = """
SELECT instrument, arg_max(status, revision) <> 'unlisted' AS is_listed FROM bars
WHERE width = ? AND ts_open = make_timestamptz(?) AND list_contains(?, origin) AND (? OR list_contains(?, instrument))
GROUP BY instrument
"""
_SETTLED_NS: Final = 10 * NS
"""A follower begins this long before the newest bar, in whole bars: one recorder may commit later than another."""


class Follower:
    """Features of the bars of a lake that grows.

    Args:
        question: which bars, and which features.
        lake: holds the bars before the first that is followed.
        begin_ns: open of the first bar; a panel begins there at the earliest, as that of a build does.
        next_ns: open of the bar whose turn is next.

    Attributes:
        instruments: (S,) ids; those that have a bar in what is looked back on, or all that were asked for.
        next_ns: open of the bar whose turn is next.
        newest_ns: open of the newest bar that the lake held at the beginning.
    """

    def __init__(self, question: StoreKey, lake: Lake, *, begin_ns: int, next_ns: int) -> None:
        self.next_ns = self.newest_ns = next_ns
        self._question, self._width_ns, self._begin_ns = question, width_ns(question.width), begin_ns
        self.instruments: tuple[str, ...] = ()
        self._look_back(lake)
        self._awaited = _listed(self._present(lake, next_ns - self._width_ns))

    @classmethod
    def begin(cls, lake: Lake, question: StoreKey) -> Self:
        """Follow a lake from its newest bars on: from the first that may still have been incomplete when it was read.

        Raises:
            RangeError: the lake holds no bar that fits, or only one.
            InstrumentError: an instrument that was asked for has none.
        """
        asked, step_ns = question.instruments, width_ns(question.width)
        [ends] = lake.query(
            _ENDS, (question.width, list(question.origins), asked is None, list(asked or ()))
        ).to_pylist()
        if ends["last_us"] is None:
            raise (
                missing_instrument_error(asked[0])
                if asked
                else no_bars_error(question.width, question.origins, None, None)
            )
        first_ns, last_ns = ends["first_us"] * US_NS, ends["last_us"] * US_NS
        if first_ns == last_ns:
            raise RangeError(
                f"the lake holds one {question.width} bar so far, that of {iso(first_ns)}, and none before it to look "
                "back on",
                hint=f"run this again when the next has closed, in {question.width}",
            )
        next_ns = max(last_ns - -(-_SETTLED_NS // step_ns) * step_ns, first_ns + step_ns)
        # A store begins at the start of a day (features/store/store.py).
        follower = cls(question, lake, begin_ns=floor_ns(first_ns, DAY_NS), next_ns=next_ns)
        if not follower.instruments:
            raise no_bars_error(question.width, question.origins, next_ns - follower._lookback_ns, next_ns)
        follower.newest_ns = last_ns
        return follower

    @property
    def due_ns(self) -> int:
        """When the next bar's turn comes at the earliest: its close plus the grace."""
        return self.next_ns + self._width_ns + self._question.grace_ns

    def step(self, lake: Lake, *, is_overdue: bool = False) -> LiveRow | None:
        """Return the features of the next bar; nothing while a row is missing that may still come.

        Args:
            lake: the tables, as they are now.
            is_overdue: do not wait; what is not there is unknown, and is not waited for again until it is back.
        """
        present = self._present(lake, self.next_ns)
        if not is_overdue and (not present or not self._awaited <= set(present)):
            return None
        listed = _listed(present)
        if missing := sorted(self._awaited - set(present)):
            logger.warning(
                "bar waited out", ts_open=iso(self.next_ns), missing=len(missing), first=missing[:3]
            )
        if not listed <= self._awaited:
            self._look_back(lake)
        stop_ns = self.next_ns + self._width_ns
        asked = self._question.instruments
        bar = _spread(_read(lake, self._question, asked, self.next_ns, stop_ns), self.instruments)
        self.next_ns, self._awaited = stop_ns, listed
        return self._live.step(bar)

    @property
    def _lookback_ns(self) -> int:
        lookback_bars = deepest_lookback(get_set(self._question.feature_set))
        return max(lookback_bars, 1) * self._width_ns

    def _present(self, lake: Lake, open_ns: int) -> dict[str, bool]:
        """Return who has a row for a bar, and whether it is listed."""
        asked = self._question.instruments
        found = lake.query(
            _PRESENT,
            (
                self._question.width,
                open_ns // US_NS,
                list(self._question.origins),
                asked is None,
                list(asked or ()),
            ),
        )
        return {row["instrument"]: row["is_listed"] for row in found.to_pylist()}

    def _look_back(self, lake: Lake) -> None:
        """Begin a new state with the bars before the next, as the lake has them now."""
        start_ns = max(self.next_ns - self._lookback_ns, self._begin_ns)
        asked = self._question.instruments
        panel = _read(lake, self._question, asked, start_ns, self.next_ns + self._width_ns)
        if absent := sorted(set(asked or ()) - set(self.instruments or panel.instruments)):
            raise missing_instrument_error(absent[0])
        self.instruments = tuple(sorted(asked)) if asked else panel.instruments
        self._live = LiveFeatures.after(
            _spread(panel, self.instruments).steps(0, -1), self._question.feature_set
        )


def _listed(present: dict[str, bool]) -> set[str]:
    return {instrument for instrument, is_listed in present.items() if is_listed}


def _read(
    lake: Lake, question: StoreKey, instruments: tuple[str, ...] | None, start_ns: int, stop_ns: int
) -> Panel:
    return load_stretch(
        lake,
        width=question.width,
        start_ns=start_ns,
        stop_ns=stop_ns,
        instruments=instruments,
        origins=question.origins,
        joined=columns_of(get_set(question.feature_set)),
        at=None,  # a snapshot that is named is attached for as long as the connection lasts
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
