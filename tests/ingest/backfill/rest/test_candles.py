"""Candles over REST: pages are complete whatever the venue leaves out. Over a real socket."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from ingest.backfill.rest import candles as rest_candles
from ingest.backfill.rest.journaled_client import PREFIX
from ingest.backfill.rest.runner import RestRequest
from ingest.simulator.faults.faults import FailInfo
from ingest.simulator.server.history_endpoint import RecordedHistory
from storage.clock import NS, parse_time_ns
from storage.contracts.tables import BARS
from storage.errors import InstrumentError, RangeError, SettingsError, VenueError
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.ingest.backfill.histories import NOW_NS, candles, fill_in, serving, settings_for
from tests.storage.rows import bar

MINUTE_NS = 60 * NS
LAST_OPEN_NS = NOW_NS // MINUTE_NS * MINUTE_NS


async def test_all_served_candles_are_fetched_and_a_second_run_requests_nothing(
    settings: Settings, lake: Lake
) -> None:
    past = RecordedHistory(NOW_NS, {("BTC", "1m"): candles(5_200)})
    async with serving(past) as venue:
        chosen = settings_for(settings, venue)
        done = await fill_in(lake, chosen, from_ns=0)
        assert done.rows == {"candles": 4_999, "bars": 4_999}, (
            "the newest 5,000 less the one that is still open"
        )
        again = await fill_in(lake, chosen, from_ns=0)
    assert (again.taken, again.rows, again.plan.committed) == (0, {}, done.taken)
    found = lake.query(
        "SELECT epoch_ms(ts_open) AS t, open, high, low, close, volume, trades FROM candles ORDER BY t",
    )
    assert [tuple(row.values()) for row in found.to_pylist()] == [
        tuple(row) for row in candles(5_200)[200:-1]
    ]
    bars = lake.query("SELECT DISTINCT status, origin, ts_knowable_ns - epoch_ns(ts_close) AS lag FROM bars")
    assert bars.to_pylist() == [{"status": "printed", "origin": "candle", "lag": 1_100_000_000}]


async def test_an_answer_with_only_the_oldest_part_is_continued(settings: Settings, lake: Lake) -> None:
    """The venue answers with 7 candles at most, and leaves out the last minutes of a page."""
    past = RecordedHistory(NOW_NS, {("BTC", "1m"): candles(100, absent=(50, 51, 98))}, answered=7)
    async with serving(past) as venue:
        chosen = settings_for(settings, venue)
        done = await fill_in(lake, chosen)
    assert done.rows["candles"] == 96
    statuses = lake.query("SELECT status, cause, count(*) AS n FROM bars GROUP BY ALL ORDER BY n").to_pylist()
    assert statuses == [
        {"status": "unknown", "cause": "candle absent", "n": 2},
        {"status": "printed", "cause": "", "n": 96},
    ], "what is absent behind the last candle has no bar yet"


async def test_a_flat_minute_is_quiet_and_a_missing_one_has_the_callers_meaning(
    settings: Settings, lake: Lake
) -> None:
    past = RecordedHistory(NOW_NS, {("BTC", "1m"): candles(20, flat=(5,), absent=(9,))})
    async with serving(past) as venue:
        chosen = settings_for(settings, venue)
        await fill_in(lake, chosen, RestRequest("candles", absent="quiet"))
    rows = lake.query("SELECT status, trades, volume, close FROM bars WHERE status <> 'printed'").to_pylist()
    assert rows == [{"status": "quiet", "trades": 0, "volume": 0.0, "close": None}] * 2


async def test_a_refused_candle_is_unknown_whatever_an_absent_one_means(
    settings: Settings, lake: Lake
) -> None:
    """One below its low, one with volume and no trades; others of the page, and of other coins, go on."""
    past = candles(30)
    past[5] = past[5]._replace(open=1e6)
    past[9] = past[9]._replace(trades=0)
    history = {("BTC", "1m"): past, ("ETH", "1m"): candles(30)}
    async with serving(RecordedHistory(NOW_NS, history)) as venue:
        wanted = RestRequest("candles", absent="quiet")
        await fill_in(lake, settings_for(settings, venue), wanted, coins=("BTC", "ETH"))
    rows = lake.query(
        "SELECT instrument, status, cause, count(*) AS n FROM bars GROUP BY ALL ORDER BY instrument, n"
    )
    assert [tuple(row.values()) for row in rows.to_pylist()] == [
        ("hyperliquid|perp|BTC", "unknown", "candle refused", 2),
        ("hyperliquid|perp|BTC", "printed", "", 27),
        ("hyperliquid|perp|ETH", "printed", "", 29),
    ]


async def test_bars_do_not_depend_on_the_chunks_of_the_range(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silences of a thin coin, of a busy one and of all, across the edges of chunks of 720 and of 400 steps."""
    draw = random.Random(3)
    halt = range(500, 580)
    history = {
        (coin, "1m"): candles(
            800, flat=[n for n in range(800) if draw.random() > pace or n in halt or n in own]
        )
        for coin, pace, own in (("BTC", 0.99, range(0)), ("ETH", 0.9, range(150, 270)), ("OP", 0.3, range(0)))
    }
    found = []
    async with serving(RecordedHistory(NOW_NS, history)) as venue:
        for size in (720, 300):
            monkeypatch.setattr(rest_candles, "_CHUNK", size)
            chosen = settings_for(dataclasses.replace(settings, home=tmp_path / str(size)), venue)
            with Lake.open(chosen) as lake:
                await fill_in(lake, chosen, coins=("*",), from_ns=0)
                found.append(
                    lake.query(
                        "SELECT instrument, ts_open, status, cause FROM bars_latest ORDER BY instrument, ts_open"
                    )
                )
    assert set(found[0]["status"].to_pylist()) == {"printed", "quiet", "halted", "unknown"}
    assert found[0].equals(found[1])


async def test_history_revises_blind_bars_and_never_watched_ones(settings: Settings, lake: Lake) -> None:
    watched, blind = LAST_OPEN_NS // MINUTE_NS - 3, LAST_OPEN_NS // MINUTE_NS - 2
    empty = dict.fromkeys(("open", "high", "low", "close", "volume", "buy_volume", "notional", "vwap"))
    past = RecordedHistory(NOW_NS, {("BTC", "1m"): candles(5)})
    async with serving(past) as venue:
        chosen = settings_for(settings, venue)
        live = [
            bar(watched),
            bar(blind, status="blind", cause="recorder down", observed_ms=0, trades=0, **empty),
        ]
        lake.commit({"bars": BARS.rows(live)}, batch_id="live")
        await fill_in(lake, chosen)
    rows = lake.query("SELECT origin, status, revision FROM bars_latest ORDER BY ts_open").to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("candle", "printed", 0), ("live", "printed", 0), ("candle", "printed", 1), ("candle", "printed", 0),
    ]  # fmt: skip
    before = lake.query(
        "SELECT status, cause FROM bars WHERE revision = 0 AND origin = 'live' ORDER BY ts_open"
    )
    assert before["cause"].to_pylist() == ["", "recorder down"], "nothing is edited"


async def test_a_range_is_exact_and_a_later_one_adds_to_it(settings: Settings, lake: Lake) -> None:
    past = RecordedHistory(NOW_NS, {("BTC", "1m"): candles(100)})
    async with serving(past) as venue:
        chosen = settings_for(settings, venue)
        first = await fill_in(
            lake, chosen, from_ns=LAST_OPEN_NS - 60 * MINUTE_NS, to_ns=LAST_OPEN_NS - 30 * MINUTE_NS
        )
        second = await fill_in(lake, chosen, from_ns=LAST_OPEN_NS - 40 * MINUTE_NS)
    assert (first.rows["candles"], first.rows["bars"]) == (30, 30)
    assert second.rows["bars"] == 30, "ten are there already"
    assert lake.query("SELECT max(revision) AS top FROM bars")["top"].to_pylist() == [0]


async def test_a_delisted_coin_has_history(settings: Settings, lake: Lake) -> None:
    past = RecordedHistory(NOW_NS, {("OLD", "1m"): candles(50)}, coins=("BTC",))
    past.listings = tuple(item._replace(listed=item.name != "OLD") for item in past.listings)
    async with serving(past) as venue:
        done = await fill_in(lake, settings_for(settings, venue), coins=("OLD",))
    assert done.rows["candles"] == 49


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"from_ns": NOW_NS + NS}, RangeError, r"--from 2025-05-20T00:00:31.000Z lies in the future"),
        (
            {"to_ns": NOW_NS + NS},
            RangeError,
            r"--to 2025-05-20T00:00:31.000Z lies in the future.*leave --to away",
        ),
        ({"from_ns": 5 * NS, "to_ns": 4 * NS}, RangeError, r"--from 1970.* is not before --to 1970"),
        (
            {"from_ns": 0, "to_ns": parse_time_ns("2025-05-01")},
            RangeError,
            r"no 1m candle before 2025-05-16T.*newest 5,000",
        ),
        (
            {"from_ns": NOW_NS - NS},
            RangeError,
            r"no 1m candle begins and ends between .* by the venue's clock",
        ),
        ({"coins": ("btc",)}, InstrumentError, r"'btc' is not listed on hyperliquid.*did you mean BTC"),
        ({"wanted": RestRequest("candles", "7m")}, SettingsError, r"no candles of '7m'.*one of 1m, 3m, 5m"),
    ],
)
async def test_an_invalid_request_is_refused_and_leaves_no_recording(
    spare: tuple[Settings, Lake], changes: dict[str, object], kind: type[Exception], text: str
) -> None:
    settings, lake = spare
    async with serving(RecordedHistory(NOW_NS, {("BTC", "1m"): candles(10)})) as venue:
        with pytest.raises(kind, match=text):
            await fill_in(lake, settings_for(settings, venue), **changes)  # type: ignore[arg-type]
    assert not list(settings.journal_dir.glob(f"{PREFIX}*"))


@pytest.mark.parametrize(
    ("fault", "coin"),
    [
        (FailInfo(status=429, retry_after_s=0, times=3), "BTC"),
        (FailInfo(status=500, times=3), "ETH"),
        (FailInfo(status=502, html=True), "SOL"),
    ],
)
async def test_refusals_errors_and_gateway_pages_are_retried(
    spare: tuple[Settings, Lake], fault: FailInfo, coin: str
) -> None:
    settings, lake = spare
    async with serving(RecordedHistory(NOW_NS, {(coin, "1m"): candles(10)}), fault) as venue:
        done = await fill_in(lake, settings_for(settings, venue), coins=(coin,))
    assert done.rows["candles"] == 9


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (FailInfo(status=429, retry_after_s=0, times=10_000), "it answered 429"),
        (FailInfo(status=500, times=10_000), "it answered 500"),
        (FailInfo(status=200, html=True, times=10_000), "which is no JSON"),
    ],
)
async def test_a_failure_half_way_names_the_step_and_the_same_call_resumes(
    settings: Settings, lake: Lake, fault: FailInfo, reason: str
) -> None:
    past = RecordedHistory(NOW_NS, {("BTC", "1m"): candles(100), ("ETH", "1m"): candles(100)})
    async with serving(past) as venue:
        chosen = settings_for(settings, venue, rest_timeout_s=0.3)

        def fail(step: object, done: object) -> None:
            if not failing:
                failing.append(step)
                venue.inject(fault)

        failing: list[object] = []
        with pytest.raises(
            VenueError, match=r"1m candles of ETH, .*: the venue did not answer candleSnapshot"
        ) as seen:
            await fill_in(lake, chosen, coins=("BTC", "ETH"), on_step=fail)
    assert seen.value.message.endswith(reason)
    assert "1 of 3 steps are in the lake, and the same command goes on" in seen.value.hint
    async with serving(past) as venue:
        done = await fill_in(lake, settings_for(settings, venue), coins=("BTC", "ETH"))
    assert (done.plan.committed, done.taken) == (1, 2)
    assert lake.query(
        "SELECT count(*) AS n, count(DISTINCT (instrument, ts_open)) AS d FROM candles"
    ).to_pylist() == [{"n": 198, "d": 198}]


async def test_a_dry_run_costs_two_requests_and_leaves_nothing(settings: Settings, lake: Lake) -> None:
    async with serving(RecordedHistory(NOW_NS, {("BTC", "1m"): candles(5_000)})) as venue:
        done = await fill_in(lake, settings_for(settings, venue), from_ns=0, dry_run=True)
    plan = done.plan
    pages = [step for _, step in plan.steps if step.weight]
    assert (len(pages), len(plan.steps) - len(pages)) == (6, 4)
    assert plan.weight == sum(20 + -(-step.size_bytes // 140 // 60) for step in pages if step.size_bytes)
    assert (plan.cost.is_paid, plan.cost.size_bytes) == (False, 4_999 * 140)
    assert not list(settings.journal_dir.glob(f"{PREFIX}*"))
    assert lake.query("FROM candles").num_rows == 0
