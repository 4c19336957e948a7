"""Injected faults happen as ordered, and nothing else changes."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ingest.simulator.faults.faults import (
    GARBAGE,
    ClaimSubscribed,
    Disconnect,
    Duplicate,
    FailInfo,
    Fault,
    Garbage,
    GarbageKind,
    LoseAck,
    NoPongs,
    Reorder,
    SilentStream,
)
from ingest.simulator.venue import SimulatedVenue
from storage.clock import NS, ManualTime
from tests.ingest.simulator.clients import (
    SMALL,
    Heard,
    answer,
    ask,
    client,
    follow,
    listen,
    market,
    subscribe,
)

TRADES = [("trades", "BTC"), ("trades", "SOL")]
BOTH = [*TRADES, ("bbo", "BTC"), ("bbo", "SOL")]


def faulty(*faults: Fault, streams: int = len(BOTH), **more: Any) -> SimulatedVenue:
    return SimulatedVenue(market(), wait_for_subscriptions=streams, faults=faults, **more)


async def clean_run() -> Heard:
    async with faulty() as venue:
        return await follow(venue, BOTH)


async def run_with(*faults: Fault) -> Heard:
    async with faulty(*faults) as venue:
        return await follow(venue, BOTH)


def since_start_s(clock_ns: int) -> float:
    return (clock_ns - SMALL.start_ns) / NS


# Lost connections.


@pytest.mark.parametrize(("is_clean", "code"), [(False, None), (True, 1000)])
async def test_disconnect_cuts_at_its_time_and_skips_the_outage(is_clean: bool, code: int | None) -> None:
    async with faulty(Disconnect(at_s=30, outage_s=20, clean=is_clean), replayed=5) as venue:
        before, after = await follow(venue, BOTH), await follow(venue, BOTH)
    assert before.code == code
    assert after.code == 1000
    assert 28 < since_start_s(before.of("tickwalkClock")[-1]) <= 31
    assert 50 <= since_start_s(after.of("tickwalkClock")[0]) < 51
    lost = venue.stats.made.total() - len({*before.trades(), *after.trades()} - warm_up_keys(before))
    assert lost > 0, "20 s of two coins are more than the replay gives back"


def warm_up_keys(heard: Heard) -> set[tuple[str, int, int]]:
    return {key for key in heard.trades() if key[1] * 1_000_000 < SMALL.start_ns}


async def test_short_outage_is_covered_by_the_replay() -> None:
    async with faulty(Disconnect(at_s=30, outage_s=2)) as venue:
        before, after = await follow(venue, BOTH), await follow(venue, BOTH)
    assert len(after.of("trades", "BTC")[0]) == 30
    assert set(after.trades("BTC")[:30]) & set(before.trades("BTC")), "the replay overlaps what was heard"
    whole = await clean_run()
    assert {*before.trades(), *after.trades()} == set(whole.trades())


@pytest.mark.parametrize("replayed", [0, 5])
async def test_replay_can_be_shortened(replayed: int) -> None:
    async with faulty(Disconnect(at_s=30, outage_s=2), replayed=replayed) as venue:
        await follow(venue, BOTH)
        after = await follow(venue, BOTH)
    channels = [message["channel"] for message in after.messages]
    standing = Heard(after.frames[: channels.index("tickwalkClock", 1)])
    assert len(standing.trades("BTC")) == replayed


async def test_runs_with_faults_are_equal_byte_for_byte() -> None:
    runs = []
    for _ in range(2):
        faults = (
            Disconnect(at_s=20, outage_s=5),
            Duplicate(share=0.2),
            Reorder(share=0.2, window_s=3),
            Garbage(kind="text", at_s=10),
        )
        async with faulty(*faults) as venue:
            runs.append([(await follow(venue, BOTH)).frames, (await follow(venue, BOTH)).frames])
    assert runs[0] == runs[1]
    assert len(runs[0][1]) > 200


async def test_real_clock_takes_no_connection_during_an_outage() -> None:
    time = ManualTime(SMALL.start_ns)
    fault = Disconnect(at_s=10, outage_s=60)
    async with SimulatedVenue(market(), clock="real", time_source=time, faults=[fault]) as venue:
        async with client(venue) as socket:
            time.advance_to(SMALL.start_ns + 20 * NS)
            with pytest.raises(ConnectionClosed):
                await socket.recv()
        with pytest.raises(InvalidStatus) as refusal:
            async with client(venue):
                pass
    assert refusal.value.response.status_code == 503


async def test_fault_can_be_ordered_while_running() -> None:
    async with faulty(streams=1) as venue, client(venue) as socket:
        venue.inject(Disconnect())
        await subscribe(socket, "trades", "BTC")
        heard = await listen(socket)
    assert heard.code is None
    assert len(heard.of("trades")) == 1, "the replay, then the cut"


# Messages doubled, late, missing or meaningless.


async def test_every_message_can_be_doubled() -> None:
    whole, doubled = await clean_run(), await run_with(Duplicate(share=1.0))
    counts = Counter(doubled.trades("BTC"))
    live = set(whole.trades("BTC")) - warm_up_keys(whole)
    assert {counts[key] for key in live} == {2}
    assert set(doubled.trades()) == set(whole.trades())


async def test_reordered_messages_are_late_but_all_there() -> None:
    whole, late = await clean_run(), await run_with(Reorder(share=0.3, window_s=5.0))
    assert Counter(late.trades()) == Counter(whole.trades())
    assert late.trades("BTC") != whole.trades("BTC")
    clock, delays_s = 0, []
    for message in late.messages:
        if message["channel"] == "tickwalkClock":
            clock = message["data"]
        elif message["channel"] == "trades" and message["data"][0]["time"] * 1_000_000 > SMALL.start_ns:
            delays_s.append(clock / NS - message["data"][0]["time"] / 1_000)
    assert 2.0 < max(delays_s) < 5.0 + 3.0


async def test_silence_hits_one_coin_for_its_time_only() -> None:
    whole, silent = await clean_run(), await run_with(SilentStream(coin="SOL", at_s=20, for_s=40))
    assert silent.of("bbo", "BTC") == whole.of("bbo", "BTC")
    assert silent.trades("BTC") == whole.trades("BTC")
    quotes = [row["time"] / 1_000 - SMALL.start_ns / NS for row in silent.of("bbo", "SOL")]
    assert [s for s in quotes if 20 <= s < 60] == []
    assert [s for s in quotes if s >= 60]


async def test_silence_can_hit_one_channel_alone() -> None:
    whole = await clean_run()
    silent = await run_with(SilentStream(coin="SOL", channels=("trades",)))
    assert silent.of("bbo", "SOL") == whole.of("bbo", "SOL")
    assert silent.trades("SOL") == []


async def test_pongs_flow_while_a_coin_is_silent() -> None:
    async with faulty(SilentStream(coin="BTC"), streams=99) as venue, client(venue) as socket:
        await subscribe(socket, "trades", "BTC")
        assert (await answer(socket))["channel"] == "subscriptionResponse"
        await ask(socket, {"method": "ping"})
        assert (await answer(socket))["channel"] == "pong", "and no replay before it"


@pytest.mark.parametrize("kind", sorted(GARBAGE))
async def test_garbage_arrives_once_and_the_rest_goes_on(kind: GarbageKind) -> None:
    whole, spoilt = await clean_run(), await run_with(Garbage(kind=kind, at_s=30))
    at = spoilt.frames.index(GARBAGE[kind])
    assert 0 < at < len(spoilt.frames) - 1
    assert spoilt.frames[:at] + spoilt.frames[at + 1 :] == whole.frames


# Answers that fail.


async def test_lost_ack_leaves_the_stream_running() -> None:
    async with faulty(LoseAck(channel="trades", coin="BTC"), streams=99) as venue, client(venue) as socket:
        await subscribe(socket, "trades", "BTC")
        assert (await answer(socket))["channel"] == "trades"
        await subscribe(socket, "trades", "BTC")
        assert (await answer(socket))["data"] == 'Already subscribed: {"type":"trades","coin":"BTC"}'


async def test_lost_request_must_be_sent_again() -> None:
    fault = LoseAck(channel="trades", coin="BTC", takes_effect=False, times=2)
    async with faulty(fault, streams=99) as venue, client(venue) as socket:
        for _ in range(2):
            await subscribe(socket, "trades", "BTC")
            await ask(socket, {"method": "ping"})
            assert (await answer(socket))["channel"] == "pong"
        await subscribe(socket, "trades", "BTC")
        assert (await answer(socket))["channel"] == "subscriptionResponse"


async def test_a_new_subscription_can_be_answered_as_existing() -> None:
    async with faulty(ClaimSubscribed(channel="bbo", coin="SOL")) as venue:
        heard = await follow(venue, BOTH)
    assert heard.of("error") == ['Already subscribed: {"type":"bbo","coin":"SOL"}']
    assert heard.of("bbo", "SOL"), "the stream runs all the same"


async def test_pings_can_go_unanswered() -> None:
    async with faulty(NoPongs(), streams=99) as venue, client(venue) as socket:
        await ask(socket, {"method": "ping"})
        await subscribe(socket, "bbo", "BTC")
        assert (await answer(socket))["channel"] == "subscriptionResponse"


@pytest.mark.parametrize("status", [429, 422, 500])
async def test_info_fails_as_often_as_ordered(status: int) -> None:
    fault = FailInfo(status=status, times=2, retry_after_s=3 if status == 429 else None)
    async with faulty(fault) as venue, httpx.AsyncClient() as http:
        got = [await http.post(venue.info_url, json={"type": "meta"}) for _ in range(3)]
    assert [answer.status_code for answer in got] == [status, status, 200]
    assert got[0].headers.get("retry-after") == ("3" if status == 429 else None)


async def test_info_can_answer_with_a_page() -> None:
    async with faulty(FailInfo(status=502, html=True)) as venue, httpx.AsyncClient() as http:
        got = await http.post(venue.info_url, json={"type": "meta"})
    assert got.headers["content-type"].startswith("text/html")
    with pytest.raises(json.JSONDecodeError):
        got.json()
