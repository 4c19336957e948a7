"""Does the simulated venue speak the protocol, over a real socket to a real client?"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
import subprocess
import sys
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ingest.venues.answers import Answers
from ingest.venues.board import Board
from ingest.venues.market import Market
from ingest.venues.simulated import SimulatedVenue
from ingest.venues.subscriptions import Refused, parse_request
from storage.clock import NS, ManualTime
from storage.errors import SettingsError, VenueError
from tests.ingest.wire import SMALL, answer, ask, client, follow, key, listen, market, subscribe

EVERYTHING = [
    (channel, coin) for coin in ("BTC", "SOL") for channel in ("trades", "bbo", "l2Book", "activeAssetCtx")
]


def waiting_venue(**more: Any) -> SimulatedVenue:
    """Return a venue whose time stands still."""
    return SimulatedVenue(market(), wait_for_subscriptions=99, **more)


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
    assert clock == SMALL.start_ns + round((SMALL.span_s or 0) * NS) + Market.tail_ns
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


async def test_a_client_that_leaves_and_comes_back_goes_on_where_it_was() -> None:
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


async def test_connection_that_is_sent_nothing_is_dropped() -> None:
    time = ManualTime(SMALL.start_ns)
    venue = SimulatedVenue(market(), clock="real", time_source=time, idle_close_s=0.05)
    async with venue, client(venue) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is None, "no close frame: 1006"


# POST /info.


async def info(venue: SimulatedVenue, **request: Any) -> Any:
    async with httpx.AsyncClient() as http:
        got = await http.post(venue.info_url, json=request)
    assert got.status_code == 200
    assert got.headers["content-type"].startswith("application/json")
    return got.json()


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
def warm_board() -> Board:
    source = market(span_s=1.0)
    board = Board(source)
    for block in source.blocks():
        board.observe(block)
    return board


@given(known_fields | json_values, known_fields | json_values)
@settings(max_examples=150, deadline=None)
def test_no_request_can_break_the_venue(body: Any, inner: Any) -> None:
    """Whatever a client writes, it is answered or refused."""
    board = warm_board()
    wrapped = body | {"req": inner} if isinstance(body, dict) else body
    with contextlib.suppress(Refused):
        json.loads(Answers(board).info(json.dumps(wrapped).encode()))
    with contextlib.suppress(Refused):
        asked = parse_request(json.dumps({"method": "subscribe", "subscription": body}), {"BTC"}).subscription
        assert asked is not None
        assert json.loads(asked.echo())["coin"] == "BTC"
        board.snapshot(asked)


# Starting and stopping.


async def test_port_in_use_is_said_plainly() -> None:
    async with waiting_venue() as venue:
        port = int(venue.ws_url.rsplit(":", 1)[1].split("/")[0])
        with pytest.raises(VenueError, match=f"cannot listen on 127.0.0.1:{port}"):
            async with SimulatedVenue(market(), port=port):
                pass


async def test_impossible_replay_is_refused() -> None:
    with pytest.raises(SettingsError, match="replayed 31"):
        SimulatedVenue(market(), replayed=31)


async def test_leaving_the_venue_leaves_no_task_behind() -> None:
    before = asyncio.all_tasks()
    async with SimulatedVenue(market(), wait_for_subscriptions=2) as venue, client(venue) as socket:
        await subscribe(socket, "trades", "BTC")
        await answer(socket)
    left = {task for task in asyncio.all_tasks() - before if "venue" in task.get_name()}
    assert not left


def test_serving_says_where_and_ends_on_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "serving.cli", "--home", str(tmp_path), "serve-venue", "--port", "0"]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=root
    ) as process:
        try:
            assert process.stdout is not None
            said = list(itertools.takewhile(lambda line: "Ctrl-C" not in line, process.stdout))
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0
    told = {words[0]: words[1] for line in said if (words := line.split())[0].count(".") == 1}
    assert {key: url.split("/", 3)[3] for key, url in told.items()} == {
        "record.ws_url": "ws",
        "record.info_url": "info",
        "record.explorer_url": "explorer",
        "gaiaex.ws_url": "gaia/ws/market",
        "gaiaex.rest_url": "gaia/v1/trade",
    }
