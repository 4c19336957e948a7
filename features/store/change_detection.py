"""Detection of the days that received rows since a store's last update."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from features.panel.panel import missing_instrument_error, no_bars_error, open_bounds_us
from features.store.manifest import Manifest, StoreKey
from storage.clock import DAY_NS, NS, US_NS, floor_ns, width_ns
from storage.lake.point_in_time import is_known

if TYPE_CHECKING:
    from storage.lake.lake import Lake

_OVERLAP_NS: Final = 3600 * NS
"""Batches are searched for that the lake stamped up to this long before the newest seen one, since clocks may be set
back. If one was set back further, everything is compared."""

# Days with matching bars from batches not seen yet, and the range of those bars.
_CHANGED_DAYS: Final = """
SELECT epoch_us(ts_open) // 86400000000 AS day, epoch_us(min(ts_open)) AS first_us,
       epoch_us(max(ts_open)) AS last_us, max(ts_ingested_ns) AS mark_ns, count(DISTINCT instrument) AS instruments
FROM bars
WHERE width = ? AND list_contains(?, origin) AND (? OR list_contains(?, instrument))
  AND ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?)
  AND {known}
  AND ts_ingested_ns >= ? AND batch NOT IN (SELECT unnest(?::VARCHAR[]))
GROUP BY day ORDER BY day
"""
_JOINED: Final = ("books", "funding", "lags")
"""Tables that a panel may join as of the close; their rows expire within a day."""
_CHANGED_JOINED_DAYS: Final = """
SELECT DISTINCT ts_knowable_ns // 86400000000000 AS day FROM {table}
WHERE ts_ingested_ns >= ? AND batch NOT IN (SELECT unnest(?::VARCHAR[]))
"""
_PRESENT_INSTRUMENTS: Final = """
SELECT DISTINCT instrument FROM bars
WHERE width = ? AND list_contains(?, origin) AND list_contains(?, instrument)
  AND ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?)
"""
_COUNT_OLDER: Final = "SELECT count(*) AS batches FROM batches WHERE ts_ingested_ns < ?"
_BATCHES: Final = "SELECT batch_id FROM batches WHERE ts_ingested_ns >= ? ORDER BY batch_id"


def find_changes(
    lake: Lake, key: StoreKey, manifest: Manifest, since_ns: int | None, until_ns: int | None, at: int
) -> tuple[Manifest, set[int]]:
    """Find rows added since the last update; return a new manifest, still without days, and the changed days.

    Rows that were seen are not queried again, so the cost depends on the amount of new data only.

    Raises:
        RangeError: no bar matches.
        InstrumentError: a requested instrument has no bar.
    """
    since_ns = None if since_ns is None else floor_ns(since_ns, DAY_NS)
    is_same = manifest.asked == [since_ns, until_ns] and manifest.snapshot <= at and manifest.mark_ns >= 0
    is_same = is_same and _older(lake, manifest.mark_ns, at) == manifest.older
    params = (
        key.width,
        list(key.origins),
        key.instruments is None,
        list(key.instruments or ()),
        *open_bounds_us(since_ns, until_ns),
        key.grace_ns,
        manifest.mark_ns - _OVERLAP_NS if is_same else 0,
        manifest.batches if is_same else [],
    )
    if key.instruments is not None and not is_same:
        present = lake.query(_PRESENT_INSTRUMENTS, (*params[:2], *params[3:6]), at=at)[
            "instrument"
        ].to_pylist()
        if absent := sorted(set(key.instruments) - set(present)):
            raise missing_instrument_error(absent[0])
    found = lake.query(_CHANGED_DAYS.format(known=is_known(key.rows)), params, at=at).to_pylist()
    if not found and not is_same:
        raise no_bars_error(key.width, key.origins, since_ns, until_ns)
    mark_ns = max([row["mark_ns"] for row in found] + [manifest.mark_ns] * is_same)
    seen = lake.query(_BATCHES, (mark_ns - _OVERLAP_NS,), at=at)
    new = Manifest(
        asked=[since_ns, until_ns],
        start_ns=min(
            [floor_ns(row["first_us"] * US_NS, DAY_NS) for row in found] + [manifest.start_ns] * is_same
        ),
        stop_ns=max(
            [row["last_us"] * US_NS + width_ns(key.width) for row in found] + [manifest.stop_ns] * is_same
        ),
        mark_ns=mark_ns,
        batches=[str(row["batch_id"]) for row in seen.to_pylist()],
        older=_older(lake, mark_ns, at),
        instruments=max([row["instruments"] for row in found] + [manifest.instruments] * is_same),
        snapshot=at,
    )
    if not is_same:
        return new, set(new.opens)
    changed = {row["day"] * DAY_NS for row in found}
    for table in _JOINED:
        rows = lake.query(_CHANGED_JOINED_DAYS.format(table=table), params[-2:], at=at).to_pylist()
        changed |= {(row["day"] + after) * DAY_NS for row in rows for after in (0, 1)}
    return new, changed & set(new.opens)


def _older(lake: Lake, mark_ns: int, at: int) -> int:
    """Return the number of batches stamped before those that the manifest lists by name."""
    return int(lake.query(_COUNT_OLDER, (mark_ns - _OVERLAP_NS,), at=at)["batches"][0].as_py())
