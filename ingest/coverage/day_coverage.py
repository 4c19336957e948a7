"""Coverage of days: listed, covered and missing hours of each instrument, with the causes of what is missing.

The unit is a bar of one width that counts (`bars_latest`); a step of the grid without a row is missing too.

An instrument has a day if a bar of it opens on that day, if it has bars before and after that day, or if the newest
recording of its venue that began before the day's end lists it. Its hours count as listed from the first evidence in
the lake (a listing of the venue, or a bar) until the venue delists it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from ingest.coverage.causes import RECORDER_DOWN
from ingest.coverage.intervals import Part
from storage.clock import DAY_NS, HOUR_NS, NS, US_NS, floor_ns, width_ns
from storage.lake.lake import Lake

NOT_RECORDED: Final = "not recorded"
"""Cause of a bar without a row before any recording of its instrument."""
FINAL_NS: Final = HOUR_NS
"""A candle that the venue left out may come within this time of its bar's close; afterwards its answer is final."""

ServedFrom = Callable[[str], int | None]
"""Returns the open of an instrument's oldest bar that its venue's API still serves, in ns; None: it serves none."""

_LISTINGS: Final = """
    SELECT instrument, ts_knowable_ns AS at_ns,
           coalesce(state, if(is_delisted, 'delisted', 'listed')) = 'listed' AS is_listed
    FROM instruments ORDER BY instrument, at_ns
"""
_RECORDINGS: Final = """
    SELECT venue, instruments, ts_started_ns, coalesce(ts_last_ns, 9223372036854775807) AS ts_last_ns FROM recordings
    QUALIFY row_number() OVER (PARTITION BY recording, home ORDER BY ts_knowable_ns DESC) = 1
"""
_BAR_RANGES: Final = """
    SELECT instrument, epoch_us(min(ts_open)) * 1000 AS first_ns, epoch_us(max(ts_open)) * 1000 AS last_ns
    FROM bars WHERE width = ? GROUP BY instrument
"""
_OF_DAY: Final = """
    SELECT DISTINCT instrument FROM bars
    WHERE width = ? AND ts_open >= make_timestamptz(?) AND ts_open < make_timestamptz(?)
"""

# A candle's row that says "unknown" was asked for: its answer is final if the candle had time to appear.
_STEPS: Final = """
    WITH listed AS (
        SELECT unnest($1::VARCHAR[]) AS instrument, unnest($2::BIGINT[]) AS from_us, unnest($3::BIGINT[]) AS to_us,
               unnest($4::BIGINT[]) AS recorded_us, unnest($5::BIGINT[]) AS served_us
    ),
    grid AS (
        SELECT instrument, recorded_us, served_us, unnest(generate_series(from_us, to_us - $6, $6)) AS open_us
        FROM listed
    ),
    counting AS (
        SELECT instrument, epoch_us(ts_open) AS open_us, status, cause, origin, repaired, ts_ingested_ns
        FROM bars_latest
        WHERE width = $7 AND ts_open >= make_timestamptz($8) AND ts_open < make_timestamptz($9)
    ),
    judged AS (
        SELECT instrument, g.open_us, g.open_us >= g.served_us AS is_served,
               coalesce(b.status IN ('printed', 'quiet', 'halted'), false) AS is_covered,
               coalesce(b.repaired OR b.origin NOT IN ('live', 'venue_replay'), false) AS is_filled,
               CASE WHEN b.status IS NULL AND g.open_us + $6 <= g.recorded_us THEN $10
                    WHEN b.status IS NULL THEN $11 WHEN b.cause = '' THEN b.status ELSE b.cause END AS cause,
               coalesce(b.origin = 'candle' AND b.ts_ingested_ns >= (g.open_us + $6) * 1000 + $12, false)
               AS is_answered
        FROM grid AS g LEFT JOIN counting AS b USING (instrument, open_us)
        WHERE b.status IS NULL OR b.status <> 'unlisted'
    )
"""
_COUNTED: Final = f"""
    {_STEPS}
    SELECT instrument, is_covered, is_filled, NOT is_covered AND is_served AND NOT is_answered AS is_repairable,
           CASE WHEN NOT is_covered THEN cause END AS cause, count(*) AS steps
    FROM judged GROUP BY ALL ORDER BY ALL
"""
_STRETCHES: Final = f"""
    {_STEPS},
    missing AS (
        SELECT instrument, open_us, cause, is_served AND NOT is_answered AS is_repairable,
               open_us - $6 * row_number() OVER (PARTITION BY instrument ORDER BY open_us) AS island
        FROM judged WHERE NOT is_covered
    )
    SELECT instrument, min(open_us) * 1000 AS from_ns, (max(open_us) + $6) * 1000 AS to_ns, mode(cause) AS cause,
           bool_or(is_repairable) AS is_repairable
    FROM missing GROUP BY instrument, island ORDER BY from_ns, instrument
"""


@dataclass(frozen=True, slots=True)
class DayCoverage:
    """Coverage of an instrument's day: a row of `coverage_days`; `causes` are hours by cause, the longest first."""

    instrument: str
    day: str
    state: str
    covered_h: float
    missing_h: float
    repairable_h: float
    causes: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class MissingStretch:
    """Consecutive missing bars of an instrument, `[from_ns, to_ns)`, with their most frequent cause.

    Args:
        instrument: its id.
        from_ns, to_ns: open of the first bar, close of the last.
        cause: as in `coverage_days`.
        is_repairable: the venue's API can still fill a part of it.
    """

    instrument: str
    from_ns: int
    to_ns: int
    cause: str
    is_repairable: bool


def day_name(open_ns: int) -> str:
    """Return a UTC day by its start.

    >>> day_name(1_700_006_400_000_000_000)
    '2023-11-15'
    """
    return f"{datetime.fromtimestamp(open_ns // NS, UTC):%Y-%m-%d}"


def cause_name(cause: str) -> str:
    """Return the name of a cause in `coverage_days`: without its details, in lower case, joined by underscores.

    >>> cause_name("trades missing: volume rose"), cause_name("pong missing for 10 s"), cause_name("chain halt; x")
    ('trades_missing', 'pong_missing', 'chain_halt')
    """
    head = cause.lower().split(";")[0].split(":")[0].split(" for ")[0]
    return "_".join("".join(letter if letter.isalnum() else " " for letter in head).split()) or "unexplained"


def format_causes(causes: Mapping[str, float]) -> str:
    """Return hours by cause as the column `causes` has them.

    >>> format_causes({"recorder_down": 3.1, "silent_stream": 0.4})
    'recorder_down=3.1,silent_stream=0.4'
    """
    return ",".join(f"{name}={hours:.6g}" for name, hours in causes.items())


def parse_causes(text: str) -> dict[str, float]:
    """Return hours by cause from the column `causes`.

    >>> parse_causes("recorder_down=3.1,silent_stream=0.4")
    {'recorder_down': 3.1, 'silent_stream': 0.4}
    """
    pairs = (item.partition("=") for item in text.split(",") if item)
    return {name: float(hours) for name, _, hours in pairs}


class DayCoverageReader:
    """Reads the coverage of days from a lake, as of the moment of its making."""

    def __init__(self, lake: Lake, *, width: str, served_from: ServedFrom = lambda _: None) -> None:
        """Read which instruments exist, and since when.

        Args:
            lake: the bars, the recordings and the listings.
            width: of the bars to count.
            served_from: decides what can still be repaired.
        """
        self._lake, self._width, self._step_ns = lake, width, width_ns(width)
        self._served_from = served_from
        self._bars = {row["instrument"]: row for row in lake.query(_BAR_RANGES, [width]).to_pylist()}
        self._listings: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in lake.query(_LISTINGS).to_pylist():
            self._listings[row["instrument"]].append(row)
        self._recordings = [
            row | {"instruments": json.loads(row["instruments"])}
            for row in lake.query(_RECORDINGS).to_pylist()
        ]

        self._recorded: dict[str, int] = {}
        """When a recording first listed an instrument."""
        for row in self._recordings:
            for name in row["instruments"]:
                self._recorded[name] = min(row["ts_started_ns"], self._recorded.get(name, _NEVER_NS))

    @property
    def begins_ns(self) -> int:
        """Return the first evidence of any instrument; far in the future if there is none."""
        names = {
            *self._bars,
            *self._listings,
            *(name for row in self._recordings for name in row["instruments"]),
        }
        return min(map(self.first_ns, names), default=_NEVER_NS)

    def cover(self, day_ns: int) -> list[DayCoverage]:
        """Return the coverage of a day, by instrument.

        Args:
            day_ns: its start.
        """
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in self._run(_COUNTED, day_ns, day_ns + DAY_NS):
            found[row["instrument"]].append(row)
        return [self._summarize(name, day_name(day_ns), rows) for name, rows in sorted(found.items())]

    def find_missing(self, from_ns: int, to_ns: int) -> list[MissingStretch]:
        """Return the stretches of missing bars within a range of at most one day, by time.

        Args:
            from_ns, to_ns: on one UTC day.
        """
        return [
            MissingStretch(
                row["instrument"],
                row["from_ns"],
                row["to_ns"],
                cause_name(row["cause"]),
                row["is_repairable"],
            )
            for row in self._run(_STRETCHES, from_ns, to_ns)
        ]

    def _summarize(self, instrument: str, day: str, rows: list[dict[str, Any]]) -> DayCoverage:
        covered = filled = repairable = missing = 0
        causes: dict[str, int] = defaultdict(int)
        for row in rows:
            if row["is_covered"]:
                covered += row["steps"]
                filled += row["steps"] * row["is_filled"]
            else:
                missing += row["steps"]
                repairable += row["steps"] * row["is_repairable"]
                causes[cause_name(row["cause"])] += row["steps"]
        whole = "repaired" if filled else "complete"
        lacking = "partial" if covered else "missing"
        by_length = sorted(causes.items(), key=lambda item: (-item[1], item[0]))
        return DayCoverage(
            instrument,
            day,
            lacking if missing else whole,
            self._hours(covered),
            self._hours(missing),
            self._hours(repairable),
            {name: self._hours(steps) for name, steps in by_length},
        )

    def _hours(self, steps: int) -> float:
        return steps * self._step_ns / HOUR_NS

    def _run(self, sql: str, from_ns: int, to_ns: int) -> list[dict[str, Any]]:
        listed = self._listed(from_ns, to_ns)
        if not listed:
            return []
        names = [name for name, _ in listed]
        params = [
            names,
            [part[0] // US_NS for _, part in listed],
            [part[1] // US_NS for _, part in listed],
            [self._recorded_ns(name) // US_NS for name in names],
            [_or_never(self._served_from(name)) // US_NS for name in names],
            self._step_ns // US_NS,
            self._width,
            from_ns // US_NS,
            to_ns // US_NS,
            NOT_RECORDED,
            RECORDER_DOWN,
            FINAL_NS,
        ]
        rows: list[dict[str, Any]] = self._lake.query(sql, params).to_pylist()
        return rows

    # Which instruments have a day, and which of its hours.

    def _listed(self, from_ns: int, to_ns: int) -> list[tuple[str, Part]]:
        """Return the instruments of a range with the parts in which they were listed, on the grid."""
        range_us = [from_ns // US_NS, to_ns // US_NS]
        rows = self._lake.query(_OF_DAY, [self._width, *range_us]).to_pylist()
        present = {str(row["instrument"]) for row in rows}
        between = {
            n for n, row in self._bars.items() if row["first_ns"] < to_ns and row["last_ns"] >= from_ns
        }
        names = sorted(present | between | self._expected(to_ns))
        return [(name, part) for name in names for part in self._parts(name, from_ns, to_ns)]

    def _expected(self, before_ns: int) -> set[str]:
        """Return the instruments of the newest recordings that began before an instant: of several shards, all."""
        found: set[str] = set()
        for venue in {row["venue"] for row in self._recordings}:
            earlier = [
                row for row in self._recordings if row["venue"] == venue and row["ts_started_ns"] < before_ns
            ]
            newest_ns = max((row["ts_started_ns"] for row in earlier), default=0)
            found.update(*(row["instruments"] for row in earlier if row["ts_last_ns"] >= newest_ns))
        return found

    def _parts(self, instrument: str, from_ns: int, to_ns: int) -> list[Part]:
        """Return the parts of a range in which an instrument was listed: whole steps that do not touch."""
        listings = self._listings.get(instrument, [])
        bars = self._bars.get(instrument)
        recorded_ns = self._recorded_ns(instrument)
        until_ns = to_ns
        if bars and recorded_ns == _NEVER_NS:
            until_ns = min(to_ns, int(bars["last_ns"]) + self._step_ns)  # history that no recording continues
        events = [(int(row["at_ns"]), bool(row["is_listed"])) for row in listings]
        first_ns = self.first_ns(instrument)
        events = [(first_ns, True), *events]
        parts: list[Part] = []
        for (at_ns, is_listed), after_ns in zip(
            events, [*(at for at, _ in events[1:]), until_ns], strict=True
        ):
            # A bar in which an instrument is delisted is none, and one in which it is listed is one.
            start = max(floor_ns(at_ns, self._step_ns), from_ns, parts[-1][1] if parts else 0)
            to = min(floor_ns(after_ns, self._step_ns), until_ns)
            if is_listed and start < to:
                parts.append((start, to))
        return parts

    def first_ns(self, instrument: str) -> int:
        """Return the first evidence of an instrument: a listing, or a bar, even of one that was delisted by then."""
        bars = self._bars.get(instrument)
        starts = [int(row["at_ns"]) for row in self._listings.get(instrument, [])[:1]]
        return min(
            [*starts, *([int(bars["first_ns"])] if bars else [])], default=self._recorded_ns(instrument)
        )

    def _recorded_ns(self, instrument: str) -> int:
        """Return when a recording first listed an instrument; far in the future for never."""
        return self._recorded.get(instrument, _NEVER_NS)


_NEVER_NS: Final = 1 << 62


def _or_never(at_ns: int | None) -> int:
    return _NEVER_NS if at_ns is None else at_ns
