"""Scheduled changes of the simulated market appear consistently in streams, snapshots and `/info`."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.simulator.faults.faults import (
    ChainHalt,
    ClockOff,
    Disconnect,
    EmptySide,
    Fault,
    Halt,
    ListingChange,
    NullBook,
    SlowBook,
)
from ingest.simulator.market.events import shifted
from ingest.simulator.market.spec import WHOLE_VENUE, MarketSpec
from ingest.simulator.venue import SimulatedVenue
from ingest.simulator.wire.encoder import Frame, SimulatedPrint, print_text, trades_text
from storage.clock import NS, ManualTime
from storage.errors import SettingsError
from tests.ingest.simulator.clients import Heard, Rerun, answer, client, connected, info, listen, subscribe

COINS = tuple(coin for coin in WHOLE_VENUE if coin.name in ("BTC", "SOL", "xyz:AAPL", "xyz:GOLD"))
SPEC = MarketSpec(seed=6, span_s=60.0, coins=COINS)
START_MS = SPEC.start_ns // 1_000_000


def changing(*faults: Fault, streams: int = 1, **more: Any) -> SimulatedVenue:
    return SimulatedVenue(Rerun(SPEC), wait_for_subscriptions=streams, faults=faults, **more)


async def hear(*faults: Fault, streams: tuple[tuple[str, str], ...], **more: Any) -> Heard:
    async with changing(*faults, streams=len(streams)) as venue, client(venue) as socket:
        for channel, coin in streams:
            await subscribe(socket, channel, coin, **more)
        return await listen(socket)


def served_s(rows: list[dict[str, Any]]) -> list[float]:
    """Return seconds since the start of what was served, the warm-up left out."""
    return [(row["time"] - START_MS) / 1_000 for row in rows if row["time"] >= START_MS]


# Listings.


async def test_delisted_coin_keeps_its_place_and_ends_its_market() -> None:
    streams = (
        ("trades", "BTC"),
        ("bbo", "BTC"),
        ("l2Book", "BTC"),
        ("activeAssetCtx", "BTC"),
        ("bbo", "SOL"),
    )
    async with changing(
        ListingChange(coin="BTC", what="delisted", at_s=30), streams=5, on_end="hold"
    ) as venue:
        async with client(venue) as socket:
            for channel, coin in streams:
                await subscribe(socket, channel, coin)
            await venue.finished()
            meta = await info(venue, type="meta")
            mids = await info(venue, type="allMids")
            book = await info(venue, type="l2Book", coin="BTC")
        async with client(venue) as socket:
            await subscribe(socket, "bbo", "BTC")
            await answer(socket)
            later = await answer(socket)
    assert [(row["name"], row.get("isDelisted")) for row in meta["universe"]] == [
        ("BTC", True),
        ("SOL", None),
    ]
    assert set(mids) == {"SOL"}
    assert book["levels"] == [[], []]
    assert later["data"]["bbo"] == [None, None]


async def test_delisting_ends_prints_and_tells_the_empty_touch_once() -> None:
    heard = await hear(
        ListingChange(coin="BTC", what="delisted", at_s=30),
        streams=(("trades", "BTC"), ("bbo", "BTC"), ("activeAssetCtx", "BTC"), ("bbo", "SOL")),
    )
    prints = [{"time": time} for _, time, _ in heard.trades("BTC")]
    assert max(served_s(prints)) <= 30
    assert [row["bbo"] for row in heard.of("bbo", "BTC")].count([None, None]) == 1
    assert heard.of("bbo", "BTC")[-1]["bbo"] == [None, None]
    assert max(served_s(heard.of("bbo", "SOL"))) > 50
    contexts = [row["ctx"] for row in heard.of("activeAssetCtx")]
    assert [ctx["midPx"] is None for ctx in contexts] == [False] * 4 + [True] * 3
    assert contexts[-1] == contexts[-2], "and stand still"


async def test_listed_coin_is_unknown_before_and_appended_after() -> None:
    async with changing(ListingChange(coin="xyz:AAPL", what="listed", at_s=30), on_end="hold") as venue:
        before = await info(venue, type="meta", dex="xyz")
        async with client(venue) as socket:
            await subscribe(socket, "trades", "xyz:AAPL")
            assert (await answer(socket))["data"].startswith("Invalid subscription")
            await subscribe(socket, "bbo", "BTC")
            await venue.finished()
        after = await info(venue, type="meta", dex="xyz")
        recent = await info(venue, type="recentTrades", coin="xyz:AAPL")
        _, contexts = await info(venue, type="metaAndAssetCtxs", dex="xyz")
    assert [row["name"] for row in before["universe"]] == ["xyz:GOLD"]
    assert [row["name"] for row in after["universe"]] == ["xyz:GOLD", "xyz:AAPL"]
    assert len(recent) > 0
    assert min(row["time"] for row in recent) >= START_MS + 30_000
    assert len(contexts) == 2


async def test_positions_shift_in_the_stream_when_a_coin_is_listed() -> None:
    change = ListingChange(coin="xyz:AAPL", what="listed", at_s=30)
    async with changing(change) as venue, client(venue) as socket:
        await socket.send('{"method":"subscribe","subscription":{"type":"allDexsAssetCtxs"}}')
        heard = await listen(socket)
    lengths = [len(dict(row["ctxs"])["xyz"]) for row in heard.of("allDexsAssetCtxs")]
    assert lengths == [1] * 4 + [2] * 3


async def test_recycled_coin_has_other_sizes_in_its_old_place() -> None:
    delisted = ListingChange(coin="xyz:AAPL", what="delisted", at_s=10)
    recycled = ListingChange(coin="xyz:AAPL", what="recycled", size_decimals=4, at_s=40)
    async with changing(delisted, recycled, on_end="hold") as venue, client(venue) as socket:
        await subscribe(socket, "bbo", "xyz:AAPL")
        await venue.finished()
        meta = await info(venue, type="meta", dex="xyz")
        await socket.send('{"method":"ping"}')
        times = []
        while (message := await answer(socket))["channel"] != "pong":
            if message["channel"] == "bbo":
                times.append(message["data"])
    assert meta["universe"][0] == {
        "szDecimals": 4, "name": "xyz:AAPL", "maxLeverage": 20, "marginTableId": 20,
        "onlyIsolated": True, "marginMode": "strictIsolated",
    }  # fmt: skip
    assert not [s for s in served_s(times) if 14 < s < 40]
    assert max(served_s(times)) > 40


def test_change_of_an_unknown_coin_is_refused() -> None:
    venue = changing(ListingChange(coin="NOPE", what="delisted"))
    with pytest.raises(SettingsError, match="'NOPE' is to change its listing"):
        venue._market.schedule.advance(0.0)


# The chain and the clock.


async def test_halted_chain_makes_no_block_while_time_goes_on() -> None:
    halt = ChainHalt(at_s=20, for_s=20)
    async with (
        changing(halt, streams=3) as venue,
        client(venue) as socket,
        connected(venue.explorer_url) as explorer,
    ):
        await subscribe(socket, "trades", "BTC")
        await subscribe(socket, "bbo", "BTC")
        await explorer.send('{"method":"subscribe","subscription":{"type":"explorerBlock"}}')
        heard, blocks = await listen(socket), (await listen(explorer)).lists
    silent_s = served_s(heard.of("bbo")) + served_s([{"time": t} for _, t, _ in heard.trades()])
    assert not [s for s in silent_s if 20 <= s < 40]
    assert [s for s in silent_s if s >= 40]
    clocks_s = [(clock - SPEC.start_ns) / NS for clock in heard.of("tickwalkClock")]
    assert len([s for s in clocks_s if 21 < s < 40]) > 20, "the virtual clock ticks"
    heights = [rows[0]["height"] for rows in blocks]
    assert heights == list(range(heights[0], heights[0] + len(heights))), "no height is skipped"
    times_s = [(rows[0]["blockTime"] - START_MS) / 1_000 for rows in blocks]
    assert not [s for s in times_s if 20 <= s < 40]


async def test_exchange_status_stands_still_with_the_chain_and_pongs_flow() -> None:
    time = ManualTime(SPEC.start_ns)
    async with changing(streams=0, clock="real", time_source=time) as venue, client(venue) as socket:
        time.advance_to(SPEC.start_ns + 5 * NS)
        await reach(venue, 4)
        moving = await info(venue, type="exchangeStatus")
        venue.inject(ChainHalt(for_s=30))
        time.advance_to(SPEC.start_ns + 20 * NS)
        await reach(venue, 19)
        standing = await info(venue, type="exchangeStatus")
        await socket.send('{"method":"ping"}')
        assert await answer(socket) == {"channel": "pong"}
    assert moving["time"] == START_MS + 5_000
    assert standing["time"] < START_MS + 6_000


async def reach(venue: SimulatedVenue, second: float) -> None:
    """Wait until a paced venue has come so far; its time is ours to move, its task is not."""
    while venue.now_ns < SPEC.start_ns + round(second * NS):
        await info(venue, type="exchangeStatus")


async def test_clock_that_is_off_shifts_every_stamp_and_no_value() -> None:
    streams = (("trades", "BTC"), ("bbo", "BTC"), ("l2Book", "BTC"))
    true, off = await hear(streams=streams), await hear(ClockOff(by_s=7.0), streams=streams)
    for channel in ("trades", "bbo", "l2Book"):
        assert len(true.of(channel)) == len(off.of(channel))
    live = [key for key in true.trades() if key[1] >= START_MS]
    assert [(coin, time - 7_000, tid) for coin, time, tid in off.trades()[-len(live) :]] == live
    assert [row["time"] - 7_000 for row in off.of("bbo")[1:]] == [row["time"] for row in true.of("bbo")[1:]]
    assert [row["bbo"] for row in off.of("bbo")] == [row["bbo"] for row in true.of("bbo")]
    assert off.of("tickwalkClock") == true.of("tickwalkClock"), "receipts are ours"


@given(st.integers(-(10**9), 10**9), st.lists(st.integers(10**12, 2 * 10**12), min_size=1, max_size=4))
def test_shifting_back_gives_the_frame_back(offset_ms: int, times: list[int]) -> None:
    prints = tuple(
        SimulatedPrint(
            "BTC", t, i, 1.0, 2.0, print_text("BTC", True, "1.0", "2.0", t, "0" * 64, i, "0xa", "0xb")
        )
        for i, t in enumerate(times)
    )
    frame = Frame("trades:BTC", "trades", "BTC", trades_text(prints), prints)
    there = shifted(frame, offset_ms)
    assert [row["time"] for row in json.loads(there.text)["data"]] == [t + offset_ms for t in times]
    assert shifted(there, -offset_ms) == frame


# Books.


async def test_books_can_become_slower() -> None:
    heard = await hear(SlowBook(cadence_s=20, at_s=20), streams=(("l2Book", "BTC"),))
    times = served_s(heard.of("l2Book"))
    assert [round(b - a) for a, b in itertools.pairwise(times[1:])][:3] == [5, 5, 5]
    assert round(times[-1] - times[-2]) == 20


async def test_null_book_is_null_on_socket_and_in_answers() -> None:
    heard = await hear(
        NullBook(coin="BTC", at_s=20, for_s=20), streams=(("l2Book", "BTC"), ("l2Book", "SOL"))
    )
    nulls = [row for row in heard.of("l2Book") if row is None]
    assert len(nulls) == 4
    assert len(heard.of("l2Book", "SOL")) == 13
    async with changing(NullBook(coin="BTC")) as venue:
        assert await info(venue, type="l2Book", coin="BTC") is None
        assert await info(venue, type="l2Book", coin="SOL") is not None


async def test_empty_side_shows_in_touch_book_context_and_mids() -> None:
    empty = EmptySide(coin="BTC", side="ask", at_s=20)
    async with changing(empty, streams=4, on_end="hold") as venue, client(venue) as socket:
        for channel in ("bbo", "l2Book", "activeAssetCtx", "trades"):
            await subscribe(socket, channel, "BTC")
        await venue.finished()
        mids = await info(venue, type="allMids")
        await socket.send('{"method":"ping"}')
        last: dict[str, Any] = {}
        while (message := await answer(socket))["channel"] != "pong":
            last[message["channel"]] = message["data"]
    assert last["bbo"]["bbo"][0] is not None
    assert last["bbo"]["bbo"][1] is None
    assert [len(side) for side in last["l2Book"]["levels"]] == [20, 0]
    context = last["activeAssetCtx"]["ctx"]
    assert (context["midPx"], context["premium"], context["impactPxs"]) == (None, None, None)
    assert float(context["oraclePx"]) > 0
    assert float(mids["BTC"]) == float(last["trades"][-1]["px"]), "the last trade stands in"


async def test_halted_market_is_empty_and_frozen_while_its_sibling_moves() -> None:
    heard = await hear(
        Halt(coin="xyz:AAPL", at_s=20, for_s=30),
        streams=(
            ("trades", "xyz:AAPL"), ("bbo", "xyz:AAPL"), ("l2Book", "xyz:AAPL"), ("activeAssetCtx", "xyz:AAPL"),
            ("activeAssetCtx", "xyz:GOLD"),
        ),
    )  # fmt: skip
    assert not [s for s in served_s([{"time": t} for _, t, _ in heard.trades()]) if 20 <= s < 50]
    assert [row["bbo"] for row in heard.of("bbo")].count([None, None]) == 1
    assert heard.of("bbo")[-1]["bbo"] != [None, None], "it trades again"
    empty = [s for row in heard.of("l2Book") if row["levels"] == [[], []] for s in served_s([row])]
    assert len(empty) == 6
    oracles = [row["ctx"]["oraclePx"] for row in heard.of("activeAssetCtx", "xyz:AAPL")]
    siblings = [row["ctx"]["oraclePx"] for row in heard.of("activeAssetCtx", "xyz:GOLD")]
    assert len(set(oracles[3:6])) == 1
    assert len(set(siblings[3:6])) == 3


async def test_unchanged_market_is_the_same_byte_for_byte() -> None:
    """A change that never happens leaves no trace."""
    streams = (("trades", "BTC"), ("bbo", "SOL"), ("l2Book", "SOL"), ("activeAssetCtx", "BTC"))
    never = ListingChange(coin="BTC", what="delisted", at_s=1e6)
    plain, ordered = await hear(streams=streams), await hear(never, Disconnect(at_s=1e6), streams=streams)
    assert plain.frames == ordered.frames
    assert len(plain.frames) > 150
