"""WebSocket client that delivers messages as they are parsed, without the library's receive queue.

`websockets` puts every message into a queue that `recv` reads from, which costs a coroutine switch and a queue
operation each. Here a whole message is delivered at the moment it was parsed, which costs two thirds (5.9 against 8.7
us a frame of 350 bytes, measured 2026-11 in one run). Fragments, and messages that arrive before there is a consumer,
go through the library's queue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from websockets.asyncio.client import ClientConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import Event

_WHOLE: Final = (Opcode.TEXT, Opcode.BINARY)
_DATA: Final = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)


class DirectConnection(ClientConnection):
    """A connection that calls `deliver` with each message, in order of arrival.

    Its owner awaits `deliver_all`, which drains the library's queue and returns when the connection closes.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        """Start as the library's own connection, without a consumer."""
        super().__init__(*args, **more)
        self.deliver: Callable[[bytes], None] | None = None
        self._queued = 0

    def process_event(self, event: Event) -> None:
        """Deliver a whole message, unless an earlier one is still queued."""
        if isinstance(event, Frame) and event.fin:
            if self.deliver is not None and not self._queued and event.opcode in _WHOLE:
                self.deliver(bytes(event.data))
                return
            if event.opcode in _DATA:
                self._queued += 1
        super().process_event(event)

    async def deliver_all(self, deliver: Callable[[bytes], None]) -> None:
        """Deliver queued messages, then new ones, until the connection closes.

        Raises:
            ConnectionClosed: it ended.
        """
        self.deliver = deliver
        while True:
            body = await self.recv(decode=False)
            self._queued -= 1
            self.deliver(body)
