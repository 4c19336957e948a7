"""Distribution of subscriptions over sockets: limits, duplicated trades, stable placement, shards."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.feed.subscription_plan import ConnectionPlan, Subscription, duplicated_trades, explorer_url, plan
from ingest.sharding import parse_shard, shard_of
from storage.errors import SettingsError
from storage.settings import Settings
from storage.settings.recording import GaiaexSettings, RecordSettings


def settings(**record: Any) -> Settings:
    fields: dict[str, Any] = {"explorer_url": ""} | record
    return Settings(record=RecordSettings(**fields))


def coins(count: int) -> list[str]:
    return [f"C{number}" for number in range(count)]


def carried(sockets: list[ConnectionPlan]) -> Counter[Subscription]:
    return Counter(want for socket in sockets for want in socket.wanted)


@given(
    count=st.integers(1, 60),
    per=st.integers(20, 80),
    most=st.integers(1, 5),
    twins=st.integers(1, 3),
    channels=st.sets(st.sampled_from(["trades", "bbo", "l2Book", "candle", "allMids"]), min_size=1),
)
def test_each_subscription_has_a_socket_and_no_socket_too_many(
    count: int, per: int, most: int, twins: int, channels: set[str]
) -> None:
    chosen = settings(
        channels=tuple(sorted(channels)), subscriptions_per_socket=per, sockets_most=most, twins=twins
    )
    wide = len(channels & {"allMids"})
    total = wide + count * (len(channels) - wide)
    if total > per * most:
        with pytest.raises(SettingsError, match=f"are {total} subscriptions"):
            plan(chosen, coins(count))
        return
    sockets = plan(chosen, coins(count))
    assert len(sockets) <= most
    assert all(len(socket.wanted) <= per for socket in sockets)
    assert all(len(set(socket.wanted)) == len(socket.wanted) for socket in sockets)
    times = carried(sockets)
    assert len(times) == total
    assert all(number == 1 for want, number in times.items() if want.channel != "trades")
    assert all(1 <= number <= twins for number in times.values())


def test_trades_of_every_coin_are_on_two_sockets_and_a_coin_stays_together() -> None:
    sockets = plan(settings(), ["BTC", "ETH", "SOL"])
    assert [socket.name for socket in sockets] == ["hyperliquid-1", "hyperliquid-2"]
    assert duplicated_trades(sockets) == ["BTC", "ETH", "SOL"]
    for coin in ("BTC", "ETH", "SOL"):
        homes = [socket.name for socket in sockets if Subscription("bbo", coin) in socket.wanted]
        assert homes == [socket.name for socket in sockets if Subscription("l2Book", coin) in socket.wanted]
    assert {want.channel for want in sockets[0].wanted[:2]} == {"trades"}, "the most urgent come first"


def test_without_room_for_all_the_first_coins_get_duplicated_trades() -> None:
    sockets = plan(settings(subscriptions_per_socket=45, sockets_most=2), coins(20))
    assert sum(len(socket.wanted) for socket in sockets) == 90
    assert duplicated_trades(sockets) == coins(10)


def test_two_hundred_coins_fit_into_the_defaults() -> None:
    sockets = plan(settings(), coins(200))
    assert len(sockets) == 4
    assert sum(carried(sockets).values()) == 800


@given(
    st.lists(st.integers(0, 40), unique=True, min_size=1),
    st.lists(st.integers(0, 40), unique=True, min_size=1),
)
def test_wanted_subscriptions_keep_their_socket(first: list[int], then: list[int]) -> None:
    chosen = settings(subscriptions_per_socket=60)
    before = plan(chosen, [f"C{number}" for number in first])
    after = plan(chosen, [f"C{number}" for number in then], before=before)
    assert set(carried(after)) == {
        Subscription(channel, f"C{number}") for number in then for channel in chosen.record.channels
    }
    old = {socket.name: set(socket.wanted) for socket in before}
    new = {socket.name: set(socket.wanted) for socket in after}
    for name, wants in old.items():
        for want in wants:
            if int(want.coin[1:]) in then and want.channel != "trades":
                assert want in new[name]
    for number in set(first) & set(then):
        trades = Subscription("trades", f"C{number}")
        was, is_now = ({name for name, wants in sockets.items() if trades in wants} for sockets in (old, new))
        assert was & is_now, "at least one of the twins goes on without a gap"
    assert plan(chosen, [f"C{number}" for number in then], before=after) == after


def test_the_venues_own_clock_has_one_socket_in_the_order_of_coins() -> None:
    sockets = plan(
        settings(clock="venue", explorer_url="auto", ws_url="wss://api.hyperliquid.xyz/ws"), ["BTC", "ETH"]
    )
    assert len(sockets) == 1
    assert sockets[0].wanted[:5] == (
        *(Subscription(channel, "BTC") for channel in ("trades", "bbo", "l2Book", "activeAssetCtx")),
        Subscription("trades", "ETH"),
    )


def test_a_plan_that_does_not_fit_names_the_numbers_and_the_setting() -> None:
    with pytest.raises(
        SettingsError, match=r"250 coins on 4 channels are 1000 subscriptions; 4 sockets of 200 carry 800"
    ) as refused:
        plan(settings(), coins(250))
    assert "record.shard = 1/2" in refused.value.hint
    with pytest.raises(SettingsError, match="allows an address 10"):
        plan(settings(sockets_most=11), coins(1))


def test_shards_share_out_all_coins_and_channels_of_the_venue_go_to_the_first() -> None:
    parts = [
        plan(settings(shard=f"{part}/3", channels=("trades", "allMids")), coins(50)) for part in (1, 2, 3)
    ]
    seen = [want for sockets in parts for want in carried(sockets)]
    assert sorted(seen, key=str) == sorted(
        [Subscription("allMids"), *(Subscription("trades", coin) for coin in coins(50))], key=str
    )
    assert Subscription("allMids") in carried(parts[0])


@given(st.text(), st.integers(1, 9))
def test_a_coin_is_always_in_the_same_shard(coin: str, shards: int) -> None:
    assert 1 <= shard_of(coin, shards) <= shards
    assert shard_of(coin, shards) == shard_of(coin, shards)


@pytest.mark.parametrize("text", ["1", "0/3", "4/3", "1/0", "a/b", " "])
def test_an_invalid_shard_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"record\.shard is"):
        parse_shard(text)


@pytest.mark.parametrize(
    ("want", "body"),
    [
        (Subscription("trades", "BTC"), {"type": "trades", "coin": "BTC"}),
        (Subscription("activeAssetCtx", "@107"), {"type": "activeAssetCtx", "coin": "@107"}),
        (Subscription("candle", "kPEPE"), {"type": "candle", "coin": "kPEPE", "interval": "1m"}),
        (Subscription("l2BookFast", "xyz:AAPL"), {"type": "l2Book", "coin": "xyz:AAPL", "fast": True}),
        (Subscription("allMids"), {"type": "allMids"}),
        (Subscription("explorerBlock"), {"type": "explorerBlock"}),
    ],
)
def test_subscription_messages_have_the_venues_fields(want: Subscription, body: dict[str, Any]) -> None:
    assert want.body() == body


def test_the_explorer_belongs_to_the_network_of_the_feed() -> None:
    testnet = "wss://api.hyperliquid-testnet.xyz/ws"
    assert explorer_url(Settings()) == "wss://rpc.hyperliquid.xyz/ws"
    assert (
        explorer_url(settings(explorer_url="auto", ws_url=testnet)) == "wss://rpc.hyperliquid-testnet.xyz/ws"
    )
    assert explorer_url(settings(explorer_url="auto", ws_url="ws://127.0.0.1:9/ws")) == ""
    sockets = plan(Settings(), ["BTC"])
    assert sockets[-1].venue == "chain"
    assert sockets[-1].wanted == (Subscription("explorerBlock"),)


def test_gaiaex_has_a_socket_a_symbol() -> None:
    sockets = plan(settings(), ["BTC"], ["BTC", "xyz:AAPL", "PURR/USDC"])[2:]
    assert [(socket.symbol, socket.url.rsplit("/market", 1)[1], socket.wanted) for socket in sockets] == [
        ("BTC", "/BTC", ()),
        ("xyz:AAPL", "/xyz:AAPL", ()),
        ("PURR/USDC", "/spot/PURR%2FUSDC", ()),
    ]
    few = Settings(record=RecordSettings(explorer_url=""), gaiaex=GaiaexSettings(max_sockets=2))
    with pytest.raises(
        SettingsError, match=r"3 GaiaEx symbols need as many sockets; gaiaex\.max_sockets is 2"
    ):
        plan(few, ["BTC"], ["A", "B", "C"])
