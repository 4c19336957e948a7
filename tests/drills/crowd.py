"""A venue of many instruments at a steady pace, for soaks: cheap to make, so that the recorder is what is measured.

Run as `python -m tests.drills.crowd INSTRUMENTS FRAMES_PER_S`; it prints its port. `/ws` and `/info` speak as much of
Hyperliquid's protocol as a recorder needs; three of four frames are quotes, the others one or two prints. It is
synthetic load and no market.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time
from typing import Final

from aiohttp import web

_STEP_S: Final = 0.02
_RESENT: Final = 30

_BBO: Final = (
    '{"channel":"bbo","data":{"coin":"%s","time":%d,'
    '"bbo":[{"px":"%.2f","sz":"%.3f","n":3},{"px":"%.2f","sz":"1.5","n":2}]}}'
)
_PRINT: Final = (
    '{"coin":"%s","side":"%s","px":"%.2f","sz":"%.4f","time":%d,'
    '"hash":"0x%064x","tid":%d,"users":["0x1","0x2"]}'
)
_TRADES: Final = '{"channel":"trades","data":[%s]}'


class Crowd:
    """All instruments, and who listens."""

    def __init__(self, instruments: int, frames_per_s: float) -> None:
        self.coins = [f"C{number:03d}" for number in range(instruments)]
        self.frames_per_s = frames_per_s
        self.sockets: dict[web.WebSocketResponse, set[str]] = {}
        self.recent: dict[str, list[str]] = {coin: [] for coin in self.coins}
        self._random = random.Random(7)
        self._tids = itertools.count(1)

    async def run(self) -> None:
        """Send at the pace asked for, for ever."""
        due = 0.0
        began = time.monotonic()
        sent = 0
        while True:
            due = (time.monotonic() - began) * self.frames_per_s
            while sent < due:
                coin = self._random.choice(self.coins)
                key, text = self._frame(coin)
                for socket, keys in tuple(self.sockets.items()):
                    if key in keys and not socket.closed:
                        await socket.send_str(text)
                sent += 1
            await asyncio.sleep(_STEP_S)

    def _frame(self, coin: str) -> tuple[str, str]:
        now_ms = time.time_ns() // 1_000_000
        price = 100 + self._random.random()
        if self._random.random() < 0.77:
            return f"bbo:{coin}", _BBO % (coin, now_ms, price, self._random.random() * 9 + 0.1, price + 0.01)
        prints = [self._print(coin, price, now_ms) for _ in range(1 + (self._random.random() < 0.2))]
        self.recent[coin] = (self.recent[coin] + prints)[-_RESENT:]
        return f"trades:{coin}", _TRADES % ",".join(prints)

    def _print(self, coin: str, price: float, now_ms: int) -> str:
        tid = next(self._tids)
        side = "B" if self._random.random() < 0.5 else "A"
        return _PRINT % (coin, side, price, self._random.random() * 3 + 0.001, now_ms, tid, tid)

    async def serve_socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        keys = self.sockets[socket] = set()
        try:
            async for message in socket:
                asked = json.loads(message.data)
                if asked["method"] == "ping":
                    await socket.send_str('{"channel":"pong"}')
                    continue
                what = asked["subscription"]
                await socket.send_str(json.dumps({"channel": "subscriptionResponse", "data": asked}))
                if what["type"] == "trades" and self.recent[what["coin"]]:
                    await socket.send_str(_TRADES % ",".join(self.recent[what["coin"]]))
                keys.add(f"{what['type']}:{what['coin']}")
        finally:
            del self.sockets[socket]
        return socket

    async def serve_info(self, request: web.Request) -> web.Response:
        asked = await request.json()
        if asked["type"] == "meta":
            universe = [{"name": coin, "szDecimals": 3, "maxLeverage": 5} for coin in self.coins]
            return web.json_response({"universe": universe, "marginTables": [], "tickwalkSimulated": True})
        if asked["type"] == "exchangeStatus":
            return web.json_response({"time": time.time_ns() // 1_000_000, "specialStatuses": None})
        return web.json_response([])


async def _serve(instruments: int, frames_per_s: float) -> None:
    crowd = Crowd(instruments, frames_per_s)
    app = web.Application()
    app.router.add_get("/ws", crowd.serve_socket)
    app.router.add_post("/info", crowd.serve_info)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await crowd.run()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
