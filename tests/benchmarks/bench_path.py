"""Benchmark of the whole path: receive, journal, decode, dedupe, bars, from a loopback socket.

The same frames come from another process; a bare `websockets` loop that only receives them is the measure. Ours are
the recorder's own parts (sockets, intake, journal with its syncs, pipeline); only the lake is left out. Costs are
processor time of all threads of the receiving process, from the first frame to the last row.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from statistics import median
from typing import Final

import websockets
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from ingest.feed.connection_pool import ConnectionPool
from ingest.feed.subscription_plan import ConnectionPlan, Subscription
from ingest.journal.captures import read_capture
from ingest.recorder.frame_sink import FrameSink
from ingest.recorder.steady_clock import SteadyTime
from ingest.venues.hyperliquid.scanner import warm_up
from storage.settings import Settings, load_settings
from tests.benchmarks.harness import Figure, bench
from tests.paths import SHARED

FRAMES: Final = 155_000
ROUNDS: Final = 5
COINS: Final = ("BTC", "ETH")
TAPE: Final = "binance/ws_20240808_btc_eth_as_hyperliquid.ndjson.gz"
_FLUSH_S: Final = 0.02
_SYNC_S: Final = 0.04


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """What one round took: seconds of processor and wall, frames and prints."""

    cpu_s: float
    wall_s: float
    frames: int
    trades: int = 0


@contextlib.contextmanager
def flood(frames: int, subscriptions: int) -> Iterator[str]:
    """Yield the address of a server that sends the tape in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.flood",
        str(SHARED / "data" / TAPE),
        str(frames),
        str(subscriptions),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield f"ws://127.0.0.1:{int(server.stdout.readline())}/ws"
        finally:
            server.terminate()


async def receive_bare(url: str, wanted: list[Subscription]) -> Cost:
    """Receive and throw away."""
    async with connect(url, compression=None, ping_interval=None, max_size=None) as socket:
        for want in wanted:
            await socket.send(json.dumps({"method": "subscribe", "subscription": want.body()}))
        while b'"pong"' not in await socket.recv(decode=False):
            pass
        frames, cpu, wall = 0, time.process_time(), time.perf_counter()
        with contextlib.suppress(ConnectionClosed):
            while True:
                await socket.recv(decode=False)
                frames += 1
        return Cost(time.process_time() - cpu, time.perf_counter() - wall, frames)


class _Sink:
    """The intake; it notes the moment at which the tape begins, and that it has ended."""

    def __init__(self, intake: FrameSink, ended: asyncio.Event) -> None:
        self._intake, self._ended = intake, ended
        self.cpu = self.wall = 0.0
        self.opened = intake.opened
        self.frame = self._until_tape

    def _until_tape(self, connection: int, body: bytes) -> None:
        self._intake.frame(connection, body)
        if b'"pong"' in body:
            self.cpu, self.wall = time.process_time(), time.perf_counter()

    def closed(self, connection: int, cause: str) -> None:
        self._intake.closed(connection, cause)
        self._ended.set()


async def record(url: str, wanted: list[Subscription], settings: Settings) -> Cost:
    """Receive, journal, decode, dedupe and fold into bars."""
    clock, ended = SteadyTime(), asyncio.Event()
    intake = FrameSink(settings, clock)
    intake.begin("bench", {"source": "socket", "coins": COINS})
    intake.start_processing()
    sink = _Sink(intake, ended)
    plan = ConnectionPlan("bench", "hyperliquid", url, tuple(wanted))
    sockets = ConnectionPool([plan], sink, settings, clock=clock)

    async def flush() -> None:
        while not ended.is_set():
            intake.flush()
            await asyncio.sleep(_FLUSH_S)

    async def sync() -> None:
        while not ended.is_set():
            await asyncio.to_thread(intake.journal.sync)
            await asyncio.sleep(_SYNC_S)

    running = [asyncio.create_task(work) for work in (sockets.run(ended), flush(), sync())]
    await ended.wait()
    intake.stop("bench")
    tables = intake.pipeline.drain()
    await asyncio.to_thread(intake.journal.sync)
    cost = Cost(
        time.process_time() - sink.cpu,
        time.perf_counter() - sink.wall,
        intake.pipeline.counts.frames,
        tables["trades"].num_rows,
    )
    await asyncio.gather(*running)
    intake.journal.close()
    return cost


def expected_prints() -> int:
    """Return how many prints the tape holds."""
    frames = itertools.islice(read_capture(SHARED / "data" / TAPE), FRAMES)
    return sum(frame.count(b'"tid"') for _, frame in frames)


@bench
def whole_path() -> Iterator[Figure]:
    """Yield the cost of the whole path against that of receiving alone."""
    warm_up()
    wanted = [Subscription(channel, coin) for channel in ("trades", "bbo") for coin in COINS]
    bare, ours = [], []
    with flood(FRAMES, len(wanted)) as url:
        for turn in range(ROUNDS + 1):
            plain = asyncio.run(receive_bare(url, wanted))
            with tempfile.TemporaryDirectory() as home:
                settings = load_settings(overrides={"home": home, "record.messages_per_s": 1000}, environ={})
                whole = asyncio.run(record(url, wanted, settings))
            if turn:
                bare.append(plain)
                ours.append(whole)
    cost_us = median(cost.cpu_s / cost.frames for cost in ours) * 1e6
    bare_us = median(cost.cpu_s / cost.frames for cost in bare) * 1e6
    rate = median(cost.frames / cost.cpu_s for cost in ours)
    assert {cost.trades for cost in ours} == {expected_prints()}, "every print is a row"
    name = f"websockets {websockets.__version__} receiving alone"
    yield Figure(
        "whole path", round(cost_us, 2), "us of processor a frame", name, round(bare_us / cost_us, 2)
    )
    yield Figure(
        "whole path", round(rate), "frames/s of one core", "80,000 frames/s", round(rate / 80_000, 2)
    )
