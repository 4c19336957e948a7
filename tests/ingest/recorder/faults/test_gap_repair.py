"""Repair of a gap from the venue's trades and candles."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

import pytest

from ingest.coverage.silence import RHYTHM_NOT_KNOWN
from ingest.feed.rest_client import RestClient
from ingest.journal.reader import read_journal
from ingest.journal.records import Record, RecordKind
from ingest.pipeline.processor import Pipeline
from ingest.simulator.faults.faults import Disconnect
from ingest.simulator.venue import SimulatedVenue
from storage.clock import NS, ManualTime
from storage.settings import Settings
from tests.ingest.recorder.faults.rig import (
    BY_NAME,
    START_NS,
    Live,
    Spoken,
    configured,
    live,
    market,
    ms,
    since_s,
    statuses,
)

# One coin that printed once, long ago, and one that never did: for the second the venue has no candle at all.
ONCE, NEVER = (
    dataclasses.replace(BY_NAME["AVAX"], name=name, prints_per_minute=0.001) for name in ("ONCE", "NEVER")
)
MINUTES: dict[str, Any] = {"widths": ("1m",), "grace_ms": 500}


def a_print(coin: str, at_s: float) -> str:
    row = {"coin": coin, "side": "B", "px": "25.0", "sz": "1.0", "hash": "0x1", "time": ms(at_s), "tid": 1}
    return json.dumps({"channel": "trades", "data": [row]})


async def missed(settings: Settings, patch: pytest.MonkeyPatch, coins: tuple[str, ...], **venue: Any) -> Live:
    """Record with two minutes lost in the middle, until the venue's answers about them have come."""
    once = [(10.0, "trades:ONCE", a_print("ONCE", 10.0))]
    source = Spoken(once, coins=(BY_NAME["BTC"], ONCE, NEVER), span_s=400.0)
    more: dict[str, Any] = {
        "source": source,
        "venue": venue,
        "streams": 2 * len(coins),
        "tables": ("repairs",),
    }
    lost = Disconnect(at_s=62.0, outage_s=110.0)
    async with live(settings, patch, lost, record={"coins": coins}, bars=MINUTES, **more) as run:
        await run.until_s(180.0)
        # Questions are asked once a second of the loop: two minutes after the bar's close, leave time for one.
        for step_ns, until_s in ((NS, 245.0), (NS // 50, 250.0), (NS, 320.0)):
            run.time.step_ns = step_ns
            await run.until_s(until_s)
    return run


def minute(run: Live, coin: str, number: int) -> dict[str, Any]:
    (bar,) = run.bars(f"hyperliquid|perp|{coin}", 60.0 * number, 60.0 * number + 60.0)
    return bar


def found(run: Live, coin: str, number: int) -> list[tuple[str, Any, Any]]:
    """Return (outcome, ours, theirs) of each comparison of a minute."""
    rows = run.of("repairs", f"hyperliquid|perp|{coin}")
    return [
        (row["outcome"], row["trades"], row["venue_trades"])
        for row in rows
        if since_s(row["ts_open"]) == 60.0 * number
    ]


def asked(run: Live, kind: str) -> list[dict[str, Any]]:
    """Return (request, response) of each request of a kind in the journal."""
    answers = (
        json.loads(record.body)
        for record in read_journal(run.settings.journal_dir / "live")
        if record.kind is RecordKind.ANSWER
    )
    return [answer for answer in answers if answer["request"]["type"] == kind]


async def test_after_a_gap_the_newest_trades_are_asked_for_and_the_rest_is_noted_as_missing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last resort is the archive; until then the bar is blind, and the table has the number of missing trades."""
    run = await missed(settings, monkeypatch, ("BTC",))
    assert {answer["request"]["coin"] for answer in asked(run, "recentTrades")} == {"BTC"}
    bar = minute(run, "BTC", 1)
    assert (bar["status"], bar["cause"]) == ("blind", "connection lost")
    ((outcome, ours, theirs),) = found(run, "BTC", 1)
    assert outcome == "short"
    assert ours == bar["trades"] < theirs


async def test_an_omitted_candle_says_nothing_and_a_flat_one_proves_a_quiet_minute(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is resent after the reconnect, so only the venue's candles can repair the gap."""
    run = await missed(settings, monkeypatch, ("ONCE", "NEVER"), replayed=0)
    assert found(run, "ONCE", 1) == [("confirmed", 0, 0)]
    bar = minute(run, "ONCE", 1)
    assert (bar["status"], bar["repaired"], bar["volume"]) == ("quiet", True, 0.0)
    assert found(run, "NEVER", 1) == [("short", 0, None)]
    assert minute(run, "NEVER", 1)["status"] == "blind"
    for coin in ("ONCE", "NEVER"):
        bar = minute(run, coin, 3)
        assert (bar["status"], bar["cause"]) == ("unknown", RHYTHM_NOT_KNOWN), "watched, and no candle yet"


async def test_a_coin_without_candles_is_unknown_and_its_candle_channel_is_no_alarm(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {
        "coins": ("BTC", "NEVER"),
        "channels": ("trades", "bbo", "candle"),
        "silence_least_s": 5.0,
        "silence_factor": 2.0,
    }
    more: dict[str, Any] = {"source": market(coins=(BY_NAME["BTC"], NEVER), span_s=None), "streams": 6}
    async with live(settings, monkeypatch, record=record, **more) as run:
        await run.until_s(120.0)
    assert run.venue.stats.frames["candle"] > 0
    assert set(statuses(run.bars("hyperliquid|perp|NEVER", 10.0, 110.0))) == {"unknown"}
    assert run.venue.stats.frames["subscriptionResponse"] == 6, "nothing was asked for again"
    assert run.venue.stats.by_feed["hyperliquid"] == 1


@pytest.mark.parametrize("page", [500, 7])
async def test_no_question_for_candles_exceeds_a_page_and_together_they_leave_nothing_out(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """Nineteen blind minutes are requested at once; answers are complete and in order; each bar is compared once."""
    monkeypatch.setattr("ingest.pipeline.gap_repair._PAGE", page)
    time = ManualTime(START_NS)
    served = SimulatedVenue(market(span_s=1_260.0), clock="real", time_source=time, wait_for_subscriptions=0)
    async with served as venue:
        quick = configured(settings, venue, bars=MINUTES)
        pipeline = Pipeline("made", quick, is_capture=False)
        for record in unwatched(21):
            pipeline.process(record)
        await venue_reaches(venue, time, 1_250.0)
        asks = [ask for ask in pipeline.repairs.due_requests(START_NS + 1_400 * NS) if "req" in ask]
        pages = []
        async with RestClient(quick) as rest:
            for number, ask in enumerate(asks):
                answer = await rest.ask(ask)
                pages.append([candle["t"] for candle in json.loads(answer.body)])
                body = b'{"request":%s,"asked_ns":0,"response":%s}' % (json.dumps(ask).encode(), answer.body)
                at_ns = START_NS + 1_400 * NS + number
                pipeline.process(Record(100 + number, at_ns, RecordKind.ANSWER, -1, body))
    assert (len(asks) > 1) == (page < 20)
    assert all(len(opens) <= page for opens in pages)
    opens = [at for part in pages for at in part]
    assert opens == [ms(60.0 * n) for n in range(20)]
    rows = pipeline.drain()["repairs"].to_pylist()
    assert sorted(since_s(row["ts_open"]) for row in rows) == [60.0 * n for n in range(20)]
    assert {row["outcome"] for row in rows} == {"short"}
    assert all(row["venue_trades"] > 0 for row in rows)


def unwatched(minutes: int) -> list[Record]:
    """Return the records of a recording that lost its only connection at once."""
    about = json.dumps({"coins": ["BTC"]}).encode()
    ack = {"method": "subscribe", "subscription": {"type": "trades", "coin": "BTC"}}
    frame = json.dumps({"channel": "subscriptionResponse", "data": ack}).encode()
    bodies = [(RecordKind.STARTED, -1, about), (RecordKind.OPENED, 0, b"{}"), (RecordKind.FRAME, 0, frame)]
    bodies += [(RecordKind.CLOSED, 0, b"connection lost")]
    records = [Record(n, START_NS, kind, number, body) for n, (kind, number, body) in enumerate(bodies)]
    clocks = range(1, minutes)
    return records + [Record(10 + n, START_NS + 60 * n * NS + NS, RecordKind.CLOCK, -1, b"") for n in clocks]


async def venue_reaches(venue: SimulatedVenue, time: ManualTime, seconds: float) -> None:
    """Start a venue, then advance it quickly to an instant of its capture."""
    while venue.now_ns < START_NS + seconds * NS:
        time.advance_to(time.now_ns() + 20 * NS)
        await asyncio.sleep(0.01)
