"""Writes the table `coverage_days`: the coverage of days as the lake has them now."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from ingest.backfill.rest.candles import SERVED
from ingest.bars.reconciliation import INTERVALS
from ingest.coverage.day_coverage import DayCoverage, DayCoverageReader, ServedFrom, day_name, format_causes
from storage.clock import floor_ns, width_ns
from storage.contracts.coverage_days import COVERAGE_DAYS, DAY_STATES
from storage.lake.lake import Lake
from storage.settings import Settings

_STORED: Final = """
    SELECT instrument, day, state, covered_h, missing_h, repairable_h, causes FROM coverage_days_latest
    WHERE day >= ? AND day <= ?
"""
_COMPARED: Final = ("state", "covered_h", "missing_h", "repairable_h", "causes")


def served_from(settings: Settings, width: str, now_ns: int) -> ServedFrom:
    """Return since when a venue's API serves bars of a width: the newest 5,000 candles of `record.venue`.

    GaiaEx has no candles, trades or archive: nothing of it can be filled in.
    """
    if width not in INTERVALS:
        return lambda _: None
    step_ns, venue = width_ns(width), settings.record.venue
    oldest_ns = floor_ns(now_ns, step_ns) - (SERVED - 1) * step_ns
    return lambda instrument: oldest_ns if instrument.startswith(f"{venue}|") else None


def coverage_reader(lake: Lake, settings: Settings, now_ns: int) -> DayCoverageReader:
    """Return a reader of coverage in bars of the width on which models train."""
    width = settings.bars.width
    return DayCoverageReader(lake, width=width, served_from=served_from(settings, width, now_ns))


def update_coverage(
    lake: Lake, settings: Settings, days: Iterable[int], *, now_ns: int, known_only: bool = False
) -> list[DayCoverage]:
    """Write the coverage of days, and return it; a row is added only where something changed.

    Args:
        lake: the bars.
        settings: the width, and the venue that can still fill gaps.
        days: their starts, in ns; each is over.
        now_ns: when it is known.
        known_only: leave out days that were never sealed.
    """
    wanted = sorted(set(days))
    if not wanted:
        return []
    bounds = [day_name(wanted[0]), day_name(wanted[-1])]
    stored = {(row["instrument"], row["day"]): row for row in lake.query(_STORED, bounds).to_pylist()}
    sealed = {day for _, day in stored}
    reader = coverage_reader(lake, settings, now_ns)
    found = [
        item for day in wanted if not known_only or day_name(day) in sealed for item in reader.cover(day)
    ]
    rows = [row for item in found if (row := _next_row(item, stored, now_ns)) is not None]
    if rows:
        lake.commit({COVERAGE_DAYS.name: COVERAGE_DAYS.rows(rows)}, batch_id=f"coverage-days:{_hash(rows)}")
    return found


def count_states(found: Sequence[DayCoverage]) -> dict[str, Any]:
    """Return the number of instrument-days by state, and their hours, as plain values."""
    states = {state: sum(item.state == state for item in found) for state in DAY_STATES}
    hours = {
        "covered_h": sum(item.covered_h for item in found),
        "missing_h": sum(item.missing_h for item in found),
        "repairable_h": sum(item.repairable_h for item in found),
    }
    rounded = {name: round(value, 3) for name, value in hours.items()}
    return {"instruments": len({item.instrument for item in found}), **states, **rounded}


def _next_row(
    item: DayCoverage, stored: Mapping[tuple[str, str], Mapping[str, Any]], now_ns: int
) -> dict[str, Any] | None:
    """Return the row to add for a day; None if the stored one says the same."""
    row = asdict(item) | {"causes": format_causes(item.causes)}
    before = stored.get((item.instrument, item.day))
    if before is not None and all(row[name] == before[name] for name in _COMPARED):
        return None
    return row | {"revision": 0, "ts_knowable_ns": now_ns}  # the lake counts revisions


def _hash(rows: Sequence[Mapping[str, Any]]) -> str:
    return hashlib.sha256(repr([sorted(row.items()) for row in rows]).encode()).hexdigest()[:24]
