"""Days by their name: the partition key of a run, its bounds, and whether all of its bars are in the lake."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import date
from typing import Any, Final

from ingest.bars.builder import BLIND_NS
from ingest.feed.rest_client import RestClient
from ingest.venues.hyperliquid.protocol import parse_venue_time_ns
from storage.clock import DAY_NS, NS, US_NS, ManualTime, TimeSource, WallTime, iso, parse_time_ns
from storage.errors import NotReadyError, RangeError, SettingsError
from storage.lake.lake import Lake
from storage.lake.point_in_time import IS_RECORDED
from storage.settings import Settings

# Of each recording that runs, the newest bar of any of its instruments: one may be refused by its venue.
_RECEIVED: Final = f"""
    WITH newest AS (
        SELECT recording, home, instruments, ts_last_ns FROM recordings
        QUALIFY row_number() OVER (PARTITION BY recording, home ORDER BY ts_knowable_ns DESC) = 1
    ),
    running AS (
        SELECT recording, home, unnest(CAST(instruments AS VARCHAR[])) AS instrument
        FROM newest WHERE ts_last_ns IS NULL
    ),
    received AS (
        SELECT instrument, max(ts_knowable_ns) AS at_ns FROM bars
        WHERE ts_open >= make_timestamptz(?) AND {IS_RECORDED} GROUP BY instrument
    )
    SELECT recording, coalesce(max(at_ns), 0) AS at_ns FROM running LEFT JOIN received USING (instrument)
    GROUP BY recording, home ORDER BY recording
"""


def clock_of(settings: Settings) -> TimeSource:
    """Return the clock of a job: the machine's, or of a home that records a simulated venue (`record.clock`) its own.

    Raises:
        VenueError: the simulated venue does not tell its time.
    """
    if settings.record.clock != "venue":
        return WallTime()

    async def ask() -> bytes:
        async with RestClient(settings) as rest:
            return (await rest.ask({"type": "exchangeStatus"})).body

    return ManualTime(parse_venue_time_ns(asyncio.run(ask())))


def day_of_run(partition_key: str | None, params: Mapping[str, Any]) -> str:
    """Return the day of a run: its partition key, or else its parameter `day`.

    Raises:
        SettingsError: it has neither, or it is no day, or they differ.
    """
    given = params.get("day") or None
    if partition_key and given and partition_key != given:
        raise SettingsError(
            f"the run has the partition key {partition_key} and the parameter day = {given}",
            hint="give one of them",
        )
    day = partition_key or given
    if not day:
        raise SettingsError(
            "the run has no day: a run by hand has no partition key unless it is given one",
            hint="trigger it again with the parameter `day`, such as 2026-11-22, or with a partition key",
        )
    parse_day_ns(day)
    return str(day)


def parse_day_ns(day: str) -> int:
    """Return the start of a UTC day, in ns.

    Raises:
        SettingsError: the text is no day.

    >>> parse_day_ns("2026-11-22") == parse_time_ns("2026-11-22T00:00Z")
    True
    """
    try:
        if date.fromisoformat(day).isoformat() != day:
            raise ValueError(day)
    except ValueError:
        raise SettingsError(
            f"{day!r} is not a day", hint="write year, month and day, such as 2026-11-22"
        ) from None
    return parse_time_ns(day)


def check_is_over(day: str, lake: Lake, settings: Settings, now_ns: int) -> None:
    """Refuse a day whose bars may still come: until the watermark of each running recorder has passed its end.

    The watermark lags by `bars.lateness_s` behind the receipt clock, so a recorder has passed a day's end once the lake
    has a bar that it published so long afterwards. Two hours after the day's end no recorder revises it any more.

    Args:
        day: its name.
        lake: the bars and the recordings.
        settings: the lateness.
        now_ns: the present.

    Raises:
        RangeError: the day has not ended.
        NotReadyError: bars may still come; the same call succeeds within two hours of the day's end.
    """
    end_ns = parse_day_ns(day) + DAY_NS
    if now_ns < end_ns:
        raise RangeError(
            f"{day} ends at {iso(end_ns)}, and it is {iso(now_ns)}",
            hint="only a day that is over can be sealed",
        )
    passed_ns = end_ns + int(settings.bars.lateness_s * NS)
    if now_ns >= end_ns + BLIND_NS:
        return
    if now_ns < passed_ns:
        raise NotReadyError(
            f"late prints of {day} count until {iso(passed_ns)}, and it is {iso(now_ns)}",
            hint="wait until then",
        )
    for row in lake.query(_RECEIVED, [(end_ns - BLIND_NS) // US_NS]).to_pylist():
        received_ns = row["at_ns"]
        if received_ns < passed_ns:
            newest = f"its newest bar came at {iso(received_ns)}" if received_ns else "it has no newer bar"
            raise NotReadyError(
                f"the recording {row['recording']} has not passed the end of {day}: {newest}",
                hint=f"its watermark must pass {iso(end_ns)}; see: tickwalk watch. "
                f"From {iso(end_ns + BLIND_NS)} on the day is sealed as it is",
            )
