"""The simulated GaiaEx relays the books of the simulated Hyperliquid, with the faults of a relay."""

from __future__ import annotations

import itertools
from typing import Any

import httpx
import pytest

from ingest.simulator.faults.faults import (
    ChainHalt,
    Disconnect,
    Fault,
    ListingChange,
    NoPongs,
    Outage,
    RelayFrozen,
    RelayStale,
)
from ingest.simulator.market.spec import WHOLE_VENUE, MarketSpec
from ingest.simulator.venue import SimulatedVenue
from ingest.venues.gaiaex.messages import Generation
from storage.clock import NS
from storage.errors import SettingsError
from tests.ingest.simulator.clients import Heard, Rerun, client, connected, listen, subscribe

COINS = tuple(coin for coin in WHOLE_VENUE if coin.name in ("SOL", "MATIC", "xyz:AAPL", "PURR/USDC", "@107"))
SPEC = MarketSpec(seed=9, span_s=60.0, coins=COINS)


def relay(*faults: Fault, streams: int = 1, **more: Any) -> SimulatedVenue:
    return SimulatedVenue(Rerun(SPEC), wait_for_subscriptions=streams, faults=faults, **more)


async def follow(venue: SimulatedVenue, path: str = "/SOL") -> Heard:
    async with connected(venue.gaia_ws_url + path) as socket:
        return await listen(socket)


async def run(*faults: Fault, path: str = "/SOL", **more: Any) -> Heard:
    async with relay(*faults, **more) as venue:
        return await follow(venue, path)


def seconds(message: dict[str, Any]) -> float:
    stamp = message.get("timestamp", message.get("time", 0))
    return float(stamp / 1_000 - SPEC.start_ns / NS)


def gaps_s(rows: list[dict[str, Any]]) -> list[float]:
    return [seconds(b) - seconds(a) for a, b in itertools.pairwise(rows)]


# The book.


async def test_relayed_book_is_hyperliquids_book_a_little_later() -> None:
    """Each quote of Hyperliquid is the touch of one relayed book, `relay_lag_s` after it."""
    async with (
        relay(streams=2, relay_lag_s=0.35) as venue,
        client(venue) as hyperliquid,
        connected(venue.gaia_ws_url + "/SOL") as gaiaex,
    ):
        await subscribe(hyperliquid, "bbo", "SOL")
        quotes = (await listen(hyperliquid)).of("bbo")[1:]
        books = (await listen(gaiaex)).typed("orderbook")
    touches = {row["timestamp"]: [row["bids"][0], row["asks"][0]] for row in books}
    relayed = 0
    for quote in quotes:
        level = touches.get(quote["time"] + 350)
        if level is not None:
            relayed += 1
            assert level == [[side["px"], side["sz"]] for side in quote["bbo"]]
    assert relayed >= len(quotes) - 2, "all but those of the last third of a second"
    assert len(quotes) > 20


async def test_books_are_whole_best_first_and_stamped_in_order() -> None:
    books = (await run()).typed("orderbook")
    for book in books:
        bids, asks = ([float(px) for px, _ in book[side]] for side in ("bids", "asks"))
        assert len(bids) == len(asks) == 20
        assert bids == sorted(set(bids), reverse=True)
        assert asks == sorted(set(asks))
        assert bids[0] < asks[0]
        assert (book["stale"], book["feed_connected"]) == (False, True)
    assert min(gaps_s(books)) >= 0


async def test_virtual_clock_leads_each_book_by_the_lag_of_feed_and_relay() -> None:
    heard = await run(relay_lag_s=0.35)
    clock, checked = 0, 0
    for message in heard.messages:
        if message.get("channel") == "tickwalkClock":
            assert message["data"] >= clock
            clock = message["data"]
        elif message.get("type") == "orderbook" and clock > SPEC.start_ns:
            checked += 1
            assert 0.3 <= clock / NS - message["timestamp"] / 1_000 <= 0.8
    assert checked > 20


async def test_two_runs_are_equal_byte_for_byte() -> None:
    faults = (RelayStale(at_s=10, for_s=5), RelayFrozen(at_s=30, for_s=5))
    first, second = await run(*faults), await run(*faults)
    assert len(first.frames) > 80
    assert first.frames == second.frames


@pytest.mark.parametrize(
    ("path", "symbol"),
    [
        ("/xyz:AAPL", "xyz:AAPL"),
        ("/xyz%3AAAPL", "xyz:AAPL"),
        ("/spot/@107", "@107"),
        ("/spot/PURR%2FUSDC", "PURR/USDC"),
    ],
)
async def test_every_symbol_has_its_own_address(path: str, symbol: str) -> None:
    books = (await run(path=path)).typed("orderbook")
    assert {book["symbol"] for book in books} == {symbol}


async def test_first_generation_has_a_flat_list_with_one_turn() -> None:
    generation: Generation = "G1"
    heard = await run(gaia_generation=generation)
    book = heard.typed("orderbook")[0]
    assert list(book) == ["type", "coin", "levels", "time"]
    prices = [float(level["px"]) for level in book["levels"]]
    turn = prices.index(min(prices))
    assert prices[: turn + 1] == sorted(prices[: turn + 1], reverse=True)
    assert prices[turn + 1 :] == sorted(prices[turn + 1 :])
    assert list(heard.typed("heartbeat")[0]) == ["type", "timestamp"]


# Signs of life.


async def test_heartbeats_come_at_their_interval() -> None:
    beats = (await run(heartbeat_s=5.0)).typed("heartbeat")
    assert len(beats) == 12
    assert all(4.5 <= gap <= 6.0 for gap in gaps_s(beats))
    assert {(beat["symbol"], beat["stale"]) for beat in beats} == {("SOL", False)}


async def test_plain_ping_gets_a_plain_pong() -> None:
    async with relay(streams=9) as venue, connected(venue.gaia_ws_url + "/SOL") as socket:
        await socket.send("ping")
        texts = [await socket.recv() for _ in range(3)]
    assert texts[-1] == "pong"


async def test_pings_can_go_unanswered() -> None:
    async with relay(NoPongs(), streams=2) as venue, connected(venue.gaia_ws_url + "/SOL") as socket:
        await socket.send("ping")
        async with connected(venue.gaia_ws_url + "/xyz:AAPL") as second:
            heard = await listen(second)
            assert "pong" not in (await listen(socket)).frames
    assert heard.typed("orderbook")


async def test_heartbeats_continue_while_the_chain_is_halted() -> None:
    heard = await run(ChainHalt(at_s=10, for_s=40))
    assert len(heard.typed("heartbeat")) == 12
    assert not [book for book in heard.typed("orderbook") if 11 < seconds(book) < 50]


# What a relay gets wrong.


async def test_a_stale_relay_reports_it_freezes_and_recovers() -> None:
    heard = await run(RelayStale(symbol="SOL", at_s=20, for_s=20))
    kinds = [message["type"] for message in heard.messages if "type" in message]
    lost, found = kinds.index("stale"), kinds.index("recovered")
    assert set(kinds[lost + 1 : found]) == {"heartbeat"}, "the book stands still"
    assert kinds[found + 1] == "orderbook", "and is sent anew at once"
    assert heard.typed("stale")[0]["reason"] == "upstream_disconnected"
    assert 20 <= seconds(heard.typed("stale")[0]) <= 21.5
    assert 40 <= seconds(heard.typed("recovered")[0]) <= 41.5
    assert [beat["stale"] for beat in heard.typed("heartbeat")].count(True) == 4


async def test_a_client_that_connects_to_a_stale_relay_is_informed() -> None:
    """The book that it is shown is the one from before, marked as such."""
    async with relay(RelayStale(at_s=10, for_s=20), Disconnect(at_s=20)) as venue:
        await follow(venue)
        again = await follow(venue)
    book = again.typed("orderbook")[0]
    assert (book["stale"], book["feed_connected"]) == (True, False)
    assert seconds(book) < 11
    assert seconds(again.typed("stale")[0]) >= 20
    assert again.typed("recovered")


async def test_a_frozen_relay_reports_nothing() -> None:
    heard = await run(RelayFrozen(symbol="SOL", at_s=20, for_s=20))
    assert heard.typed("stale") == []
    assert {beat["stale"] for beat in heard.typed("heartbeat")} == {False}
    assert len(heard.typed("heartbeat")) == 12
    assert not [book for book in heard.typed("orderbook") if 20.5 < seconds(book) < 30]
    assert max(gaps_s(heard.typed("orderbook"))) > 18


async def test_frozen_symbol_leaves_the_others_alone() -> None:
    frozen = RelayFrozen(symbol="SOL", at_s=20, for_s=20)
    assert max(gaps_s((await run(frozen, path="/spot/@107")).typed("orderbook"))) < 18


async def test_outage_of_hyperliquids_api_leaves_the_relay_alone() -> None:
    heard = await run(Outage(at_s=20, for_s=20))
    assert heard.code == 1000
    assert len(heard.typed("heartbeat")) == 12


# Symbols that are none.


@pytest.mark.parametrize("path", ["/NOPE", "/MATIC", "/@107", "/spot/SOL"])
async def test_symbol_without_a_book_is_refused_and_the_socket_closed(path: str) -> None:
    async with relay(streams=9) as venue:
        heard = await follow(venue, path)
    assert [row["code"] for row in heard.typed("error")] == ["SYMBOL_NOT_SUPPORTED"]
    assert heard.code == 1008


async def test_delisting_ends_the_socket_with_the_same_error() -> None:
    heard = await run(ListingChange(coin="SOL", what="delisted", at_s=20))
    assert heard.code == 1008
    assert [row["code"] for row in heard.typed("error")] == ["SYMBOL_NOT_SUPPORTED"]
    assert 15 < seconds(heard.typed("orderbook")[-1]) <= 20.5


# REST.


async def get(venue: SimulatedVenue, path: str) -> Any:
    async with httpx.AsyncClient() as http:
        got = await http.get(f"{venue.gaia_rest_url}/{path}")
    assert got.status_code == 200
    return got.json()


@pytest.mark.parametrize("generation", ["G1", "G2"])
async def test_symbols_are_the_listed_perpetuals(generation: Generation) -> None:
    async with relay(gaia_generation=generation) as venue:
        body = await get(venue, "symbols/list")
    assert body["count"] == 2
    sol, apple = body["symbols"]
    assert (sol["symbol"], sol["assetClass"]) == ("SOL", "crypto")
    assert (apple["symbol"], apple["assetClass"], apple["deployer"]) == ("xyz:AAPL", "equity", "xyz")
    assert ("priceDecimals" in sol) == (generation == "G2")
    assert ("maxLeverage" in sol) == (generation == "G1")
    assert float(apple["currentPrice"]) == pytest.approx(201, rel=0.02)


async def test_time_and_health_are_told() -> None:
    async with relay(RelayStale(symbol="SOL")) as venue:
        assert await get(venue, "time") == {"serverTime": SPEC.start_ns // 1_000_000}
        health = await get(venue, "health")
        spot = await get(venue, "spot/symbols")
    assert health["services"]["market_data"] == "degraded"
    assert [row["symbol"] for row in spot["symbols"]] == ["PURR/USDC", "@107"]


async def test_refused_symbol_does_not_count_as_a_stream() -> None:
    async with relay(streams=1) as venue:
        await follow(venue, "/NOPE")
        assert venue.now_ns == SPEC.start_ns, "time still stands"


def test_impossible_relay_is_refused() -> None:
    with pytest.raises(SettingsError, match="heartbeat_s 0"):
        relay(heartbeat_s=0.0)


async def test_cut_reaches_the_relay_too() -> None:
    heard = await run(Disconnect(at_s=20))
    assert heard.code is None
    assert 15 < seconds(heard.typed("orderbook")[-1]) <= 20.5
