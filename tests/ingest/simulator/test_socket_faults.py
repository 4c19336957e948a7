"""Injected faults of single sockets, handshakes and delivery."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus

from ingest.simulator.faults.faults import Disconnect, Lag, NoPongs, Outage, RateLimit, RefuseConnections
from ingest.simulator.venue import SimulatedVenue
from storage.clock import NS, ManualTime
from tests.ingest.simulator.clients import (
    SMALL,
    answer,
    ask,
    client,
    connected,
    follow,
    listen,
    market,
    subscribe,
)
from tests.ingest.simulator.test_faults import BOTH, clean_run, faulty, run_with, since_start_s

# Single sockets, refused handshakes, a slow delivery, an API that is down alone.


async def test_only_the_ordered_socket_is_cut() -> None:
    async with (
        faulty(Disconnect(at_s=30, socket=0), streams=2) as venue,
        client(venue) as first,
        client(venue) as second,
    ):
        await subscribe(first, "trades", "BTC")
        await subscribe(second, "trades", "BTC")
        cut = await listen(first)
        async with client(venue) as third:
            await subscribe(third, "trades", "BTC")
            other, late = await listen(second), await listen(third)
    assert cut.code is None
    assert (other.code, late.code) == (1000, 1000)
    assert 28 < since_start_s(cut.of("tickwalkClock")[-1]) <= 31
    whole = await clean_run()
    assert set(other.trades("BTC")) == set(whole.trades("BTC")), "its twin heard it all"


async def test_api_can_be_down_while_the_explorer_lives() -> None:
    """The outage of 2025-07-29: sockets dead, the chain alive (F25)."""
    time = ManualTime(SMALL.start_ns)
    venue = SimulatedVenue(
        market(), clock="real", time_source=time, wait_for_subscriptions=2, faults=[Outage(at_s=10, for_s=20)]
    )
    async with venue, connected(venue.explorer_url) as explorer, httpx.AsyncClient() as http:
        async with client(venue) as socket:
            await ask(explorer, {"method": "subscribe", "subscription": {"type": "explorerBlock"}})
            await subscribe(socket, "bbo", "BTC")
            time.advance_to(SMALL.start_ns + 25 * NS)
            assert (await listen(socket)).code is None
        assert (await http.post(venue.info_url, json={"type": "meta"})).status_code == 503
        with pytest.raises(InvalidStatus) as refusal:
            async with client(venue):
                pass
        blocks = [rows[0] async for rows in blocks_of(explorer, until_ms=SMALL.start_ns // 10**6 + 20_000)]
        time.advance_to(SMALL.start_ns + 40 * NS)
        assert [rows async for rows in blocks_of(explorer, until_ms=SMALL.start_ns // 10**6 + 35_000)]
        async with client(venue) as socket:
            await subscribe(socket, "bbo", "BTC")
            assert (await answer(socket))["channel"] == "subscriptionResponse"
    assert refusal.value.response.status_code == 503
    assert len([row for row in blocks if row["blockTime"] > SMALL.start_ns // 10**6 + 10_000]) > 15


async def blocks_of(explorer: ClientConnection, *, until_ms: int) -> AsyncIterator[list[dict[str, Any]]]:
    """Yield the explorer's messages up to a block of that time."""
    while True:
        rows = json.loads(await explorer.recv())
        if isinstance(rows, list):
            yield rows
            if rows[0]["blockTime"] >= until_ms:
                return


async def test_virtual_outage_of_the_api_alone_is_passed_over() -> None:
    async with faulty(Outage(at_s=30, for_s=20)) as venue:
        before, after = await follow(venue, BOTH), await follow(venue, BOTH)
    assert before.code is None
    assert 50 <= since_start_s(after.of("tickwalkClock")[0]) < 51


@pytest.mark.parametrize("status", [429, 502])
async def test_handshakes_are_refused_as_often_as_ordered(status: int) -> None:
    fault = RefuseConnections(status=status, retry_after_s=12, times=2)
    async with faulty(fault, streams=99) as venue:
        for _ in range(2):
            with pytest.raises(InvalidStatus) as refusal:
                async with client(venue):
                    pass
            assert refusal.value.response.status_code == status
            assert refusal.value.response.headers["Retry-After"] == "12"
        async with client(venue) as socket, connected(venue.explorer_url):
            await ask(socket, {"method": "ping"})
            assert (await answer(socket))["channel"] == "pong"


async def test_connections_beyond_the_rate_are_refused_until_the_minute_is_over() -> None:
    time = ManualTime(SMALL.start_ns)
    venue = SimulatedVenue(market(), clock="real", time_source=time, faults=[RateLimit(per_minute=2)])
    async with venue:
        async with client(venue), client(venue):
            with pytest.raises(InvalidStatus) as refusal:
                async with client(venue):
                    pass
        time.advance_to(SMALL.start_ns + 61 * NS)
        async with client(venue):
            pass
    assert refusal.value.response.status_code == 429
    assert refusal.value.response.headers["Retry-After"] == "60"


async def test_lag_moves_receipts_and_nothing_else() -> None:
    whole, late = await clean_run(), await run_with(Lag(by_s=5.0))
    clocks, late_clocks = whole.of("tickwalkClock")[1:-1], late.of("tickwalkClock")[1:-1]
    assert [b - a for a, b in zip(clocks, late_clocks, strict=True)] == [5 * NS] * len(clocks)
    assert [m for m in late.messages if m["channel"] != "tickwalkClock"] == [
        m for m in whole.messages if m["channel"] != "tickwalkClock"
    ]


async def test_fault_injected_without_a_time_begins_now() -> None:
    """It has not ended before it begins."""
    time = ManualTime(SMALL.start_ns)
    async with SimulatedVenue(market(), clock="real", time_source=time) as venue, client(venue) as socket:
        await subscribe(socket, "bbo", "BTC")
        time.advance_to(SMALL.start_ns + 20 * NS)
        while venue.now_ns < SMALL.start_ns + 19 * NS:
            await answer(socket)
        venue.inject(NoPongs(for_s=10))
        await ask(socket, {"method": "ping"})
        await ask(socket, {"method": "unsubscribe", "subscription": {"type": "bbo", "coin": "BTC"}})
        seen = {(message := await answer(socket))["channel"]}
        while message["channel"] != "subscriptionResponse":
            seen.add((message := await answer(socket))["channel"])
        assert "pong" not in seen
        time.advance_to(SMALL.start_ns + 40 * NS)
        await subscribe(socket, "bbo", "BTC")
        while venue.now_ns < SMALL.start_ns + 39 * NS:
            await answer(socket)
        await ask(socket, {"method": "ping"})
        while (await answer(socket))["channel"] != "pong":
            pass
