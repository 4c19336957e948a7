"""Which days of bars got rows since a store was brought up to date?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from features.panel.panel import missing_instrument_error, no_bars_error, open_bounds_us
from features.store.manifest import Manifest, StoreKey
from storage.clock import DAY_NS, NS, US_NS, floor_ns, width_ns

if TYPE_CHECKING:
    from storage.lake.lake import Lake

_OVERLAP_NS: Final = 3600 * NS
"""Batches are looked for that the lake stamped up to this long before the newest one seen: clocks are set back.
Where one was set back further, all that there is is compared."""

# The days that got asked bars by batches not seen yet, and from when to when those reach.
_TOUCHED: Final = """
SELECT epoch_us(ts_open) // 86400000000 AS day, epoch_us(min(ts_open)) AS first_us,
       epoch_us(max(ts_open)) AS last_us, max(ts_ingested_ns) AS mark_ns, count(DISTINCT instrument) AS instruments
FROM bars
WHERE width = ? AND list_contains(?, origin) AND (? OR list_contains(?, instrument))
  AND ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?)
  AND ts_knowable_ns <= epoch_us(ts_close) * 1000 + ?
  AND ts_ingested_ns >= ? AND batch NOT IN (SELECT unnest(?::VARCHAR[]))
GROUP BY day ORDER BY day
"""
_JOINED: Final = ("books", "funding", "lags")
"""Tables that a panel may join as of the close; a row counts for less than a day."""
_JOINED_TOUCHED: Final = """
SELECT DISTINCT ts_knowable_ns // 86400000000000 AS day FROM {table}
WHERE ts_ingested_ns >= ? AND batch NOT IN (SELECT unnest(?::VARCHAR[]))
"""
_NAMED: Final = """
SELECT DISTINCT instrument FROM bars
WHERE width = ? AND list_contains(?, origin) AND list_contains(?, instrument)
  AND ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?)
"""
_OLDER: Final = "SELECT count(*) AS batches FROM batches WHERE ts_ingested_ns < ?"
_BATCHES: Final = "SELECT batch_id FROM batches WHERE ts_ingested_ns >= ? ORDER BY batch_id"


def find_changes(
    lake: Lake, question: StoreKey, held: Manifest, since_ns: int | None, until_ns: int | None, at: int
) -> tuple[Manifest, set[int]]:
    """Ask the lake for what is new since a store was updated; return the new manifest, still without its days.

    Rows that were seen are not asked for again, so this costs what is new and not what there is.

    Raises:
        RangeError: no bar fits.
        InstrumentError: an instrument that was asked for has none.
    """
    since_ns = None if since_ns is None else floor_ns(since_ns, DAY_NS)
    is_same = held.asked == [since_ns, until_ns] and held.snapshot <= at and held.mark_ns >= 0
    is_same = is_same and _older(lake, held.mark_ns, at) == held.older
    asked = (
        question.width,
        list(question.origins),
        question.instruments is None,
        list(question.instruments or ()),
        *open_bounds_us(since_ns, until_ns),
        question.grace_ns,
        held.mark_ns - _OVERLAP_NS if is_same else 0,
        held.batches if is_same else [],
    )
    if question.instruments is not None and not is_same:
        named = lake.query(_NAMED, (*asked[:2], *asked[3:6]), at=at)["instrument"].to_pylist()
        if absent := sorted(set(question.instruments) - set(named)):
            raise missing_instrument_error(absent[0])
    found = lake.query(_TOUCHED, asked, at=at).to_pylist()
    if not found and not is_same:
        raise no_bars_error(question.width, question.origins, since_ns, until_ns)
    mark_ns = max([row["mark_ns"] for row in found] + [held.mark_ns] * is_same)
    seen = lake.query(_BATCHES, (mark_ns - _OVERLAP_NS,), at=at)
    new = Manifest(
        asked=[since_ns, until_ns],
        start_ns=min(
            [floor_ns(row["first_us"] * US_NS, DAY_NS) for row in found] + [held.start_ns] * is_same
        ),
        stop_ns=max(
            [row["last_us"] * US_NS + width_ns(question.width) for row in found] + [held.stop_ns] * is_same
        ),
        mark_ns=mark_ns,
        batches=[str(row["batch_id"]) for row in seen.to_pylist()],
        older=_older(lake, mark_ns, at),
        instruments=max([row["instruments"] for row in found] + [held.instruments] * is_same),
        snapshot=at,
    )
    if not is_same:
        return new, set(new.opens)
    touched = {row["day"] * DAY_NS for row in found}
    for table in _JOINED:
        rows = lake.query(_JOINED_TOUCHED.format(table=table), asked[-2:], at=at).to_pylist()
        touched |= {(row["day"] + after) * DAY_NS for row in rows for after in (0, 1)}
    return new, touched & set(new.opens)


def _older(lake: Lake, mark_ns: int, at: int) -> int:
    """Return how many batches the lake stamped before those that are told apart by their names."""
    return int(lake.query(_OLDER, (mark_ns - _OVERLAP_NS,), at=at)["batches"][0].as_py())
