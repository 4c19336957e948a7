"""Hyperliquid's protocol on the simulated venue, over a real socket to a real client."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ingest.simulator.market.synthetic import SyntheticMarket
from ingest.simulator.venue import SimulatedVenue
from storage.clock import NS, ManualTime
from tests.ingest.simulator.clients import (
    SMALL,
    answer,
    ask,
    client,
    follow,
    info,
    key,
    listen,
    market,
    subscribe,
)

EVERYTHING = [
    (channel, coin) for coin in ("BTC", "SOL") for channel in ("trades", "bbo", "l2Book", "activeAssetCtx")
]


# The stream.


async def test_stream_holds_what_was_asked_for_and_ends_cleanly() -> None:
    async with SimulatedVenue(market(), wait_for_subscriptions=2) as venue:
        heard = await follow(venue, [("trades", "BTC"), ("bbo", "SOL")])
        await venue.finished()
    assert heard.code == 1000
    assert {message["channel"] for message in heard.messages} == {
        "tickwalkClock", "subscriptionResponse", "trades", "bbo",
    }  # fmt: skip
    assert len(heard.trades("BTC")) > 50
    assert heard.of("trades", "SOL") == []
    assert heard.of("bbo", "BTC") == []


async def test_trades_do_not_depend_on_what_else_is_asked_for() -> None:
    async with SimulatedVenue(market(), wait_for_subscriptions=1) as venue:
        alone = await follow(venue, [("trades", "BTC")])
    async with SimulatedVenue(market(), wait_for_subscriptions=8) as venue:
        among = await follow(venue, EVERYTHING)
    assert alone.of("trades", "BTC") == among.of("trades", "BTC")


async def test_two_runs_are_equal_byte_for_byte() -> None:
    runs = []
    for _ in range(2):
        async with SimulatedVenue(market(), wait_for_subscriptions=8) as venue:
            runs.append((await follow(venue, EVERYTHING)).frames)
    assert len(runs[0]) > 300
    assert runs[0] == runs[1]


async def test_clock_frames_lead_their_blocks_and_never_fall() -> None:
    async with SimulatedVenue(market(), wait_for_subscriptions=8) as venue:
        heard = await follow(venue, EVERYTHING)
    assert json.loads(heard.frames[0]) == {"channel": "tickwalkClock", "data": SMALL.start_ns}
    clock = 0
    for message in heard.messages:
        if message["channel"] == "tickwalkClock":
            assert message["data"] >= clock
            clock = message["data"]
        elif message["channel"] == "bbo" and message["data"]["time"] * 1_000_000 >= SMALL.start_ns:
            lag_ms = clock / 1e6 - message["data"]["time"]
            assert 300 <= lag_ms <= 800
    assert clock == SMALL.start_ns + round((SMALL.span_s or 0) * NS) + SyntheticMarket.tail_ns
    assert heard.messages[-1]["channel"] == "tickwalkClock"


async def test_stats_count_what_a_recorder_should_store() -> None:
    printed: list[Any] = []
    source = market()
    async with SimulatedVenue(source, wait_for_subscriptions=8, on_print=printed.append) as venue:
        heard = await follow(venue, EVERYTHING)
    keys = heard.trades()
    assert len(printed) == len(keys) == venue.stats.prints.total()
    assert Counter(coin for coin, _, _ in set(keys)) == venue.stats.distinct
    assert venue.stats.distinct.total() == venue.stats.made.total() + 60, "and 30 of either coin from before"
    assert venue.stats.frames == Counter(message["channel"] for message in heard.messages)


async def test_books_come_at_the_slow_cadence_and_show_the_touch() -> None:
    async with SimulatedVenue(market(), wait_for_subscriptions=2) as venue:
        heard = await follow(venue, [("l2Book", "BTC"), ("bbo", "BTC")])
    books = heard.of("l2Book")[1:]
    assert len(books) == 18, "one each 5 s of 90 s"
    touches = {row["time"]: row["bbo"] for row in heard.of("bbo")}
    shown = [[side[0] for side in book["levels"]] for book in books if book["time"] in touches]
    assert shown
    assert shown == [touches[book["time"]] for book in books if book["time"] in touches]


async def test_candles_are_the_prints_folded() -> None:
    async with SimulatedVenue(market(), wait_for_subscriptions=2, on_end="hold") as venue:
        async with client(venue) as socket:
            await subscribe(socket, "trades", "BTC")
            await subscribe(socket, "candle", "BTC", interval="1m")
            await venue.finished()
            await ask(socket, {"method": "ping"})
            messages = []
            while (message := await answer(socket))["channel"] != "pong":
                messages.append(message)
        second = await info(
            venue, type="candleSnapshot", req={"coin": "BTC", "interval": "1m", "startTime": 0}
        )
    last = [m["data"] for m in messages if m["channel"] == "candle"][-1]
    rows = {key(row): row for m in messages if m["channel"] == "trades" for row in m["data"]}
    inside = [row for row in rows.values() if last["t"] <= row["time"] <= last["T"]]
    assert last == second[-1]
    assert last["n"] == len(inside) > 10
    assert float(last["v"]) == pytest.approx(sum(float(row["sz"]) for row in inside))
    assert last["o"] == inside[0]["px"]
    assert last["c"] == inside[-1]["px"]
    assert last["h"] == max((row["px"] for row in inside), key=float)


async def test_time_stands_still_until_enough_streams_are_subscribed() -> None:
    async with SimulatedVenue(market(), wait_for_subscriptions=2) as venue, client(venue) as socket:
        await subscribe(socket, "trades", "BTC")
        await answer(socket), await answer(socket)
        await ask(socket, {"method": "ping"})
        assert (await answer(socket))["channel"] == "pong"
        assert venue.now_ns == SMALL.start_ns
        await subscribe(socket, "trades", "SOL")
        assert len((await listen(socket)).trades("BTC")) > 50


async def test_a_client_that_reconnects_continues_where_it_was() -> None:
    async with SimulatedVenue(market(span_s=600.0), wait_for_subscriptions=1) as venue:
        async with client(venue) as socket:
            await subscribe(socket, "trades", "BTC")
            first = [await answer(socket) for _ in range(10)]
        second = await follow(venue, [("trades", "BTC")])
    assert second.code == 1000
    assert venue.stats.connections == 2
    assert second.messages[0]["data"] < SMALL.start_ns + 600 * NS, "it did not run on alone"
    assert first[1]["channel"] == "trades"


async def test_after_the_end_connections_are_refused() -> None:
    async with SimulatedVenue(market(span_s=5.0)) as venue:
        await follow(venue, [("trades", "BTC")])
        await venue.finished()
        with pytest.raises(InvalidStatus) as refusal:
            await follow(venue, [("trades", "BTC")])
    assert refusal.value.response.status_code == 410


# The real clock.


async def test_real_clock_sends_a_frame_when_it_is_due_and_not_before() -> None:
    time = ManualTime(SMALL.start_ns)
    async with SimulatedVenue(market(), clock="real", time_source=time) as venue, client(venue) as socket:
        await subscribe(socket, "bbo", "BTC")
        await answer(socket), await answer(socket)
        await ask(socket, {"method": "ping"})
        assert (await answer(socket))["channel"] == "pong", "nothing while the clock stands"
        time.advance_to(SMALL.start_ns + 10 * NS)
        quote = await answer(socket)
        assert quote["channel"] == "bbo"
        assert quote["data"]["time"] >= SMALL.start_ns // 1_000_000
        assert venue.now_ns <= time.now_ns()
        assert "tickwalkClock" not in venue.stats.frames


async def test_flat_out_needs_no_clock_frames() -> None:
    async with SimulatedVenue(market(), clock="real", speed=0) as venue:
        heard = await follow(venue, [("trades", "BTC")])
    assert heard.of("tickwalkClock") == []
    assert len(heard.trades()) > 50


async def test_an_idle_connection_is_dropped() -> None:
    time = ManualTime(SMALL.start_ns)
    venue = SimulatedVenue(market(), clock="real", time_source=time, idle_close_s=0.05)
    async with venue, client(venue) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is None, "no close frame: 1006"
