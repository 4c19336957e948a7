"""Three days recorded at both venues with five outages of ten minutes to two days, sealed and repaired day by day."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import pytest

from ingest.coverage.day_coverage import parse_causes
from ingest.recorder.recorder import Recorder
from ingest.simulator.faults.faults import Disconnect
from ingest.simulator.venue import SimulatedVenue
from serving.day_jobs.repair import repair_gaps
from serving.day_jobs.seal import seal_day
from storage.clock import DAY_NS, HOUR_NS, NS, ManualTime, parse_time_ns
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.ingest.recorder.faults.rig import configured
from tests.ingest.simulator.clients import BY_NAME, market

pytestmark = [pytest.mark.drill, pytest.mark.timeout(1_800)]
START_NS: Final = parse_time_ns("2026-03-02")
DAYS: Final = ("2026-03-02", "2026-03-03", "2026-03-04")
SPAN_H: Final = 74.0
OUTAGES_H: Final = ((1.0, 1 / 6), (3.0, 1.0), (6.0, 6.0), (14.0, 48.0), (64.0, 3.0))
"""Start and length; the fourth covers the whole second day."""


def newest(settings: Settings) -> dict[tuple[str, str], dict[str, Any]]:
    with Lake.open(settings, read_only=True) as lake:
        rows = lake.query("FROM coverage_days_latest").to_pylist()
    return {(row["instrument"], row["day"]): row for row in rows}


async def test_every_repairable_bar_is_repaired_within_a_day(settings: Settings) -> None:
    source = market(
        start_ns=START_NS,
        span_s=SPAN_H * 3_600,
        coins=(BY_NAME["BTC"], BY_NAME["SOL"]),
        activity=0.05,
        context_s=20,
        book_s=20,
    )
    faults = [Disconnect(at_s=at * 3_600, outage_s=length * 3_600) for at, length in OUTAGES_H]
    async with SimulatedVenue(source, wait_for_subscriptions=5, faults=faults) as venue:
        chosen = configured(
            settings,
            venue,
            record={"clock": "venue"},
            bars={"widths": ("1m",), "grace_ms": 2000},
            gaiaex={"symbols": ("BTC",)},
        )
        with Lake.open(chosen) as lake:
            await Recorder(chosen, lake, name="outages", ends_with_venue=True).run(asyncio.Event())
        for number, day in enumerate(DAYS):
            at_ns = START_NS + (number + 1) * DAY_NS + 20 * 60 * NS
            await asyncio.to_thread(seal_day, chosen, day, clock=ManualTime(at_ns))
            # The next hours.
            for hour in (1, 2):
                clock = ManualTime(at_ns + hour * HOUR_NS)
                await asyncio.to_thread(repair_gaps, chosen, clock=clock)
            rows = newest(chosen)
            for coin in ("BTC", "SOL"):
                row = rows[f"hyperliquid|perp|{coin}", day]
                assert (row["state"], row["missing_h"], row["repairable_h"]) == ("repaired", 0.0, 0.0), row
        before = newest(chosen)
        for day in DAYS:
            late = ManualTime(START_NS + int(SPAN_H * HOUR_NS) + HOUR_NS)
            await asyncio.to_thread(seal_day, chosen, day, clock=late)
        assert newest(chosen) == before, "sealing again changes nothing"
    lost_h = {day: before["gaiaex|perp|BTC", day] for day in DAYS}
    for day, row in lost_h.items():
        assert row["repairable_h"] == 0.0, "GaiaEx has no archive"
        assert row["covered_h"] + row["missing_h"] == pytest.approx(24.0)
        assert sum(parse_causes(row["causes"]).values()) == pytest.approx(row["missing_h"], rel=1e-4)
        assert row["state"] == ("missing" if day == DAYS[1] else "partial")
