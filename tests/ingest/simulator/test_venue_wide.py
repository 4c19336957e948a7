"""Venue-wide channels of the simulated venue, and instruments of every kind."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import httpx
import pytest

from ingest.simulator.market.spec import WHOLE_VENUE, CoinSpec, MarketSpec
from ingest.simulator.market.synthetic import SyntheticMarket
from ingest.simulator.venue import SimulatedVenue
from ingest.simulator.wire.subscriptions import StreamSubscription
from storage.errors import SettingsError
from tests.ingest.simulator.clients import (
    Heard,
    Rerun,
    answer,
    ask,
    client,
    connected,
    info,
    listen,
    subscribe,
)

# The busy ones are left out: every kind is there, and a market is made faster.
COINS = tuple(coin for coin in WHOLE_VENUE if coin.name not in ("ETH", "SOL", "HYPE", "DOGE", "AVAX"))
WHOLE = MarketSpec(seed=4, span_s=40.0, coins=COINS)


def whole(streams: int = 99, **more: Any) -> SimulatedVenue:
    return SimulatedVenue(Rerun(WHOLE), wait_for_subscriptions=streams, **more)


async def subscribe_wide(socket: Any, channel: str, **more: Any) -> None:
    await ask(socket, {"method": "subscribe", "subscription": {"type": channel, **more}})


async def hear(channel: str, **more: Any) -> Heard:
    async with whole(1) as venue, client(venue) as socket:
        await subscribe_wide(socket, channel, **more)
        return await listen(socket)


# What is listed.


async def test_metas_tell_the_dexes_apart() -> None:
    async with whole() as venue:
        first, xyz = await info(venue, type="meta"), await info(venue, type="meta", dex="xyz")
        dexs, every = await info(venue, type="perpDexs"), await info(venue, type="allPerpMetas")
    assert [row["name"] for row in xyz["universe"]] == ["xyz:AAPL", "xyz:GOLD"]
    assert [row["name"] for row in first["universe"]][-2:] == ["MATIC", "kPEPE"]
    assert dexs[0] is None
    assert [row["name"] for row in dexs[1:]] == ["xyz", "vntl"]
    assert [len(meta["universe"]) for meta in every] == [3, 2, 1]
    assert every[1] == xyz


async def test_unknown_dex_is_refused() -> None:
    async with whole() as venue, httpx.AsyncClient() as http:
        assert (await http.post(venue.info_url, json={"type": "meta", "dex": "nope"})).status_code == 422


async def test_spot_meta_names_pairs_by_index_and_by_name() -> None:
    async with whole() as venue:
        meta, contexts = await info(venue, type="spotMetaAndAssetCtxs")
        assert meta == await info(venue, type="spotMeta")
    pairs = {pair["name"]: pair for pair in meta["universe"]}
    tokens = {token["index"]: token for token in meta["tokens"]}
    assert pairs["PURR/USDC"]["index"] == 0
    assert pairs["@107"]["index"] == 107
    assert tokens[pairs["PURR/USDC"]["tokens"][0]]["name"] == "PURR"
    assert tokens[0]["name"] == "USDC"
    assert {context["coin"] for context in contexts} == set(pairs)


@pytest.mark.parametrize("coin", ["kPEPE", "xyz:AAPL", "PURR/USDC", "@107"])
async def test_instruments_of_every_kind_print_under_their_exact_name(coin: str) -> None:
    async with whole(1) as venue, client(venue) as socket:
        await subscribe(socket, "trades", coin)
        heard = await listen(socket)
    assert {name for name, _, _ in heard.trades()} == {coin}
    assert len(heard.trades()) >= 25


async def test_spot_context_comes_on_a_channel_of_its_own() -> None:
    async with whole(1) as venue, client(venue) as socket:
        await subscribe(socket, "activeAssetCtx", "@107")
        heard = await listen(socket)
    assert heard.of("activeAssetCtx") == []
    assert len(heard.of("activeSpotAssetCtx")) == 5
    context = heard.of("activeSpotAssetCtx")[0]["ctx"]
    assert context["coin"] == "@107"
    assert "funding" not in context
    assert "oraclePx" not in context


# What is told of all at once.


async def test_mids_come_each_second_and_by_dex() -> None:
    first, xyz = await hear("allMids"), await hear("allMids", dex="xyz")
    assert first.of("subscriptionResponse")[0]["subscription"] == {"type": "allMids"}
    mids = first.of("allMids")
    assert 38 <= len(mids) <= 42
    assert {"BTC", "@107", "PURR/USDC", "kPEPE"} <= set(mids[0]["mids"])
    assert not any(":" in coin for coin in mids[0]["mids"])
    assert mids[0]["mids"] != mids[-1]["mids"]
    assert xyz.of("allMids")[0]["dex"] == "xyz"
    assert set(xyz.of("allMids")[0]["mids"]) == {"xyz:AAPL", "xyz:GOLD"}


async def test_contexts_of_all_dexes_lie_by_position() -> None:
    heard = await hear("allDexsAssetCtxs")
    async with whole() as venue:
        metas = await info(venue, type="allPerpMetas")
    rows = heard.of("allDexsAssetCtxs")
    assert len(rows) == 5, "a first one, then one each 10 s"
    for row in rows:
        assert [name for name, _ in row["ctxs"]] == ["", "xyz", "vntl"]
        assert [len(contexts) for _, contexts in row["ctxs"]] == [len(meta["universe"]) for meta in metas]
    delisted = rows[0]["ctxs"][0][1][1]
    assert delisted["midPx"] is None
    assert float(rows[0]["ctxs"][1][1][0]["markPx"]) == pytest.approx(201, rel=0.02)


async def test_contexts_of_one_dex_and_of_spot() -> None:
    xyz, spot = await hear("assetCtxs", dex="xyz"), await hear("spotAssetCtxs")
    assert [len(row["ctxs"]) for row in xyz.of("assetCtxs")] == [2] * 5
    assert xyz.of("assetCtxs")[0]["dex"] == "xyz"
    assert [{context["coin"] for context in row} for row in spot.of("spotAssetCtxs")] == [
        {"PURR/USDC", "@107"}
    ] * 5


def unpack(text: str) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = json.loads(zlib.decompress(base64.b64decode(text), -15))
    return out


async def test_fast_contexts_are_a_snapshot_and_then_changes_that_add_up() -> None:
    async with whole(2) as venue, client(venue) as socket:
        await subscribe_wide(socket, "fastAssetCtxs")
        await subscribe(socket, "bbo", "BTC")
        heard = await listen(socket)
    packed = heard.of("fastAssetCtxs")
    state = unpack(packed[0])
    assert {"BTC", "xyz:AAPL", "@107"} <= set(state)
    assert "MATIC" not in state, "a coin without a book is not told of"
    sizes = []
    for text in packed[1:]:
        changes = unpack(text)
        sizes.append(len(changes))
        assert all(
            state[coin].get(key) != value for coin, part in changes.items() for key, value in part.items()
        )
        for coin, part in changes.items():
            state[coin] |= part
    assert 40 <= len(sizes) <= 80, "up to two a second"
    assert min(sizes) < len(state)
    bid, ask = heard.of("bbo", "BTC")[-1]["bbo"]
    assert float(state["BTC"]["midPx"]) == pytest.approx((float(bid["px"]) + float(ask["px"])) / 2, rel=1e-3)


async def test_explorer_tells_each_block_as_a_bare_list() -> None:
    async with whole(1) as venue, connected(venue.explorer_url) as socket:
        await subscribe_wide(socket, "explorerBlock")
        heard = await listen(socket)
    ack = next(
        message for message in heard.messages if "data" in message and message["channel"] != "tickwalkClock"
    )
    assert ack["data"]["subscription"] == {"type": "explorerBlock"}
    blocks = [row for rows in heard.lists for row in rows]
    assert set(blocks[0]) == {"blockTime", "hash", "height", "numTxs", "proposer"}
    heights = [row["height"] for row in blocks]
    assert heights == list(range(heights[0], heights[0] + len(heights)))
    assert len(heights) > 60
    assert (blocks[-1]["blockTime"] - blocks[1]["blockTime"]) / 1_000 == pytest.approx(40, abs=2)
    assert len({row["hash"] for row in blocks}) == len(blocks)


async def test_explorer_and_api_do_not_serve_each_others_channels() -> None:
    async with whole() as venue:
        for url, asked in ((venue.explorer_url, "allMids"), (venue.ws_url, "explorerBlock")):
            async with connected(url) as socket:
                await subscribe_wide(socket, asked)
                assert (await answer(socket))["channel"] == "error"
                await ask(socket, {"method": "ping"})
                assert (await answer(socket))["channel"] == "pong"


def test_stream_keys_tell_dexes_apart() -> None:
    assert StreamSubscription("allMids", "").key != StreamSubscription("allMids", "", dex="xyz").key


# Outcomes, where they are asked for.


def outcomes() -> tuple[CoinSpec, ...]:
    yes = CoinSpec("#70", 0, 1, 0.4, 3.0, 0.0, 20.0, 20.0, 1.0, 50.0, 0.0)
    no = CoinSpec("#71", 0, 1, 0.6, 3.0, 0.0, 0.0, 0.0, 0.0, 50.0, 0.0)
    return WHOLE_VENUE[0], yes, no


async def test_outcome_prints_show_up_on_both_sides() -> None:
    market = SyntheticMarket(MarketSpec(seed=4, span_s=40.0, coins=outcomes()))
    async with SimulatedVenue(market, wait_for_subscriptions=2) as venue, client(venue) as socket:
        await subscribe(socket, "trades", "#70")
        await subscribe(socket, "trades", "#71")
        heard = await listen(socket)
        assert [row["name"] for row in (await info(venue, type="meta"))["universe"]] == ["BTC"]
        assert set(await info(venue, type="allMids")) == {"BTC"}
    yes, no = (
        {row["tid"]: row for batch in heard.of("trades", coin) for row in batch} for coin in ("#70", "#71")
    )
    assert len(yes) > 10
    assert yes.keys() == no.keys()
    for tid, row in yes.items():
        other = no[tid]
        assert float(row["px"]) + float(other["px"]) == pytest.approx(1.0)
        assert {row["side"], other["side"]} == {"A", "B"}
        assert (row["time"], row["hash"], row["sz"]) == (other["time"], other["hash"], other["sz"])


def test_second_side_needs_the_first() -> None:
    with pytest.raises(SettingsError, match="#70"):
        MarketSpec(coins=outcomes()[2:])


# What a minute of questions weighs.


async def test_requests_beyond_the_weight_limit_get_429_and_a_wait() -> None:
    async with whole(weight_limit=100) as venue, httpx.AsyncClient() as http:
        history = {"type": "fundingHistory", "coin": "BTC", "startTime": 0}
        first = await http.post(venue.info_url, json=history)
        meta = [await http.post(venue.info_url, json={"type": "meta"}) for _ in range(3)]
        light = await http.post(venue.info_url, json={"type": "allMids"})
    assert first.status_code == 200, "20, and 25 for its 500 rows"
    assert [got.status_code for got in meta] == [200, 200, 429]
    assert int(meta[2].headers["retry-after"]) == 60
    assert light.status_code == 200, "what is left is enough for a light one"
