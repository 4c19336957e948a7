"""Funding payments over REST, and the intervals that they were for. Over a real socket."""

from __future__ import annotations

import pytest

from ingest.backfill.rest.funding import FIRST_NS, interval_hours
from ingest.backfill.rest.runner import RestRequest
from ingest.simulator.server.history_endpoint import RecordedHistory
from storage.clock import DAY_NS, parse_time_ns
from storage.errors import InstrumentError, RangeError
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.ingest.backfill.histories import fill_in, serving, settings_for

HOUR_MS = 3_600_000
FUNDING = RestRequest("funding")


@pytest.mark.parametrize(
    ("hours", "expected"),
    [
        ([0, 8, 16, 24, 25, 26], [8, 8, 8, 8, 1, 1]),  # the change, as the venue made it
        ([0, 1, 2, 4, 5], [1, 1, 1, 1, 1]),  # a payment is missing
        ([0, 1, 9, 10], [1, 1, 1, 1]),  # seven are
        ([0, 8.4, 16, 24], [8, 8, 8, 8]),  # 24 minutes late
        ([0, 8, 16], [8, 8, 8]),
        ([0], [1]),
        ([], []),
    ],
)
def test_intervals_follow_from_the_spacing_of_payments(hours: list[float], expected: list[int]) -> None:
    assert interval_hours([int(hour * HOUR_MS) for hour in hours]) == expected


async def test_a_full_page_of_500_is_continued_without_duplicates(settings: Settings, lake: Lake) -> None:
    """Payments every half an hour fill more than a page of the venue's."""
    from ingest.simulator.wire.encoder import SimulatedFunding

    to_ns = parse_time_ns("2025-05-20")
    paid = [
        SimulatedFunding("BTC", to_ns // 1_000_000 - n * HOUR_MS // 2 + 7, 0.0001 + n * 1e-9, 0.0)
        for n in range(1, 900)
    ]
    async with serving(RecordedHistory(to_ns, fundings=reversed(paid))) as venue:
        chosen = settings_for(settings, venue)
        done = await fill_in(lake, chosen, FUNDING, from_ns=to_ns - 20 * DAY_NS, to_ns=to_ns, now_ns=to_ns)
    assert done.rows == {"funding": 899}


async def test_an_instrument_without_funding_is_refused(settings: Settings, lake: Lake) -> None:
    to_ns = parse_time_ns("2025-05-20")
    async with serving(RecordedHistory(to_ns, coins=("BTC", "@107"))) as venue:
        chosen = settings_for(settings, venue)
        with pytest.raises(InstrumentError, match="only perpetuals pay funding"):
            await fill_in(lake, chosen, FUNDING, coins=("@107",), to_ns=to_ns, now_ns=to_ns)
        with pytest.raises(
            RangeError, match=r"there is no funding between 1970.* the first payment is at 2023-05-12"
        ):
            await fill_in(lake, chosen, FUNDING, from_ns=0, to_ns=FIRST_NS - DAY_NS, now_ns=to_ns)
