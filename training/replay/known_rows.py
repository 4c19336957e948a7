"""The rows of a home as they were known at each night of a replay.

A night at time T knows the rows whose `ts_knowable` is at most T, and its panel ends with the last bar that had been
published by then: the last one whose close plus the grace is at most T. Bars are `served`: each holds what was known at
its own close plus the grace. So the panel of an earlier night is the beginning of that of a later one, without the
instruments that had no bar yet, and the lake is read once for all nights.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa

from features.leakage.point_in_time import PointInTimeLake
from features.panel.panel import Panel, content_hash, open_bounds_us
from features.sets import columns_of, get_set
from features.store.panel_cache import cached_panel
from storage.clock import floor_ns, iso, width_ns
from storage.errors import RangeError
from storage.lake.fees import FeeSchedule
from storage.lake.lake import Lake
from storage.lake.point_in_time import is_known
from storage.settings import Settings
from training.night.pinned_inputs import (
    PinnedRows,
    chosen_instruments,
    fee_hash,
    read_funding,
    read_lessons,
    read_taker_fees,
)
from training.recipe import Recipe

_FIRST_BARS: Final = f"""
SELECT instrument, epoch_us(min(ts_open)) * 1000 AS first_ns FROM bars
WHERE width = ? AND list_contains(?, origin) AND list_contains(?, instrument)
  AND ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?) AND {is_known("served")}
GROUP BY instrument
"""
_NEWEST_BAR: Final = """
SELECT epoch_us(max(ts_close)) * 1000 AS close_ns FROM bars WHERE width = ? AND list_contains(?, origin)
"""
_FUNDING: Final = """
SELECT instrument, epoch_us(ts_event) AS at_us, funding_rate, ts_knowable_ns FROM funding
WHERE list_contains(?, instrument) AND epoch_us(ts_event) BETWEEN ? AND ? AND ts_knowable_ns <= ?
ORDER BY ALL
"""
_LATER_BARS: Final = f"""
SELECT instrument, epoch_us(ts_open) AS open_us, revision, status, origin, open, high, low, close, volume,
    notional, trades, bid, ask, ts_available_ns, ts_knowable_ns
FROM bars
WHERE width = ? AND list_contains(?, origin) AND ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?)
  AND NOT {is_known("served")} AND ts_knowable_ns <= ?
ORDER BY ALL
"""
_MINUTE_US: Final = 60_000_000


@dataclass(frozen=True)
class KnownRows:
    """The rows of a range, by what was known when.

    Args:
        lake: has them; opened by the caller, and read at a snapshot.
        recipe: chooses them.
        panel: the served bars of the whole range.
        at: snapshot of the lake.
        grace_ns: from a bar's close until it is published.
        to_ns: end of the range.
    """

    lake: Lake
    recipe: Recipe
    panel: Panel
    at: int
    grace_ns: int
    to_ns: int

    @classmethod
    def read(cls, lake: Lake, recipe: Recipe, settings: Settings, *, to_ns: int, every_ns: int) -> KnownRows:
        """Read the bars that were published by the end of a range.

        Args:
            lake: has them.
            recipe: chooses them.
            settings: of the home.
            to_ns: end of the range.
            every_ns: time between nights; the range may go on for as long after the newest bar.

        Raises:
            RangeError: there is no bar, or the range goes on after the newest one.
        """
        grace_ns, step_ns = settings.bars.grace_ns, width_ns(recipe.width)
        at = lake.snapshot()
        newest = lake.query(_NEWEST_BAR, (recipe.width, list(recipe.origins)), at=at)["close_ns"][0].as_py()
        if newest is not None and to_ns > newest + every_ns:
            raise RangeError(
                f"the newest {recipe.width} bar closes at {iso(newest)}, and the replay goes on until {iso(to_ns)}",
                hint=f"set --to {iso(newest)[:16]}, or earlier",
            )
        bounds: dict[str, Any] = {
            "since_ns": None,
            "until_ns": floor_ns(to_ns - grace_ns, step_ns),
            "at": at,
            "grace_ns": grace_ns,
        }
        panel, _ = cached_panel(
            settings.features_dir,
            lake,
            width=recipe.width,
            instruments=chosen_instruments(lake, recipe, **bounds),
            origins=recipe.origins,
            joined=columns_of(get_set(recipe.feature_set)),
            **bounds,
        )
        return cls(lake, recipe, panel, at, grace_ns, to_ns)

    def stop(self, at_ns: int) -> int:
        """Return the number of steps that had been published by a time."""
        return int(np.searchsorted(self.panel.ts_close_ns + self.grace_ns, at_ns, side="right"))

    def known_at(self, at_ns: int) -> Lake:
        """Return a view of the lake that has only the rows that were known at a time."""
        return cast("Lake", PointInTimeLake(self.lake, at_ns))

    def panel_at(self, at_ns: int) -> Panel:
        """Return the panel of a night at a time.

        Raises:
            RangeError: no bar had been published.
        """
        stop = self.stop(at_ns)
        known = self.panel.steps(0, stop)
        listed = [i for i, name in enumerate(known.instruments) if self._first_step[name] < stop]
        if not listed:
            raise RangeError("no bar had been published by the first night", hint="begin later: --from")
        return known if len(listed) == known.n_instruments else known.select(listed)

    def at_night(self, at_ns: int) -> tuple[PinnedRows, FeeSchedule]:
        """Return the rows that a night at a time knew, and the taker fees in force at its bars.

        Raises:
            RangeError: no bar had been published.
            SettingsError: a fee is missing.
        """
        panel, hidden = self.panel_at(at_ns), self.known_at(at_ns)
        lessons = read_lessons(
            hidden, self.recipe, panel, features_dir=None, at=self.at, grace_ns=self.grace_ns
        )
        fees = read_taker_fees(hidden, panel, self.recipe.costs, at=self.at)
        return PinnedRows(panel, lessons, read_funding(hidden, panel, at=self.at)), fees

    @cached_property
    def _first_step(self) -> dict[str, int]:
        """First step with a row by instrument, of whatever status."""
        found = self.lake.query(
            _FIRST_BARS,
            (*self._bars_query[:2], list(self.panel.instruments), *self._bars_query[2:]),
            at=self.at,
        )
        start_ns, step_ns = int(self.panel.ts_open_ns[0]), self.panel.width_ns
        return {row["instrument"]: (row["first_ns"] - start_ns) // step_ns for row in found.to_pylist()}

    @property
    def _bars_query(self) -> tuple[Any, ...]:
        bounds = open_bounds_us(int(self.panel.ts_open_ns[0]), int(self.panel.ts_close_ns[-1]))
        return (self.recipe.width, list(self.recipe.origins), *bounds, self.grace_ns)

    def hashes(self) -> dict[str, str | None]:
        """Return hashes of all rows that some night of the range knows, with the times at which they became known."""
        bounds = (int(self.panel.ts_open_ns[0]) // 1000 - _MINUTE_US, int(self.panel.ts_close_ns[-1]) // 1000)
        funding = self.lake.query(_FUNDING, (list(self.panel.instruments), *bounds, self.to_ns), at=self.at)
        lessons = None
        if self.recipe.rows != "served":
            lessons = _table_hash(self.lake.query(_LATER_BARS, (*self._bars_query, self.to_ns), at=self.at))
        fees = read_taker_fees(self.lake, self.panel, self.recipe.costs, at=self.at)
        return {
            "content_hash": content_hash(self.panel),
            "funding_hash": _table_hash(funding),
            "lessons_hash": lessons,
            "fee_hash": fee_hash(fees),
        }


def _table_hash(table: pa.Table) -> str:
    """Return a hash of a table's rows in order, which does not depend on how they are chunked."""
    digest = hashlib.sha256(str(table.num_rows).encode())
    sink = pa.BufferOutputStream()
    whole = table.combine_chunks()
    with pa.ipc.new_stream(sink, whole.schema) as stream:
        stream.write_table(whole)
    digest.update(sink.getvalue())
    return digest.hexdigest()
