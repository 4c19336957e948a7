"""The fault proxy on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.simulator.venue import SimulatedVenue
from tests.drills.proxy import FaultProxy
from tests.ingest.simulator.clients import answer, connected, listen, market, subscribe
from tests.plugins.property_tests import examples

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def echo() -> AsyncIterator[tuple[FaultProxy, list[bytes]]]:
    """Yield a proxy before a server that sends back what it gets, and the list of how its connections ended."""
    ends: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
            ends.append(b"eof")
        except ConnectionResetError:
            ends.append(b"reset")
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, FaultProxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
        yield proxy, ends


@asynccontextmanager
async def joined(proxy: FaultProxy) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def say(streams: Streams, data: bytes) -> bytes:
    reader, writer = streams
    writer.write(data)
    return await reader.readexactly(len(data))


async def is_silent(reader: asyncio.StreamReader) -> bool:
    """Return whether nothing comes for a moment: the one thing that only waiting can show."""
    try:
        await asyncio.wait_for(reader.read(1), 0.1)
    except TimeoutError:
        return True
    return False


@given(st.lists(st.binary(min_size=1, max_size=200_000), min_size=1, max_size=4))
@settings(max_examples=examples(15), deadline=None)
def test_what_goes_in_comes_out(parts: list[bytes]) -> None:
    async def run() -> None:
        async with echo() as (proxy, _), joined(proxy) as streams:
            for part in parts:
                assert await say(streams, part) == part

    asyncio.run(run())


async def test_end_of_one_side_is_passed_on() -> None:
    async with echo() as (proxy, ends), joined(proxy) as (reader, writer):
        writer.write(b"last words")
        writer.write_eof()
        assert await reader.read() == b"last words"
    assert ends == [b"eof"]


async def test_cut_resets_both_ends_and_new_connections_pass() -> None:
    async with echo() as (proxy, ends):
        async with joined(proxy) as first:
            assert await say(first, b"hello") == b"hello"
            proxy.cut()
            with pytest.raises(ConnectionResetError):
                await first[0].readexactly(1)
        async with joined(proxy) as second:
            assert await say(second, b"again") == b"again"
        assert proxy.accepted == 2
    assert ends[0] == b"reset"


async def test_stall_holds_bytes_and_resume_lets_them_go() -> None:
    async with echo() as (proxy, _), joined(proxy) as (reader, writer):
        assert await say((reader, writer), b"hello") == b"hello"
        proxy.stall()
        writer.write(b"held")
        assert await is_silent(reader)
        async with joined(proxy) as late:
            late[1].write(b"x")
            assert await is_silent(late[0]), "new connections are taken, and stall too"
        proxy.resume()
        assert await reader.readexactly(4) == b"held"


async def test_stalled_pipe_pushes_back_on_the_sender() -> None:
    """The sender's buffers fill: nothing is swallowed on the way."""
    async with echo() as (proxy, _), joined(proxy) as (reader, writer):
        assert await say((reader, writer), b"hello") == b"hello"
        proxy.stall()
        sent = bytes(64 << 20)
        writer.write(sent)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.2)
        waiting = asyncio.create_task(writer.drain())
        proxy.resume()
        received = 0
        while received < len(sent):
            received += len(await reader.read(1 << 20))
        await waiting
    assert received == len(sent)


async def test_slow_link_takes_its_time() -> None:
    async with echo() as (proxy, _), joined(proxy) as streams:
        loop = asyncio.get_running_loop()
        assert await say(streams, b"hello") == b"hello"
        proxy.slow(100_000)
        began_s = loop.time()
        await say(streams, bytes(30_000))
        assert loop.time() - began_s > 0.25, "30 kB at 100 kB/s"
        proxy.resume()


async def test_half_open_leaves_the_client_in_the_dark() -> None:
    async with echo() as (proxy, ends), joined(proxy) as (reader, writer):
        assert await say((reader, writer), b"hello") == b"hello"
        proxy.half_open()
        writer.write(b"anyone there?")
        assert await is_silent(reader)
        assert not reader.at_eof()
        async with joined(proxy) as later:
            assert await say(later, b"new") == b"new", "it strikes the connections there are"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
    assert ends[0] == b"reset"


async def test_refused_connections_are_reset_until_resume() -> None:
    async with echo() as (proxy, _):
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            async with joined(proxy) as (reader, _writer):
                await reader.readexactly(1)
        assert (proxy.refused, proxy.accepted) == (1, 0)
        proxy.resume()
        async with joined(proxy) as streams:
            assert await say(streams, b"hello") == b"hello"


async def test_target_that_is_gone_resets_the_client() -> None:
    async with echo() as (proxy, _):
        port = proxy.port
        async with FaultProxy("127.0.0.1", port) as outer:
            pass
        assert outer.connections == 0
    async with FaultProxy("127.0.0.1", port) as proxy, joined(proxy) as (reader, _writer):
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)


def test_link_without_speed_is_refused() -> None:
    with pytest.raises(ValueError, match="bytes_per_s is 0"):
        FaultProxy("127.0.0.1", 1).slow(0)


async def test_leaving_ends_what_is_open() -> None:
    async with echo() as (outer, _), FaultProxy("127.0.0.1", outer.port) as proxy, joined(proxy) as streams:
        await say(streams, b"hello")
        proxy.half_open()
        assert (outer.connections, proxy.connections) == (1, 1)
    assert (outer.connections, proxy.connections) == (0, 0)
    assert not [task for task in asyncio.all_tasks() if "FaultProxy" in repr(task)]


async def test_venue_speaks_through_the_proxy_and_a_cut_looks_like_1006() -> None:
    async with SimulatedVenue(market(), wait_for_subscriptions=99) as venue:
        host, port = venue.ws_url.removeprefix("ws://").removesuffix("/ws").split(":")
        async with FaultProxy(host, int(port)) as proxy, connected(f"ws://{host}:{proxy.port}/ws") as socket:
            await subscribe(socket, "trades", "BTC")
            assert (await answer(socket))["channel"] == "subscriptionResponse"
            assert (await answer(socket))["channel"] == "trades"
            proxy.cut()
            assert (await listen(socket)).code is None
