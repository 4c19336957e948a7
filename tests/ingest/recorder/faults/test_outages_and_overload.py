"""Outages, refusals and unknown messages of a venue, and our own overload."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from ingest.replay.recovery import recover
from ingest.simulator.faults.faults import (
    GARBAGE,
    ChainHalt,
    ClockOff,
    FailInfo,
    Fault,
    Garbage,
    Outage,
    RefuseConnections,
)
from storage.clock import NS
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.ingest.recorder.faults.rig import (
    BTC,
    SOL,
    START_NS,
    Spoken,
    live,
    ms,
    since_s,
    statuses,
    taped,
    until,
)


async def test_an_api_that_is_down_while_the_chain_lives_is_blind_and_never_quiet(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on 2025-07-29: sockets and requests refused, while blocks continue."""
    async with live(settings, monkeypatch, Outage(at_s=22.0, for_s=40.0), has_chain=True) as run:
        await run.until_s(100.0)
    (gap,) = run.gaps(BTC)
    assert (since_s(gap["ts_from"]), since_s(gap["ts_to"])) == pytest.approx((22.0, 63.0), abs=3.0)
    assert gap["cause"] == "connection lost; chain alive"
    for coin in (BTC, SOL):
        dark = run.bars(coin, 30.0, 60.0)
        assert len(dark) == 3
        assert all(row["status"] == "blind" or row["repaired"] for row in dark)
        assert set(statuses(run.bars(coin, 80.0, 90.0))) <= {"printed", "quiet"}
    assert statuses(run.bars(BTC, 30.0, 40.0)) == ["blind"], "more prints than the 30 that come again"
    assert run.is_each_print_stored_once()


async def test_a_chain_that_makes_no_block_is_blind_though_every_socket_is_well(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    halt = ChainHalt(at_s=22.0, for_s=40.0)
    record = {"ping_s": 0.05, "pong_timeout_s": 1.0, "chain_silence_s": 5.0, "silence_least_s": 900.0}
    async with live(settings, monkeypatch, halt, has_chain=True, record=record) as run:
        await run.until_s(100.0)
    for coin in (BTC, SOL):
        still = run.bars(coin, 30.0, 60.0)
        assert {(row["status"], row["cause"]) for row in still} == {("blind", "chain halt")}
        assert set(statuses(run.bars(coin, 80.0, 90.0))) <= {"printed", "quiet"}
    assert run.venue.stats.by_feed["hyperliquid"] == 1


async def test_refused_questions_and_handshakes_are_tried_again_and_pages_are_no_answers(
    settings: Settings,
) -> None:
    refused: list[Fault] = [
        FailInfo(status=429, retry_after_s=0),
        FailInfo(status=500),
        FailInfo(status=502, html=True),
        RefuseConnections(status=429, times=2),
    ]
    run = await taped(settings, *refused, record={"refused_wait_s": 0.02})
    assert run.is_each_print_stored_once()
    assert len(run.of("trades")) > 50


async def test_frames_that_are_no_messages_are_set_aside_one_by_one(settings: Settings) -> None:
    garbage = [Garbage(kind=kind, at_s=20.0 + n) for n, kind in enumerate(sorted(GARBAGE))]
    run = await taped(settings, *garbage)
    raws = {row["raw"] for row in run.of("quarantine", table_name="frames")}
    bodies = {text if isinstance(text, bytes) else text.encode() for text in GARBAGE.values()}
    # The greeting of older servers is text too, and says nothing wrong.
    assert raws == bodies - {b"Websocket connection established."}
    assert run.is_each_print_stored_once()
    # Each may have been prints of this coin: the seconds in which they came are blind, and no others.
    assert {row["cause"] for row in run.bars(BTC, 10.0, 80.0) if row["status"] == "blind"} == {
        "prints refused"
    }
    assert set(statuses(run.bars(BTC, 30.0, 80.0))) <= {"printed", "quiet"}


async def test_a_question_that_is_refused_for_good_stops_nothing_else(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with live(settings, monkeypatch, record={"clock_check_s": 0.1}, tables=("clocks",)) as run:
        run.venue.inject(FailInfo(status=422, times=3))
        await run.until_s(60.0)
    assert "question not answered" in capsys.readouterr().err
    assert run.of("clocks", source="venue")
    assert set(statuses(run.bars(BTC, 10.0, 50.0))) <= {"printed", "quiet"}


async def test_stopping_waits_for_no_answer(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request is refused and retried for a minute; Ctrl-C does not wait for that."""
    async with live(settings, monkeypatch, record={"clock_check_s": 0.05, "discover_s": 0.05}) as run:
        run.venue.inject(FailInfo(status=503, times=100_000))
        await run.until_s(20.0)
        async with asyncio.timeout(120.0):
            run.stop.set()
            await until(lambda: run.recorder is not None and is_ended(run.recorder))


def is_ended(recorder: Any) -> bool:
    return recorder.vitals is not None and recorder.vitals.state == "ended"


GOOD = {"type": "orderbook", "symbol": "BTC", "bids": [["100.0", "1.0"]], "asks": [["101.0", "2.0"]]}
FALLING = [{"px": f"{100 - n}.0", "sz": "1.0", "n": 1} for n in range(4)]


@asynccontextmanager
async def a_relay(*frames: str) -> AsyncIterator[str]:
    """Serve a GaiaEx socket that says these frames, then nothing; gives its address."""
    ended = asyncio.Event()

    async def say(socket: ServerConnection) -> None:
        for frame in frames:
            await socket.send(frame)
        await ended.wait()

    async with serve(say, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        try:
            yield f"ws://127.0.0.1:{port}/ws/market"
        finally:
            ended.set()


async def test_payloads_of_no_known_generation_are_set_aside_whole_and_bare_words_are_read(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = [
        json.dumps({"type": "orderbook", "coin": "BTC", "levels": FALLING, "time": ms(0)}),
        json.dumps({"type": "orderbook", "symbol": "BTC", "ladder": [], "timestamp": ms(0)}),
        json.dumps({"type": "depth", "symbol": "BTC", "timestamp": ms(0)}),
        "<html>moved</html>",
    ]
    good = json.dumps(GOOD | {"timestamp": ms(0), "checksum": 7})
    async with a_relay(*strange, "pong", good) as address:
        gaiaex = {"symbols": ("BTC",), "ws_url": address}
        async with live(settings, monkeypatch, gaiaex=gaiaex, tables=("books",)) as run:
            await run.until_s(15.0)
    assert sorted(row["raw"].decode() for row in run.of("quarantine")) == sorted(strange)
    assert [reason for reason in run.reasons if "schema_unsupported" in reason]
    (book,) = run.of("books", "gaiaex|perp|BTC")
    assert (book["bid_px"], book["ask_px"]) == ([100.0], [101.0])


@pytest.mark.parametrize("by_s", [3.0, -3.0])
async def test_both_clocks_are_kept_and_a_skew_beyond_a_second_is_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, by_s: float
) -> None:
    off = ClockOff(by_s=by_s)
    record = {"clock_check_s": 0.1}
    async with live(settings, monkeypatch, off, record=record, tables=("clocks", "lags")) as run:
        await until(lambda: getattr(run.recorder, "vitals", None) is not None)
        await run.until_s(80.0)
    assert run.recorder is not None
    assert run.recorder.vitals is not None
    assert run.recorder.vitals.clock_verdict == "off"
    offsets = [row["offset_ms"] for row in run.of("clocks", source="venue")]
    assert offsets
    assert all(abs(offset + 1_000 * by_s) < 1_000 for offset in offsets)
    fresh = run.of("trades", origin="live")
    assert fresh
    ahead = [row for row in fresh if row["ts_event"].timestamp() * 1e9 > row["ts_recv_ns"]]
    assert bool(ahead) == (by_s > 0)
    assert any(row["negative"] for row in run.of("lags")) == (by_s > 0)


@pytest.mark.drill
async def test_while_nobody_can_process_sockets_are_not_read_and_nothing_is_lost(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recordings rotate once a second, and no frame may wait while the next one catches up.

    That takes more than a minute of this hurried market, of which every print is received all the same.
    """
    monkeypatch.setattr("ingest.recorder.recorder._MOST_WAITING", 0)
    async with live(
        settings, monkeypatch, record={"rotate_h": 1.0 / 3_600.0, "coin_silence_s": 900.0}
    ) as run:
        await until(lambda: len(list(run.settings.journal_dir.iterdir())) >= 3)
        # Enough of the market for whole bars between what began and what ends.
        await run.until_s(max(120.0, (run.time.now_ns() - START_NS) / NS + 60.0))
    with Lake.open(run.settings) as lake:
        recover(run.settings, lake)  # a stop in the middle of a rotation leaves the rest to the next start
        run.read(lake)
    assert run.is_each_print_stored_once()
    assert run.done is not None
    assert run.done.counts.quarantined == 0
    last_s = since_s(run.of("bars", BTC)[-1]["ts_open"])
    watched = run.bars(BTC, since_s(run.of("trades", BTC)[30]["ts_event"]) + 30.0, last_s - 10.0)
    assert watched
    assert set(statuses(watched)) <= {"printed", "quiet"}, "a rotation is no gap"


EXTRA = {"seq": 7, "block": {"height": 1}, "users": ["0x1", "0x2"]}
PRINT = {"coin": "BTC", "side": "B", "px": "100.5", "sz": "1.0", "hash": "0x1", "time": ms(20), "tid": 1}


async def test_unknown_fields_are_no_harm_and_missing_ones_are_set_aside_whole(
    settings: Settings,
) -> None:
    renamed = {("price" if name == "px" else name): value for name, value in PRINT.items()}
    touch = [{"px": "1.0", "sz": "1.0", "n": 1}, {"px": "2.0", "sz": "1.0", "n": 1, "mm": True}]
    said = [
        ("trades:BTC", {"channel": "trades", "data": [PRINT | EXTRA], "version": 2}),
        ("trades:BTC", {"channel": "trades", "data": [renamed]}),
        ("trades:BTC", {"channel": "trades", "payload": [PRINT]}),
        ("bbo:SOL", {"channel": "bbo", "data": {"coin": "SOL", "time": ms(20), "bbo": touch} | EXTRA}),
        ("bbo:SOL", {"channel": "bbo", "data": {"coin": "SOL", "bbo": touch}}),
        ("bbo:SOL", {"channel": "tradesV1", "data": [PRINT]}),
    ]
    texts = [(20.0 + n, stream, json.dumps(message)) for n, (stream, message) in enumerate(said)]
    run = await taped(settings, source=Spoken(texts), tables=("quotes",))
    assert [row["price"] for row in run.of("trades", BTC, tid=1)] == [100.5]
    assert len(run.of("quotes", SOL, bid=1.0, ask=2.0)) == 1
    refused = sorted(row["raw"].decode() for row in run.of("quarantine"))
    assert refused == sorted(texts[n][2] for n in (1, 2, 4, 5))
    assert any("px" in reason for reason in run.reasons), "the reason names the field"
    assert set(statuses(run.bars(BTC, 30.0, 80.0))) <= {"printed", "quiet"}
