"""Messages arrive whole and in order although most bypass the queue, over a real socket."""

from __future__ import annotations

import asyncio
import random

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from ingest.feed.websocket_client import DirectConnection


def frames_of(number: int, draw: random.Random) -> bytes:
    """Return a message on the wire: whole, in fragments with pings between them, or binary."""
    body = b"%d:" % number + bytes(draw.choices(b"abc", k=draw.choice([0, 3, 300, 70_000])))
    kind = draw.choice(["text", "binary", "fragments"])
    if kind != "fragments":
        return serialised(Opcode.TEXT if kind == "text" else Opcode.BINARY, body)
    cuts = sorted(draw.choices(range(len(body) + 1), k=draw.randint(1, 3)))
    parts = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    out = b""
    for at, part in enumerate(parts):
        out += serialised(Opcode.CONT if at else Opcode.TEXT, part, fin=at == len(parts) - 1)
        out += serialised(Opcode.PING, b"x") if draw.random() < 0.5 else b""
    return out


def serialised(opcode: Opcode, body: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, body, fin).serialize(mask=False, extensions=[])


@pytest.mark.parametrize("seed", range(3))
async def test_messages_come_whole_and_in_order_however_they_are_cut(seed: int) -> None:
    count, draw = 300, random.Random(seed)

    async def pour(socket: ServerConnection) -> None:
        # The first ones leave before the client has anyone to take them.
        wire = b"".join(frames_of(number, draw) for number in range(count))
        while wire:
            size = draw.choice([7, 1_000, 200_000])
            socket.transport.write(wire[:size])
            wire = wire[size:]
            if draw.random() < 0.2:
                await asyncio.sleep(0)  # so that the pieces go out one by one
        await socket.close()

    heard: list[int] = []
    async with serve(pour, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(
            f"ws://127.0.0.1:{port}", create_connection=DirectConnection, compression=None, max_size=2**24
        ) as socket:
            assert isinstance(socket, DirectConnection)
            with pytest.raises(ConnectionClosed):
                await socket.deliver_all(lambda body: heard.append(int(body.split(b":")[0])))
    assert heard == list(range(count))
