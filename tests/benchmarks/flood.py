"""A server that sends a tape as fast as one client reads: handshake by `websockets`, frames as ready-made bytes.

Run as `python -m tests.benchmarks.flood CAPTURE`; it prints its port, then serves one connection after another. After
the client's first message, times in the tape are moved to the present and squeezed into `SPAN_MS`, each `subscribe` is
acknowledged, and the whole tape follows. So a recorder takes what it hears for live.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import sys
import time
from pathlib import Path
from typing import Final

from websockets.asyncio.server import ServerConnection, serve

from ingest.journal.captures import read_capture

SPAN_MS: Final = 1_500
_TIME: Final = re.compile(rb'"time":(\d{13})')
_CHUNK_BYTES: Final = 1 << 18


def frames_of(path: Path, most: int) -> list[bytes]:
    """Return the frames of a capture."""
    return [frame for _, frame in itertools.islice(read_capture(path), most)]


def at_present(frames: list[bytes], now_ms: int) -> list[bytes]:
    """Return the frames with their times squeezed into the `SPAN_MS` before `now_ms`, in the same order."""
    times = [int(found[1]) if (found := _TIME.search(frame)) else 0 for frame in frames]
    first, last = min(filter(None, times)), max(times)
    scale = SPAN_MS / max(last - first, 1)

    def moved(found: re.Match[bytes]) -> bytes:
        return b'"time":%d' % (now_ms - SPAN_MS + int((int(found[1]) - first) * scale))

    return [_TIME.sub(moved, frame) for frame in frames]


def framed(bodies: list[bytes]) -> bytes:
    """Return messages as WebSocket text frames of a server."""
    out = bytearray()
    for body in bodies:
        size = len(body)
        if size < 126:
            out += bytes((0x81, size))
        elif size < 65_536:
            out += bytes((0x81, 126)) + size.to_bytes(2, "big")
        else:
            out += bytes((0x81, 127)) + size.to_bytes(8, "big")
        out += body
    return bytes(out)


async def _serve(path: Path, most: int, subscriptions: int) -> None:
    frames = frames_of(path, most)

    async def flood(socket: ServerConnection) -> None:
        for _ in range(subscriptions):
            asked = json.loads(await socket.recv())
            await socket.send(json.dumps({"channel": "subscriptionResponse", "data": asked}))
        blob = framed(at_present(frames, time.time_ns() // 1_000_000))
        await socket.send('{"channel":"pong"}')  # from here on the clock runs
        for at in range(0, len(blob), _CHUNK_BYTES):
            socket.transport.write(blob[at : at + _CHUNK_BYTES])
            await socket.drain()
        await socket.close()

    async with serve(flood, "127.0.0.1", 0, compression=None, ping_interval=None, max_size=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
