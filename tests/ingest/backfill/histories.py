"""Synthetic and recorded histories served over a real socket, for tests of backfills."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import duckdb

from ingest.backfill.rest.runner import RestRequest, backfill_over_rest
from ingest.backfill.runner import BackfillResult
from ingest.backfill.source import BackfillRequest
from ingest.simulator.faults.faults import Fault
from ingest.simulator.server.history_endpoint import RecordedCandle, RecordedHistory
from ingest.simulator.venue import SimulatedVenue
from ingest.simulator.wire.encoder import SimulatedFunding
from storage.clock import MS_NS, NS, ManualTime, parse_time_ns, width_ns
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.ingest.feed.listeners import quick
from tests.patience import HANG_S

NOW_NS = parse_time_ns("2025-05-20T00:00:30")
MINUTES = RestRequest("candles")


def candles(
    count: int,
    *,
    until_ns: int = NOW_NS,
    width: str = "1m",
    flat: Sequence[int] = (),
    absent: Sequence[int] = (),
) -> list[RecordedCandle]:
    """Return candles of which the last one is still open; number 0 is the oldest.

    Args:
        count: how many steps.
        until_ns: the present.
        width: theirs.
        flat: those without a trade.
        absent: those that the venue leaves out.
    """
    step_ms = width_ns(width) // MS_NS
    last_ms = until_ns // MS_NS // step_ms * step_ms
    rows = []
    for number in range(count):
        price = 100.0 + number % 7
        rows.append(
            RecordedCandle(
                last_ms - (count - 1 - number) * step_ms,
                price,
                price + (0.0 if number in flat else 1.5),
                price - (0.0 if number in flat else 0.25),
                price + (0.0 if number in flat else 0.5),
                0.0 if number in flat else 1.0 + number % 5,
                0 if number in flat else 1 + number % 3,
            )
        )
    return [row for number, row in enumerate(rows) if number not in absent]


def recorded_candles(file: Path, width: str, *, newest: int) -> dict[tuple[str, str], list[RecordedCandle]]:
    """Return the newest candles of each coin of a recorded file, which counts no trades: 1 where there is volume."""
    found: dict[tuple[str, str], list[RecordedCandle]] = {}
    rows = duckdb.execute(
        """SELECT coin, epoch_ms(t), open, high, low, close, volume, CAST(volume > 0 AS INTEGER) FROM read_parquet(?)
           QUALIFY row_number() OVER (PARTITION BY coin ORDER BY t DESC) <= ? ORDER BY coin, t""",
        [str(file), newest],
    ).fetchall()
    for coin, *values in rows:
        found.setdefault((coin, width), []).append(RecordedCandle(*values))
    return found


def recorded_fundings(
    file: Path, coins: Sequence[str] = (), *, to: str = "2026-01-01"
) -> list[SimulatedFunding]:
    """Return the payments of a recorded file, oldest first; premiums are not in it."""
    rows = duckdb.execute(
        """SELECT coin, epoch_ms(time), funding_rate FROM read_parquet(?)
           WHERE (list_contains(?, coin) OR len(?) = 0) AND time < CAST(? AS TIMESTAMPTZ) ORDER BY time, coin""",
        [str(file), list(coins), list(coins), to],
    ).fetchall()
    return [SimulatedFunding(coin, time_ms, rate, 0.0) for coin, time_ms, rate in rows]


def settings_for(settings: Settings, venue: SimulatedVenue, **record: Any) -> Settings:
    """Return settings for a venue without rate limits."""
    return quick(settings, info_url=venue.info_url, rest_weight_per_minute=1_000_000, **record)


@asynccontextmanager
async def serving(past: RecordedHistory, *faults: Fault) -> AsyncIterator[SimulatedVenue]:
    """Serve a history over a real socket."""
    async with SimulatedVenue(past, faults=faults) as venue:
        yield venue


async def fill_in(
    lake: Lake,
    settings: Settings,
    wanted: RestRequest = MINUTES,
    *,
    coins: Sequence[str] = ("BTC",),
    from_ns: int = NOW_NS - 7_200 * NS,
    to_ns: int = NOW_NS,
    now_ns: int = NOW_NS,
    **more: Any,
) -> BackfillResult:
    """Run a backfill with a clock that stands still."""
    wish = BackfillRequest(from_ns, to_ns, tuple(coins))
    return await backfill_over_rest(wanted, wish, lake, settings, clock=ManualTime(now_ns), **more)


@contextmanager
def served_aside(past: RecordedHistory) -> Iterator[str]:
    """Serve a past from a thread, for a command that has the main one; yield the address of its questions."""
    ready: Future[tuple[str, Callable[[], object]]] = Future()

    async def serve() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        async with SimulatedVenue(past) as venue:
            ready.set_result((venue.info_url, lambda: loop.call_soon_threadsafe(stop.set)))
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    url, end = ready.result(timeout=HANG_S)
    try:
        yield url
    finally:
        end()
        thread.join(30.0)
