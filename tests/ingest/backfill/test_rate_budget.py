"""Do backfills leave the recorder its budget, share one among themselves, and remember what a killed one spent?"""

from __future__ import annotations

import asyncio

import pytest

from ingest.backfill.rate_budget import allowance, weight_per_minute
from ingest.feed.rest_client import RestClient
from ingest.simulator.server.history_endpoint import RecordedHistory
from ingest.venues.hyperliquid.rate_limits import weight_of
from storage.clock import NS, ManualTime
from storage.errors import JournalError
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.ingest.backfill.histories import NOW_NS as PAST_NS
from tests.ingest.backfill.histories import candles, fill_in, serving, settings_for

VENUES_LIMIT = 1_200
# An answer's rows are charged once it is there: a whole page of candles, to each of the two.
AFTERWARDS = 2 * 84
NOW_NS = 1_750_000_000 * NS


async def test_a_recorder_and_all_backfills_of_a_home_stay_below_what_the_venue_allows(
    settings: Settings,
) -> None:
    async with RestClient(settings) as recorder:
        its = 0
        while recorder.budget.take(20, 0.0) == 0.0:
            its += 20
    assert its == settings.record.rest_weight_per_minute
    assert weight_per_minute(settings) == 420
    assert its + weight_per_minute(settings) + AFTERWARDS < VENUES_LIMIT


async def test_what_one_spent_counts_for_the_next_until_a_minute_is_over(settings: Settings) -> None:
    settings.ensure_home()
    clock, loop = ManualTime(NOW_NS), asyncio.get_running_loop()
    with allowance(settings, clock) as budget:
        assert budget.take(400, loop.time()) == 0.0
        assert 59.0 < budget.take(37, loop.time()) <= 60.0
    # Its last line is cut in two, as a kill may leave it.
    with (settings.journal_dir / "backfill.budget").open("a") as notes:
        notes.write("17500000")
    clock.advance_to(NOW_NS + 40 * NS)
    with allowance(settings, clock) as budget:
        assert budget.spent(loop.time()) == 400
        assert 19.0 < budget.take(37, loop.time()) <= 20.0
    clock.advance_to(NOW_NS + 61 * NS)
    with allowance(settings, clock) as budget:
        assert budget.spent(loop.time()) == 0
    assert (settings.journal_dir / "backfill.budget").read_text() == ""


async def test_what_a_backfill_asks_is_noted_as_it_is_asked(settings: Settings, lake: Lake) -> None:
    async with serving(RecordedHistory(PAST_NS, {("BTC", "1m"): candles(100)})) as venue:
        done = await fill_in(lake, settings_for(settings, venue))
    notes = (settings.journal_dir / "backfill.budget").read_text().splitlines()
    asked_first = weight_of({"type": "exchangeStatus"}) + weight_of({"type": "meta"})
    assert sum(int(line.split()[1]) for line in notes) == done.plan.weight + asked_first


async def test_a_second_backfill_of_a_home_waits_for_its_turn_and_a_look_does_not(settings: Settings) -> None:
    settings.ensure_home()
    clock = ManualTime(NOW_NS)
    with allowance(settings, clock):
        with (
            pytest.raises(
                JournalError, match=r"another backfill of .* asks the venue now.*wait until it has"
            ),
            allowance(settings, clock),
        ):
            pass
        with allowance(settings, clock, is_noted=False) as look:
            assert look.take(20, 0.0) == 0.0
    with allowance(settings, clock) as budget:
        assert budget.spent(asyncio.get_running_loop().time()) == 0, "nothing was spent"
