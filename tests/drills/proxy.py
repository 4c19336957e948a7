"""A TCP proxy that makes the network between a recorder and a venue fail.

`FaultProxy` is a TCP proxy whose pipes can be cut, stalled, slowed or left half open. What it does is seen through
real sockets: a reset is an RST, a stall is a receiver that reads nothing, so that the sender's buffers fill.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import struct
from types import TracebackType
from typing import Final, Self

_CHUNK_BYTES: Final = 64 * 1024
_SLICE_S: Final = 0.02  # a slow pipe passes on what these seconds allow, then waits as long


class FaultProxy:
    """Passes bytes between clients and one target; an async context manager.

    Every fault holds for the connections there are and for those to come, until `resume`, except `cut` and
    `half_open`, which strike the connections there are. With `only`, a fault strikes one connection: the one that
    was taken as that many-th, counted from 0.

    Args:
        target_host: where to connect.
        target_port: likewise; refused there means that the client is reset.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self._target = target_host, target_port
        self._pipes: dict[int, _Pipe] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._flow = asyncio.Event()
        self._flow.set()
        self._bytes_per_s = math.inf
        self._refuses = False
        self._server: asyncio.Server | None = None
        self.port = 0
        """Where it listens on 127.0.0.1, once it has started."""
        self.accepted = 0
        """Connections that were passed on so far."""
        self.refused = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_CHUNK_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def connections(self) -> int:
        """Return how many clients are connected."""
        return len(self._pipes)

    @property
    def numbers(self) -> list[int]:
        """Return which connections there are, by the order in which they were taken."""
        return list(self._pipes)

    def cut(self, *, only: int | None = None) -> None:
        """Reset both ends of every connection (RST): whatever was under way is lost."""
        for pipe in self._struck(only):
            pipe.reset()

    def half_open(self, *, only: int | None = None) -> None:
        """Reset the target's ends; the clients' stay open, and nothing more comes or is read."""
        for pipe in self._struck(only):
            pipe.lose_target()

    def stall(self, *, only: int | None = None) -> None:
        """Let no byte through in either direction; sockets stay open, and new ones are taken."""
        if only is None:
            self._flow.clear()
            return
        for pipe in self._struck(only):
            pipe.flow.clear()

    def slow(self, bytes_per_s: float, *, only: int | None = None) -> None:
        """Let so many bytes a second through, in each direction of each connection."""
        if bytes_per_s <= 0:
            raise ValueError(f"bytes_per_s is {bytes_per_s}, but it is above 0; see `stall`")
        if only is None:
            self._bytes_per_s = bytes_per_s
            return
        for pipe in self._struck(only):
            pipe.bytes_per_s = bytes_per_s

    def refuse(self) -> None:
        """Reset new connections as they come."""
        self._refuses = True

    def resume(self) -> None:
        """End `stall`, `slow` and `refuse`; what was held back goes on its way."""
        self._bytes_per_s = math.inf
        self._refuses = False
        self._flow.set()
        for pipe in self._pipes.values():
            pipe.bytes_per_s = math.inf
            pipe.flow.set()

    def _struck(self, only: int | None) -> list[_Pipe]:
        return [pipe for number, pipe in self._pipes.items() if only is None or number == only]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            self.refused += 1
            _reset(writer)
            return
        try:
            target_reader, target_writer = await asyncio.open_connection(*self._target, limit=_CHUNK_BYTES)
        except OSError:
            _reset(writer)
            return
        number, pipe = self.accepted, _Pipe(writer, target_writer)
        self.accepted += 1
        self._pipes[number] = pipe
        try:
            async with asyncio.TaskGroup() as group:
                for source, sink in ((reader, target_writer), (target_reader, writer)):
                    task = group.create_task(self._pass(pipe, source, sink))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
        finally:
            del self._pipes[number]
            for end in (writer, target_writer):
                end.close()

    async def _pass(self, pipe: _Pipe, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Pass bytes on until the source ends; then end the sink, as the source did."""
        try:
            while data := await source.read(_CHUNK_BYTES):
                while data:
                    await self._flow.wait()
                    await pipe.flow.wait()
                    bytes_per_s = min(self._bytes_per_s, pipe.bytes_per_s)
                    part = data[: _slice_bytes(bytes_per_s)]
                    data = data[len(part) :]
                    sink.write(part)
                    await sink.drain()
                    await asyncio.sleep(len(part) / bytes_per_s)
            await pipe.wait_if_half_open()
            if sink.can_write_eof():
                sink.write_eof()
        except ConnectionError:
            await pipe.wait_if_half_open()
            pipe.reset()


def _slice_bytes(bytes_per_s: float) -> int:
    """Return how much may be passed on at once."""
    return int(min(max(bytes_per_s * _SLICE_S, 1), _CHUNK_BYTES))


class _Pipe:
    """The two ends of one connection."""

    def __init__(self, client: asyncio.StreamWriter, target: asyncio.StreamWriter) -> None:
        self._client = client
        self._target = target
        self.flow = asyncio.Event()
        self.flow.set()
        self.bytes_per_s = math.inf
        self._is_half_open = False
        self._ended = asyncio.Event()

    def reset(self) -> None:
        self._ended.set()
        for writer in (self._client, self._target):
            _reset(writer)

    def lose_target(self) -> None:
        self._is_half_open = True
        _reset(self._target)

    async def wait_if_half_open(self) -> None:
        """Where the target is gone and the client is not told, wait until the client's end is reset too."""
        if self._is_half_open:
            await self._ended.wait()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a socket at once with an RST instead of a FIN."""
    held = writer.get_extra_info("socket")
    if held is not None:
        # The socket may be gone already: then there is no one left to be told.
        with contextlib.suppress(OSError):
            held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
