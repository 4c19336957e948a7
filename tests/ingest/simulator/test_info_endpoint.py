"""Requests to the simulated venue, on its socket and at `/info`, are answered as by the real one."""

from __future__ import annotations

import contextlib
import json
from functools import lru_cache
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.simulator.server.info_endpoint import InfoEndpoint
from ingest.simulator.server.market_state import MarketState
from ingest.simulator.server.venue_wide import VenueWide
from ingest.simulator.wire.subscriptions import RequestRefused, parse_request
from tests.ingest.simulator.clients import SMALL, answer, ask, client, info, market, subscribe, waiting_venue
from tests.plugins.property_tests import examples

# Requests and answers.


async def test_subscribe_is_acknowledged_and_followed_by_the_newest_trades() -> None:
    async with waiting_venue() as venue, client(venue) as socket:
        await subscribe(socket, "trades", "BTC")
        ack, replay = await answer(socket), await answer(socket)
    assert ack == {
        "channel": "subscriptionResponse",
        "data": {"method": "subscribe", "subscription": {"type": "trades", "coin": "BTC"}},
    }
    assert replay["channel"] == "trades"
    assert len(replay["data"]) == 30
    times = [row["time"] for row in replay["data"]]
    assert times == sorted(times)
    assert times[-1] < SMALL.start_ns // 1_000_000
    assert list(replay["data"][0]) == ["coin", "side", "px", "sz", "time", "hash", "tid", "users"]


async def test_book_ack_is_normalised_and_a_book_follows() -> None:
    async with waiting_venue() as venue, client(venue) as socket:
        await subscribe(socket, "l2Book", "SOL")
        ack, book = await answer(socket), await answer(socket)
    assert ack["data"]["subscription"] == {
        "type": "l2Book",
        "coin": "SOL",
        "nSigFigs": None,
        "mantissa": None,
    }
    bids, asks = ([float(level["px"]) for level in side] for side in book["data"]["levels"])
    assert len(bids) == len(asks) == 20
    assert bids == sorted(set(bids), reverse=True)
    assert asks == sorted(set(asks))
    assert bids[0] < asks[0]


async def test_fast_book_has_five_levels_and_says_so() -> None:
    async with waiting_venue() as venue, client(venue) as socket:
        await subscribe(socket, "l2Book", "SOL", fast=True)
        await answer(socket)
        book = (await answer(socket))["data"]
    assert book["fast"] is True
    assert [len(side) for side in book["levels"]] == [5, 5]


async def test_coarse_book_keeps_to_its_significant_figures() -> None:
    async with waiting_venue() as venue, client(venue) as socket:
        await subscribe(socket, "l2Book", "BTC", nSigFigs=3)
        await answer(socket)
        book = (await answer(socket))["data"]
    prices = [float(level["px"]) for side in book["levels"] for level in side]
    assert len(prices) == 40
    assert all(price % 1_000 == 0 for price in prices)


async def test_pong_has_no_data() -> None:
    async with waiting_venue() as venue, client(venue) as socket:
        await ask(socket, {"method": "ping"})
        assert await answer(socket) == {"channel": "pong"}


def request(channel: str, coin: str, method: str = "subscribe", **more: Any) -> dict[str, Any]:
    return {"method": method, "subscription": {"type": channel, "coin": coin, **more}}


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("{not json", "Error parsing JSON into valid websocket request: {not json"),
        ({"method": "shout"}, 'Error parsing JSON into valid websocket request: {"method": "shout"}'),
        (request("weather", "BTC"), "Error parsing JSON into valid websocket request: "),
        (request("trades", "btc"), 'Invalid subscription {"type":"trades","coin":"btc"}'),
        (
            request("candle", "BTC", interval="7m"),
            'Invalid subscription {"type":"candle","coin":"BTC","interval":"7m"}',
        ),
        (request("l2Book", "BTC", nSigFigs=9), 'Invalid subscription {"type":"l2Book",'),
        (
            request("trades", "BTC", "unsubscribe"),
            'Already unsubscribed: {"type":"trades","coin":"BTC"}',
        ),
    ],
)
async def test_wrong_requests_get_the_venues_own_sentence(message: Any, sentence: str) -> None:
    async with waiting_venue() as venue, client(venue) as socket:
        await ask(socket, message)
        got = await answer(socket)
        await ask(socket, {"method": "ping"})
        assert (await answer(socket))["channel"] == "pong", "the connection survives"
    assert got["channel"] == "error"
    assert got["data"].startswith(sentence)


async def test_second_subscribe_is_refused_and_unsubscribe_ends_the_stream() -> None:
    async with waiting_venue() as venue, client(venue) as socket:
        await subscribe(socket, "bbo", "BTC")
        await answer(socket)
        assert (await answer(socket))["channel"] == "bbo", "the standing quote comes at once"
        await subscribe(socket, "bbo", "BTC")
        assert (await answer(socket))["data"] == 'Already subscribed: {"type":"bbo","coin":"BTC"}'
        await ask(socket, request("bbo", "BTC", "unsubscribe"))
        assert (await answer(socket))["data"]["method"] == "unsubscribe"
        await subscribe(socket, "bbo", "BTC")
        assert (await answer(socket))["data"]["method"] == "subscribe"


async def test_delisted_coin_has_an_empty_touch_and_null_context() -> None:
    async with waiting_venue() as venue, client(venue) as socket:
        await subscribe(socket, "bbo", "MATIC")
        await answer(socket)
        assert (await answer(socket))["data"]["bbo"] == [None, None]
        await subscribe(socket, "activeAssetCtx", "MATIC")
        await answer(socket)
        assert (await answer(socket))["data"]["ctx"]["midPx"] is None


# POST /info.


async def test_info_answers_what_a_recorder_asks() -> None:
    async with waiting_venue() as venue:
        meta = await info(venue, type="meta")
        assert meta["universe"][0] == {
            "szDecimals": 5, "name": "BTC", "maxLeverage": 40, "marginTableId": 40,
        }  # fmt: skip
        assert [row.get("isDelisted") for row in meta["universe"]] == [None, None, True]
        both = await info(venue, type="metaAndAssetCtxs")
        assert both[0] == meta
        assert [ctx["midPx"] is None for ctx in both[1]] == [False, False, True]
        assert set(await info(venue, type="allMids")) == {"BTC", "SOL"}
        assert await info(venue, type="exchangeStatus") == {
            "time": SMALL.start_ns // 1_000_000, "specialStatuses": None,
        }  # fmt: skip
        book = await info(venue, type="l2Book", coin="BTC")
        assert [len(side) for side in book["levels"]] == [20, 20]
        assert await info(venue, type="l2Book", coin="NOPE") is None


async def test_recent_trades_are_ten_and_newest_first() -> None:
    async with waiting_venue() as venue, client(venue) as socket:
        await subscribe(socket, "trades", "BTC")
        await answer(socket)
        replay = (await answer(socket))["data"]
        recent = await info(venue, type="recentTrades", coin="BTC")
    assert recent == replay[:-11:-1]


async def test_funding_history_pages_by_500_and_takes_both_ends() -> None:
    async with waiting_venue() as venue:
        first = await info(venue, type="fundingHistory", coin="BTC", startTime=0)
        assert len(first) == 500
        rest = await info(venue, type="fundingHistory", coin="BTC", startTime=first[-1]["time"])
        assert rest[0] == first[-1]
        assert len(first) + len(rest) - 1 == 720
        bounded = await info(
            venue, type="fundingHistory", coin="BTC", startTime=first[3]["time"], endTime=first[5]["time"]
        )
        assert bounded == first[3:6]


@pytest.mark.parametrize(
    "body",
    [
        b"{nope",
        b"[]",
        b'{"type":"weather"}',
        b'{"type":"l2Book"}',
        b'{"type":"candleSnapshot","req":{"coin":"BTC","interval":"7m","startTime":0}}',
    ],
)
async def test_unreadable_info_requests_get_422(body: bytes) -> None:
    async with waiting_venue() as venue, httpx.AsyncClient() as http:
        got = await http.post(venue.info_url, content=body)
    assert got.status_code == 422
    assert got.text == "Failed to deserialize the JSON body into the target type"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
kinds = st.sampled_from(
    ["meta", "l2Book", "recentTrades", "candleSnapshot", "fundingHistory", "candle", "trades"]
)
known_fields = st.fixed_dictionaries(
    {},
    optional={
        "type": kinds | json_values,
        "coin": st.just("BTC") | json_values,
        "nSigFigs": json_values,
        "mantissa": json_values,
        "interval": st.just("1m") | json_values,
        "startTime": json_values,
        "endTime": json_values,
    },
)


@lru_cache(maxsize=1)
def warm_board() -> MarketState:
    source = market(span_s=1.0)
    board = MarketState(source)
    for block in source.blocks():
        board.observe(block)
    return board


@given(known_fields | json_values, known_fields | json_values)
@settings(max_examples=examples(150), deadline=None)
def test_no_request_can_break_the_venue(body: Any, inner: Any) -> None:
    """Any request is answered or refused."""
    board = warm_board()
    wrapped = body | {"req": inner} if isinstance(body, dict) else body
    with contextlib.suppress(RequestRefused):
        json.loads(InfoEndpoint(board, VenueWide(board)).info(json.dumps(wrapped).encode()))
    with contextlib.suppress(RequestRefused):
        asked = parse_request(json.dumps({"method": "subscribe", "subscription": body}), {"BTC"}).subscription
        assert asked is not None
        assert json.loads(asked.echo())["coin"] == "BTC"
        board.snapshot(asked)
