"""Connection pool over real sockets: subscriptions, reconnects, outages, changes of plan."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from ingest.feed.connection_pool import ConnectionPool
from ingest.feed.subscription_plan import ConnectionPlan, Subscription, plan
from ingest.simulator.faults.faults import (
    ClaimSubscribed,
    Disconnect,
    Fault,
    LoseAck,
    NoPongs,
    RefuseConnections,
    SilentStream,
)
from ingest.simulator.venue import SimulatedVenue
from storage.errors import JournalError, VenueError
from storage.settings import Settings
from tests.ingest.feed.listeners import Ears, feed, listening, quick
from tests.ingest.simulator.clients import key, market
from tests.patience import HANG_S, assert_within

COINS = ("BTC", "SOL", "MATIC")


def venue(*faults: Fault, **more: Any) -> SimulatedVenue:
    fields: dict[str, Any] = {"speed": 4.0} | more
    return SimulatedVenue(market(span_s=None), clock="real", faults=faults, **fields)


async def test_every_stream_of_the_plan_comes_and_trades_come_twice(settings: Settings) -> None:
    async with venue() as served:
        chosen = quick(settings, ws_url=served.ws_url)
        plans = plan(chosen, COINS)
        async with listening(plans, chosen, first_connection=7) as (sockets, ears):
            await ears.until(
                lambda: sockets.state.subscriptions_missing == 0 and bool(ears.closed_ or ears.frames)
            )
            await ears.until(lambda: {number for number, _ in ears.of("trades", "BTC")} == {7, 8})
            state = sockets.state
            assert (state.connections_open, state.connections_wanted, state.subscriptions_acked) == (2, 2, 15)
    assert sorted(number for number, _ in ears.opened_) == [7, 8]
    assert sorted(number for number, _ in ears.closed_) == [7, 8]
    assert {cause for _, cause in ears.closed_} == {"stopped"}
    about = dict(ears.opened_)[7]
    assert (about["venue"], about["url"]) == ("hyperliquid", served.ws_url)
    assert {about["socket"] for _, about in ears.opened_} == {"hyperliquid-1", "hyperliquid-2"}


async def test_one_of_two_sockets_dies_and_no_print_is_missed(settings: Settings) -> None:
    sent: set[tuple[str, int, int]] = set()
    async with venue(
        speed=20.0, on_print=lambda item: sent.add((item.coin, item.time_ms, item.tid))
    ) as served:
        chosen = quick(settings, ws_url=served.ws_url, backoff_first_s=0.3, backoff_max_s=0.3)
        async with listening(plan(chosen, ("BTC", "SOL")), chosen) as (sockets, ears):
            await ears.until(lambda: sockets.state.subscriptions_missing == 0 and len(ears.of("trades")) > 20)
            served.inject(Disconnect(socket=0))
            await ears.until(lambda: len(ears.opened_) == 3 and sockets.state.subscriptions_missing == 0)
            survivor = ({0, 1} - {number for number, _ in ears.closed_}).pop()
            before = len(ears.of("trades"))
            await ears.until(lambda: len(ears.of("trades")) > before + 20)
            upto = {
                coin: max(time for name, time, _ in keys(ears) if name == coin) for coin in ("BTC", "SOL")
            }
    assert next(cause for number, cause in ears.closed_ if number != survivor) == "connection lost"
    wanted = {item for item in sent if item[1] <= upto[item[0]]}
    assert len(wanted) > 50
    assert wanted <= set(keys(ears))


def keys(ears: Ears) -> list[tuple[str, int, int]]:
    return [key(row) for _, message in ears.of("trades") for row in message["data"]]


async def test_f7_f8_lost_acks_and_already_subscribed_converge(settings: Settings) -> None:
    faults = (
        LoseAck(channel="trades", coin="BTC", times=2),
        LoseAck(channel="bbo", coin="SOL", takes_effect=False),
        ClaimSubscribed(channel="bbo", coin="BTC"),
    )
    async with venue(*faults) as served:
        chosen = quick(settings, ack_timeout_s=0.1)
        wants = [(channel, coin) for coin in ("BTC", "SOL") for channel in ("trades", "bbo")]
        async with listening([feed(served.ws_url, *wants)], chosen) as (sockets, ears):
            await ears.until(lambda: sockets.state.subscriptions_acked == 4)
        assert any(b"Already subscribed" in body for _, body in ears.frames)
        assert len(ears.opened_) == 1


@pytest.mark.parametrize("clean", [True, False])
async def test_f9_any_close_is_followed_by_a_new_connection_that_carries_all(
    settings: Settings, clean: bool
) -> None:
    async with venue() as served:
        plans = [feed(served.ws_url, ("trades", "BTC"), ("bbo", "BTC"))]
        async with listening(plans, quick(settings)) as (sockets, ears):
            await ears.until(lambda: sockets.state.subscriptions_acked == 2)
            served.inject(Disconnect(clean=clean))
            await ears.until(lambda: len(ears.opened_) == 2 and sockets.state.subscriptions_acked == 2)
    assert ears.closed_[0] == (0, "venue closed with 1000" if clean else "connection lost")
    assert {want for number, _, want in ears.answers if number == 1} == {
        Subscription("trades", "BTC"),
        Subscription("bbo", "BTC"),
    }


async def test_f4_a_quiet_socket_is_kept_by_pings(settings: Settings) -> None:
    async with venue(idle_close_s=0.6) as served:
        async with listening([feed(served.ws_url, ("trades", "BTC"))], quick(settings)) as (_, ears):
            served.inject(SilentStream(coin="BTC"))
            await ears.until(lambda: len(ears.of("pong")) >= 5)
        assert len(ears.opened_) == 1


async def test_a_missing_pong_ends_the_connection(settings: Settings) -> None:
    async with venue() as served:
        async with listening([feed(served.ws_url, ("trades", "BTC"))], quick(settings)) as (_, ears):
            await ears.until(lambda: bool(ears.of("pong")))
            served.inject(NoPongs(for_s=1e9))
            await ears.until(lambda: bool(ears.closed_))
        assert ears.closed_[0] == (0, "pong missing for 0.4 s")


async def test_f5_a_socket_that_answers_pings_and_carries_nothing_is_reconnected(settings: Settings) -> None:
    async with venue() as served:
        chosen = quick(settings, socket_silence_s=0.5)
        async with listening([feed(served.ws_url, ("trades", "BTC"), ("bbo", "BTC"))], chosen) as (_, ears):
            await ears.until(lambda: len(ears.of("trades")) > 2)
            served.inject(SilentStream(coin="BTC"))
            await ears.until(lambda: bool(ears.closed_))
            assert ears.of("pong")
        assert ears.closed_[0] == (0, "socket silent for 0.5 s")


async def test_f6_one_silent_coin_is_asked_for_again_then_its_socket_renewed_and_others_flow(
    settings: Settings,
) -> None:
    """Acceptance test 4 of the venue's contract."""
    async with venue(speed=20.0) as served:
        chosen = quick(settings, silence_least_s=0.4, silence_most_s=1.0, slow_book_s=0.25)
        plans = [feed(served.ws_url, ("l2Book", "BTC"), ("l2Book", "SOL"))]
        async with listening(plans, chosen, tells_watchdogs=True) as (sockets, ears):
            await ears.until(
                lambda: len(ears.of("l2Book", "BTC")) >= 3 and len(ears.of("l2Book", "SOL")) >= 3
            )
            assert not ears.closed_
            served.inject(SilentStream(coin="BTC"))
            await ears.until(lambda: (0, "unsubscribe", Subscription("l2Book", "BTC")) in ears.answers)
            await ears.until(lambda: ears.answers.count((0, "subscribe", Subscription("l2Book", "BTC"))) == 2)
            assert not ears.closed_, "asking again comes first"
            await ears.until(lambda: bool(ears.closed_))
            await ears.until(lambda: sockets.state.subscriptions_acked == 2)
        assert ears.closed_[0][1].startswith("l2Book BTC silent for ")
        assert (0, "unsubscribe", Subscription("l2Book", "SOL")) not in ears.answers


async def test_a_change_of_plan_says_the_difference_and_cuts_nothing(settings: Settings) -> None:
    async with venue() as served:
        first = feed(served.ws_url, ("trades", "BTC"), ("bbo", "BTC"))
        then = feed(served.ws_url, ("trades", "BTC"), ("trades", "SOL"))
        more = feed(served.ws_url, ("trades", "MATIC"), name="hyperliquid-2")
        async with listening([first], quick(settings)) as (sockets, ears):
            await ears.until(lambda: sockets.state.subscriptions_acked == 2)
            sockets.apply([then, more])
            await ears.until(lambda: len(ears.answers) == 5)
            sockets.apply([then])
            await ears.until(lambda: bool(ears.closed_))
            assert sockets.state.subscriptions_acked == 2
    assert sorted(ears.answers[2:], key=str) == [
        (0, "subscribe", Subscription("trades", "SOL")),
        (0, "unsubscribe", Subscription("bbo", "BTC")),
        (1, "subscribe", Subscription("trades", "MATIC")),
    ]
    assert ears.closed_ == [(1, "no longer wanted"), (0, "stopped")]


async def test_a_coin_that_the_venue_has_not_is_refused_and_the_rest_goes_on(settings: Settings) -> None:
    async with venue() as served:
        async with listening(
            [feed(served.ws_url, ("trades", "NONE"), ("trades", "BTC"))], quick(settings)
        ) as (
            sockets,
            ears,
        ):
            await ears.until(lambda: bool(ears.of("error")) and sockets.state.subscriptions_acked == 1)
            assert sockets.state.refused == ("trades NONE",)
            await ears.until(lambda: len(ears.of("pong")) >= 3)
        assert len(ears.of("error")) == 1


async def test_the_explorers_blocks_come_on_a_socket_of_their_own(settings: Settings) -> None:
    async with venue() as served:
        chosen = quick(settings, ws_url=served.ws_url, explorer_url=served.explorer_url)
        async with listening(plan(chosen, ("BTC",)), chosen) as (_, ears):
            await ears.until(lambda: sum(body[:1] == b"[" for _, body in ears.frames) > 2)
        (chain,) = [number for number, about in ears.opened_ if about["venue"] == "chain"]
        assert {number for number, body in ears.frames if body[:1] == b"["} == {chain}


async def test_a_venue_that_is_down_is_tried_until_it_is_back(settings: Settings) -> None:
    async with venue() as served:
        port = int(served.ws_url.rsplit(":", 1)[1].split("/")[0])
    async with listening([feed(f"ws://127.0.0.1:{port}/ws", ("trades", "BTC"))], quick(settings)) as (
        sockets,
        ears,
    ):
        assert sockets.state.connections_open == 0
        async with venue(port=port):
            await ears.until(lambda: len(ears.of("trades")) > 0)
    assert ears.opened_[0][0] == 0


async def test_a_refused_handshake_waits(settings: Settings) -> None:
    chosen = quick(settings, refused_wait_s=0.5)
    async with venue(RefuseConnections(status=429, times=1)) as served:
        began_s = asyncio.get_running_loop().time()
        async with listening([feed(served.ws_url, ("trades", "BTC"))], chosen) as (_, ears):
            await ears.until(lambda: bool(ears.opened_))
        assert asyncio.get_running_loop().time() - began_s >= 0.5


async def test_handshakes_stay_within_the_minutes_budget(settings: Settings) -> None:
    """The venue accepts every connection and drops it at once."""
    tries: list[str] = []
    enough = asyncio.Event()

    async def throw_out(socket: ServerConnection) -> None:
        tries.append(str(socket.id))
        if len(tries) >= 5:
            enough.set()
        await socket.close()

    async with serve(throw_out, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        plans = [feed(url, ("trades", coin), name=f"hyperliquid-{coin}") for coin in COINS]
        chosen = quick(settings, handshakes_per_minute=5, backoff_first_s=0.001, backoff_max_s=0.001)
        async with listening(plans, chosen) as (_, ears):
            await asyncio.wait_for(enough.wait(), 10.0)
            await ears.until(lambda: len(ears.closed_) == 5)
            with pytest.raises(TimeoutError):
                await ears.until(lambda: len(tries) > 5, timeout_s=0.5)


async def test_subscriptions_are_sent_at_the_pace_that_the_venue_allows(settings: Settings) -> None:
    times: list[float] = []
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    async def listen(socket: ServerConnection) -> None:
        async for _ in socket:
            times.append(loop.time())
            if len(times) == 45:
                done.set()

    async with serve(listen, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        plans = [
            feed(url, *((channel, f"C{n}") for n in range(15)), name=f"hyperliquid-{channel}")
            for channel in ("trades", "bbo", "l2Book")
        ]
        chosen = quick(settings, messages_per_s=40, ack_timeout_s=60.0, ping_s=60.0)
        async with listening(plans, chosen):
            await asyncio.wait_for(done.wait(), HANG_S)
    assert times[41] - times[0] > 0.8, "40 in a second over all sockets, give or take the way to the server"


@pytest.mark.timed
async def test_stop_ends_at_once_even_while_nobody_can_be_reached(settings: Settings) -> None:
    stop = asyncio.Event()
    ears = Ears()

    async def never_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stop.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(never_answers, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        plans = [
            feed(f"ws://127.0.0.1:{port}", ("trades", "BTC")),
            feed("ws://127.0.0.1:9", ("trades", "BTC"), name="hyperliquid-2"),
        ]
        chosen = quick(settings, connect_timeout_s=3_600.0, backoff_first_s=3_600.0, backoff_max_s=3_600.0)
        async with asyncio.timeout(HANG_S):
            began_s = asyncio.get_running_loop().time()
            await ConnectionPool(plans, ears, chosen).run(stop)
        assert_within(asyncio.get_running_loop().time() - began_s, 2.0)
    assert ears.opened_ == []


async def test_what_the_sink_cannot_take_ends_the_run(settings: Settings) -> None:
    class Full(Ears):
        def frame(self, connection: int, body: bytes) -> None:
            raise JournalError("the disk is full")

    async with venue() as served:
        plans = [feed(served.ws_url, ("trades", coin), name=f"hyperliquid-{coin}") for coin in COINS]
        full = Full()
        async with asyncio.timeout(HANG_S):
            with pytest.raises(JournalError, match="the disk is full"):
                await ConnectionPool(plans, full, quick(settings)).run(asyncio.Event())
    assert {number for number, _ in full.opened_} == {number for number, _ in full.closed_}


async def test_an_address_that_is_none_is_refused(settings: Settings) -> None:
    with pytest.raises(VenueError, match=r"is not a WebSocket address.*set record\.ws_url"):
        await ConnectionPool([feed("https://nowhere", ("trades", "BTC"))], Ears(), quick(settings)).run(
            asyncio.Event()
        )


async def test_held_back_sockets_stop_reading_and_lose_nothing(settings: Settings) -> None:
    """The server's writes block while nobody reads; no pong is missed, and every frame comes in the end."""
    count = 4_000
    sent: list[int] = []

    async def flood(socket: ServerConnection) -> None:
        await socket.recv()
        for number in range(count):
            await socket.send(
                b'{"channel":"trades","data":[%d],"pad":"%s"}' % (number, b"x" * 4_000), text=True
            )
            sent.append(number)
        await socket.wait_closed()

    async with serve(flood, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        # Nobody reads for longer than these, and no busy machine takes as long between two frames.
        chosen = quick(settings, ack_timeout_s=60.0, ping_s=60.0, pong_timeout_s=4.0, socket_silence_s=4.0)
        async with listening([feed(url, ("trades", "BTC"))], chosen) as (sockets, ears):
            await ears.until(lambda: len(ears.frames) > 10)
            sockets.pause()
            with pytest.raises(TimeoutError):
                await ears.until(lambda: len(ears.frames) == count, timeout_s=8.5)
            held = len(ears.frames)
            assert held < count
            assert len(sent) < count, "the venue waits"
            assert not ears.closed_, "what we do not read is not its silence"
            sockets.resume()
            await ears.until(lambda: len(ears.frames) == count)
    numbers = [int(body[28:].split(b"]")[0]) for _, body in ears.frames]
    assert numbers == list(range(count))


async def test_on_the_venues_own_clock_every_run_hears_the_same_and_ends_with_it(settings: Settings) -> None:
    heard = []
    for _ in range(2):
        async with SimulatedVenue(
            market(span_s=20.0), faults=[Disconnect(at_s=8.0)], wait_for_subscriptions=12
        ) as served:
            chosen = quick(settings, ws_url=served.ws_url, clock="venue")
            ears = Ears()
            async with asyncio.timeout(20.0):
                await ConnectionPool(
                    plan(chosen, COINS), ears, chosen, has_timers=False, ends_with_venue=True
                ).run(asyncio.Event())
            heard.append((ears.frames, ears.closed_))
    assert heard[0] == heard[1]
    assert [cause for _, cause in heard[0][1]] == ["connection lost", "venue closed with 1000"]
    assert len(heard[0][0]) > 100


# GaiaEx.


def gaia(url: str, symbol: str) -> ConnectionPlan:
    return ConnectionPlan(f"gaiaex-{symbol}", "gaiaex", f"{url}/{symbol}", symbol=symbol)


async def test_gaiaex_heartbeats_are_answered_with_the_bare_word(settings: Settings) -> None:
    async with (
        venue(heartbeat_s=0.4) as served,
        listening([gaia(served.gaia_ws_url, "BTC")], quick(settings)) as (_, ears),
    ):
        await ears.until(lambda: sum(body == b"pong" for _, body in ears.frames) >= 2)
        await ears.until(lambda: len(ears.of("orderbook")) >= 2)
    assert ears.opened_ == [
        (0, {"url": f"{served.gaia_ws_url}/BTC", "venue": "gaiaex", "socket": "gaiaex-BTC", "symbol": "BTC"})
    ]


async def test_an_unsupported_symbol_is_not_tried_again_until_it_is_listed_anew(
    settings: Settings,
) -> None:
    async with venue() as served:
        none, btc = gaia(served.gaia_ws_url, "NONE"), gaia(served.gaia_ws_url, "BTC")
        hasty = dataclasses.replace(settings.gaiaex, handshakes_per_s=50.0)
        chosen = dataclasses.replace(quick(settings), gaiaex=hasty)
        async with listening([none, btc], chosen) as (sockets, ears):
            await ears.until(lambda: sockets.state.refused == ("NONE",) and len(ears.closed_) == 1)
            sockets.apply([none, btc])
            with pytest.raises(TimeoutError):
                await ears.until(lambda: len(ears.opened_) > 2, timeout_s=0.5)
            sockets.apply([btc])
            sockets.apply([none, btc])
            await ears.until(lambda: len(ears.closed_) == 2)
        assert len(ears.opened_) == 3


async def test_a_gaiaex_socket_without_heartbeats_is_reconnected(settings: Settings) -> None:
    async def silent(socket: ServerConnection) -> None:
        await socket.wait_closed()

    chosen = quick(settings)
    patience = dataclasses.replace(chosen.gaiaex, heartbeat_silence_s=0.3, handshakes_per_s=50.0)
    chosen = dataclasses.replace(chosen, gaiaex=patience)
    async with serve(silent, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with listening([gaia(url, "BTC")], chosen) as (_, ears):
            await ears.until(lambda: len(ears.opened_) == 2)
    assert ears.closed_[0] == (0, "socket silent for 0.3 s")
