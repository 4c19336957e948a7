"""Features of each bar as it closes, computed from the lake while the recorder writes it.

A follower reads the recorder's lake bar by bar and takes one live step (features/live.py) per bar. A recorder writes a
row for every instrument and bar, whether or not anything printed, and commits it together with everything else that it
had received by then. So a bar is complete once every instrument that had the previous bar has this one too, however
many recorders there are, and what is computed then equals a later build of the same bars to the bit
(tests/features/test_follow.py). When an instrument appears that had no previous bar, because it was listed or because
its recorder came back, the follower reloads its lookback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from features.feature import deepest_lookback
from features.live import LiveFeatures, LiveRow
from features.panel.panel import Panel, missing_instrument_error, no_bars_error
from features.sets import columns_of, get_set
from features.store.manifest import StoreKey
from features.store.panel_cache import load_stretch
from storage.clock import DAY_NS, NS, US_NS, floor_ns, iso, width_ns
from storage.errors import RangeError
from storage.lake.point_in_time import IS_RECORDED, is_known, known_bars
from storage.logs import get_logger

if TYPE_CHECKING:
    from storage.lake.lake import Lake

logger = get_logger(__name__)

_ENDS: Final = """
SELECT epoch_us(min(ts_open)) AS first_us, epoch_us(max(ts_open)) AS last_us FROM bars
WHERE width = ? AND list_contains(?, origin) AND (? OR list_contains(?, instrument))
"""
# Instruments with a row for a bar: a recorded one, whenever it became known, or history known in time. The row that
# counts shows whether they are still listed. History that arrives later says nothing of a recorder that is still due.
_PRESENT: Final = f"""
SELECT instrument, status <> 'unlisted' AS is_listed FROM ({
    known_bars(
        ("instrument", "status"),
        where=f'''
    width = ? AND ts_open = make_timestamptz(?) AND list_contains(?, origin) AND (? OR list_contains(?, instrument))
    AND ({IS_RECORDED} OR {is_known("served")})''',
    )
})
"""
_SETTLED_NS: Final = 10 * NS
"""A follower starts this long before the newest bar, in whole bars: one recorder may commit later than another."""


class Follower:
    """Features of the bars of a growing lake.

    Args:
        key: which bars, and which features.
        lake: holds the bars before the first followed one.
        begin_ns: open of the first bar; the lookback starts no earlier, as in a build.
        next_ns: open of the next bar to process.

    Attributes:
        instruments: (S,) ids; the requested ones, or those with a bar within the lookback.
        next_ns: open of the next bar to process.
        newest_ns: open of the newest bar in the lake at the start.
    """

    def __init__(self, key: StoreKey, lake: Lake, *, begin_ns: int, next_ns: int) -> None:
        self.next_ns = self.newest_ns = next_ns
        self._key, self._width_ns, self._begin_ns = key, width_ns(key.width), begin_ns
        self.instruments: tuple[str, ...] = ()
        self._reload_lookback(lake)
        self._expected = _listed(self._present(lake, next_ns - self._width_ns))

    @classmethod
    def begin(cls, lake: Lake, key: StoreKey) -> Self:
        """Start following at the first bar of the lake that may still be incomplete.

        Raises:
            RangeError: the lake holds no matching bar, or only one.
            InstrumentError: a requested instrument has no bar.
        """
        requested, step_ns = key.instruments, width_ns(key.width)
        [ends] = lake.query(
            _ENDS, (key.width, list(key.origins), requested is None, list(requested or ()))
        ).to_pylist()
        if ends["last_us"] is None:
            raise (
                missing_instrument_error(requested[0])
                if requested
                else no_bars_error(key.width, key.origins, None, None)
            )
        first_ns, last_ns = ends["first_us"] * US_NS, ends["last_us"] * US_NS
        if first_ns == last_ns:
            raise RangeError(
                f"the lake holds only one {key.width} bar so far, that of {iso(first_ns)}, and none before it for "
                "the lookback",
                hint=f"run this again when the next bar has closed, in {key.width}",
            )
        next_ns = max(last_ns - -(-_SETTLED_NS // step_ns) * step_ns, first_ns + step_ns)
        # A store begins at the start of a day (features/store/store.py).
        follower = cls(key, lake, begin_ns=floor_ns(first_ns, DAY_NS), next_ns=next_ns)
        if not follower.instruments:
            raise no_bars_error(key.width, key.origins, next_ns - follower._lookback_ns, next_ns)
        follower.newest_ns = last_ns
        return follower

    @property
    def due_ns(self) -> int:
        """Earliest time at which the next bar can be complete: its close plus the grace."""
        return self.next_ns + self._width_ns + self._key.grace_ns

    def step(self, lake: Lake, *, is_overdue: bool = False) -> LiveRow | None:
        """Return the features of the next bar, or None while a row is missing that may still arrive.

        Args:
            lake: the tables in their current state.
            is_overdue: do not wait; missing instruments count as unknown and are not waited for until they return.
        """
        present = self._present(lake, self.next_ns)
        if not is_overdue and (not present or not self._expected <= set(present)):
            return None
        listed = _listed(present)
        if missing := sorted(self._expected - set(present)):
            logger.warning(
                "bar waited out", ts_open=iso(self.next_ns), missing=len(missing), first=missing[:3]
            )
        if not listed <= self._expected:
            self._reload_lookback(lake)
        stop_ns = self.next_ns + self._width_ns
        requested = self._key.instruments
        bar = _read(lake, self._key, requested, self.next_ns, stop_ns).reindexed(self.instruments)
        self.next_ns, self._expected = stop_ns, listed
        return self._live.step(bar)

    @property
    def _lookback_ns(self) -> int:
        lookback_bars = deepest_lookback(get_set(self._key.feature_set))
        return max(lookback_bars, 1) * self._width_ns

    def _present(self, lake: Lake, open_ns: int) -> dict[str, bool]:
        """Return the instruments with a row for a bar, and whether each is listed."""
        requested = self._key.instruments
        found = lake.query(
            _PRESENT,
            (
                self._key.width,
                open_ns // US_NS,
                list(self._key.origins),
                requested is None,
                list(requested or ()),
                self._key.grace_ns,
            ),
        )
        return {row["instrument"]: row["is_listed"] for row in found.to_pylist()}

    def _reload_lookback(self, lake: Lake) -> None:
        """Rebuild the live state from the bars before the next one, as the lake has them now."""
        start_ns = max(self.next_ns - self._lookback_ns, self._begin_ns)
        requested = self._key.instruments
        panel = _read(lake, self._key, requested, start_ns, self.next_ns + self._width_ns)
        if absent := sorted(set(requested or ()) - set(self.instruments or panel.instruments)):
            raise missing_instrument_error(absent[0])
        self.instruments = tuple(sorted(requested)) if requested else panel.instruments
        self._live = LiveFeatures.after(panel.reindexed(self.instruments).steps(0, -1), self._key.feature_set)


def _listed(present: dict[str, bool]) -> set[str]:
    return {instrument for instrument, is_listed in present.items() if is_listed}


def _read(
    lake: Lake, key: StoreKey, instruments: tuple[str, ...] | None, start_ns: int, stop_ns: int
) -> Panel:
    return load_stretch(
        lake,
        width=key.width,
        start_ns=start_ns,
        stop_ns=stop_ns,
        instruments=instruments,
        origins=key.origins,
        joined=columns_of(get_set(key.feature_set)),
        at=None,  # a named snapshot stays attached as long as the connection lives
        grace_ns=key.grace_ns,
        rows=key.rows,
    )
