"""The rate limit that backfills share beside a recorder, and its memory of killed ones."""

from __future__ import annotations

import asyncio

import pytest

from ingest.backfill.rate_budget import shared_rate_limit, weight_per_minute
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


async def test_spending_counts_for_the_next_backfill_for_a_minute(settings: Settings) -> None:
    settings.ensure_home()
    clock, loop = ManualTime(NOW_NS), asyncio.get_running_loop()
    with shared_rate_limit(settings, clock) as budget:
        assert budget.take(400, loop.time()) == 0.0
        assert 59.0 < budget.take(37, loop.time()) <= 60.0
    # Its last line is cut in two, as a kill may leave it.
    with (settings.journal_dir / "backfill.budget").open("a") as notes:
        notes.write("17500000")
    clock.advance_to(NOW_NS + 40 * NS)
    with shared_rate_limit(settings, clock) as budget:
        assert budget.spent(loop.time()) == 400
        assert 19.0 < budget.take(37, loop.time()) <= 20.0
    clock.advance_to(NOW_NS + 61 * NS)
    with shared_rate_limit(settings, clock) as budget:
        assert budget.spent(loop.time()) == 0
    assert (settings.journal_dir / "backfill.budget").read_text() == ""


async def test_spending_is_recorded_with_each_request(settings: Settings, lake: Lake) -> None:
    async with serving(RecordedHistory(PAST_NS, {("BTC", "1m"): candles(100)})) as venue:
        done = await fill_in(lake, settings_for(settings, venue))
    notes = (settings.journal_dir / "backfill.budget").read_text().splitlines()
    asked_first = weight_of({"type": "exchangeStatus"}) + weight_of({"type": "meta"})
    assert sum(int(line.split()[1]) for line in notes) == done.plan.weight + asked_first


async def test_a_second_backfill_of_a_home_is_refused_and_a_dry_run_is_not(settings: Settings) -> None:
    settings.ensure_home()
    clock = ManualTime(NOW_NS)
    with shared_rate_limit(settings, clock):
        with (
            pytest.raises(
                JournalError, match=r"another backfill of .* asks the venue now.*wait until it has"
            ),
            shared_rate_limit(settings, clock),
        ):
            pass
        with shared_rate_limit(settings, clock, is_recorded=False) as look:
            assert look.take(20, 0.0) == 0.0
    with shared_rate_limit(settings, clock) as budget:
        assert budget.spent(asyncio.get_running_loop().time()) == 0, "nothing was spent"
