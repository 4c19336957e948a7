"""Test rig: a recorder against a misbehaving venue, over real sockets and in virtual time.

`taped` lets the venue's own clock frames carry the time: every run is the same, and as fast as it can be read.
`live` is for what needs timers (pings, watchdogs, questions): recorder and venue share a clock that moves a fifth
of a second with each turn of the loop, so that a busy machine slows the market down and makes no silence in it.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from ingest.recorder.drivers import RealTimeDriver
from ingest.recorder.recorder import Recorder, RecordingResult
from ingest.simulator.faults.faults import Fault
from ingest.simulator.market.capture import read_frame
from ingest.simulator.market.source import MarketSource
from ingest.simulator.venue import SimulatedVenue
from ingest.simulator.wire.encoder import Block, Frame
from storage.clock import MS_NS, NS, ManualTime
from storage.contracts.tables import CONTRACTS
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.drills.homes import filled_tables
from tests.drills.running import commit_by_the_clock
from tests.ingest.simulator.clients import BY_NAME, SMALL, Rerun, market
from tests.patience import HANG_S

START_NS = SMALL.start_ns
BTC, SOL = "hyperliquid|perp|BTC", "hyperliquid|perp|SOL"
BOTH = ("BTC", "SOL")
TEN_SECONDS: dict[str, Any] = {"widths": ("10s",), "grace_ms": 500}
USUAL = ("trades", "bars", "coverage", "quarantine")
_STEP_NS = NS // 5
_TURN_S = 0.005


@dataclass
class Taken:
    """Result of a recording: its tables, and what the venue counted as sent."""

    venue: SimulatedVenue
    settings: Settings
    done: RecordingResult | None = None
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def of(self, table: str, instrument: str = "", **equal: Any) -> list[dict[str, Any]]:
        """Return rows of a table, of one instrument if it is named, whose columns have the values given."""
        return [
            row
            for row in self.tables[table]
            if (not instrument or row["instrument"] == instrument)
            and all(row[name] == value for name, value in equal.items())
        ]

    def bars(self, instrument: str, from_s: float = 0.0, to_s: float = 1e9) -> list[dict[str, Any]]:
        """Return the last revisions of an instrument's bars that open within a stretch of the tape."""
        return [row for row in self.of("bars_latest", instrument) if from_s <= since_s(row["ts_open"]) < to_s]

    def gaps(self, instrument: str, channel: str = "trades") -> list[dict[str, Any]]:
        """Return the last revision of each hole of a channel of an instrument."""
        rows = self.of("coverage", instrument, channel=channel, kind="gap")
        return list({(row["connection"], row["ts_from"]): row for row in rows}.values())

    @property
    def reasons(self) -> list[str]:
        """Why things were refused."""
        return [row["reason"] for row in self.tables["quarantine"]]

    def is_each_print_stored_once(self) -> bool:
        """Return whether the table of trades holds every print that the venue sent, and each once.

        What it answered to a question about recent trades it may have sent to nobody, for all that it counts.
        """
        rows = self.tables["trades"]
        keys = {(row["instrument"], row["ts_event"], row["tid"]) for row in rows}
        more = len(rows) - sum(self.venue.stats.distinct.values())
        return len(rows) == len(keys) and 0 <= more <= len(self.of("trades", origin="recent"))

    def read(self, lake: Lake, *more: str) -> None:
        """Read the tables that most tests look at, and those named; a query takes a tenth of a second."""
        filled = filled_tables(lake)
        for name in (*USUAL, *more):
            order = ", ".join(CONTRACTS[name].key)
            is_read = name in filled
            self.tables[name] = (
                lake.query(f"SELECT * FROM {name} ORDER BY {order}").to_pylist() if is_read else []
            )
        latest = {(row["instrument"], row["width"], row["ts_open"]): row for row in self.tables["bars"]}
        self.tables["bars_latest"] = list(latest.values())


def since_s(moment: datetime) -> float:
    """Return seconds from the start of the capture."""
    return round(moment.timestamp() - START_NS / NS, 6)


def statuses(bars: Iterable[dict[str, Any]]) -> list[str]:
    return [row["status"] for row in bars]


def configured(settings: Settings, venue: SimulatedVenue, **changes: Any) -> Settings:
    """Return settings for a venue; `record`, `gaiaex` and `bars` replace fields of those sections."""
    record: dict[str, Any] = {
        "coins": BOTH,
        "channels": ("trades", "bbo"),
        "ws_url": venue.ws_url,
        "info_url": venue.info_url,
        "explorer_url": "",
        "ntp_server": "",
        "commit_s": 2.0,  # of the loop
        # What is allowed a minute is allowed a minute of the loop, which is many of the market's.
        "rest_weight_per_minute": 100_000,
        "handshakes_per_minute": 6_000,
        "twins": 1,
        "backoff_first_s": 0.01,
        "backoff_max_s": 0.05,
    }
    gaiaex: dict[str, Any] = {
        "ws_url": venue.gaia_ws_url,
        "rest_url": venue.gaia_rest_url,
        "handshakes_per_s": 50.0,
    }
    return dataclasses.replace(
        settings,
        record=dataclasses.replace(settings.record, **(record | changes.get("record", {}))),
        gaiaex=dataclasses.replace(settings.gaiaex, **(gaiaex | changes.get("gaiaex", {}))),
        bars=dataclasses.replace(settings.bars, **(TEN_SECONDS | changes.get("bars", {}))),
        metrics=dataclasses.replace(settings.metrics, port=0),
    )


async def taped(
    settings: Settings,
    *faults: Fault,
    source: MarketSource | None = None,
    streams: int = 4,
    tables: tuple[str, ...] = (),
    venue: dict[str, Any] | None = None,
    **changes: Any,
) -> Taken:
    """Record a whole capture on the venue's own clock.

    Args:
        settings: whose home is written.
        faults: what goes wrong.
        source: the market, or the tape; by default 90 seconds of BTC and SOL.
        streams: how many subscriptions the venue waits for.
        tables: tables to be read beside `USUAL`.
        venue: more arguments of the simulated venue.
        changes: fields of sections of the settings, see `configured`.
    """
    served = SimulatedVenue(
        source or market(), wait_for_subscriptions=streams, faults=faults, **(venue or {})
    )
    async with served:
        changes["record"] = {"clock": "venue"} | changes.get("record", {})
        taken = Taken(served, configured(settings, served, **changes))
        with Lake.open(taken.settings) as lake:
            recorder = Recorder(taken.settings, lake, name="taped", ends_with_venue=True)
            taken.done = await recorder.run(asyncio.Event())
            taken.read(lake, *tables)
    return taken


class LoopTime(ManualTime):
    """A clock that advances with each turn of the event loop, from `run` on."""

    step_ns = _STEP_NS

    def steer(self) -> int:
        """Return 0: it is never off."""
        return 0

    async def run(self) -> None:
        """Move, until cancelled."""
        while True:
            await asyncio.sleep(_TURN_S)
            self.advance_to(self.now_ns() + self.step_ns)


@dataclass
class Live(Taken):
    """A recorder running beside its venue."""

    time: LoopTime = field(default_factory=lambda: LoopTime(START_NS))
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    recorder: Recorder | None = None

    async def until_s(self, seconds: float) -> None:
        """Wait for an instant, in seconds since `START_NS`."""
        await until(lambda: self.time.now_ns() >= START_NS + round(seconds * NS))

    async def heard(self, channel: str, times: int = 1) -> None:
        """Wait until the venue has sent so many messages of a channel."""
        await until(lambda: self.venue.stats.frames[channel] >= times)


@asynccontextmanager
async def live(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    *faults: Fault,
    source: MarketSource | None = None,
    streams: int = 4,
    tables: tuple[str, ...] = (),
    venue: dict[str, Any] | None = None,
    name: str = "live",
    start_s: float = 0.0,
    has_chain: bool = False,
    **changes: Any,
) -> AsyncIterator[Live]:
    """Run a recorder with all its timers; stop it at the end of the block and read the tables.

    The market has no end of its own; for the arguments see `taped`.
    """
    time = LoopTime(START_NS + round(start_s * NS))
    # Recorder and venue read one clock; what is done once a second is done about once a second of that.
    monkeypatch.setattr("ingest.recorder.drivers.SteadyTime", lambda: time)
    monkeypatch.setattr("ingest.feed.connection_pool._CHECK_S", 4 * _TURN_S)
    monkeypatch.setattr("ingest.simulator.server.publisher._LONGEST_NAP_S", _TURN_S)
    # Ten seconds of this market take a quarter of a second, and a commit takes as much processor time.
    monkeypatch.setattr(RealTimeDriver, "bars_published", commit_by_the_clock)
    served = SimulatedVenue(
        source or market(span_s=None, start_ns=time.now_ns()),
        clock="real",
        time_source=time,
        wait_for_subscriptions=streams,
        faults=faults,
        **(venue or {}),
    )
    async with served, asyncio.timeout(HANG_S):
        if has_chain:
            changes["record"] = {"explorer_url": served.explorer_url} | changes.get("record", {})
        run = Live(served, configured(settings, served, **changes), time=time)
        with Lake.open(run.settings) as lake:
            run.recorder = recorder = Recorder(run.settings, lake, name=name)
            recording = asyncio.create_task(recorder.run(run.stop))
            clock: asyncio.Task[None] | None = None
            try:
                asked = ("subscriptionResponse", "error", "orderbook")
                await until(
                    lambda: recording.done() or sum(served.stats.frames[name] for name in asked) >= streams
                )
                # It listens before it has read what earlier recordings left; the market waits for that too.
                await until(lambda: recording.done() or recorder._intake.waiting is None)
                clock = asyncio.create_task(time.run())
                yield run
                clock.cancel()  # the market stands still while the recorder ends
                # Answers to questions go on coming, and are none of what the venue sends by itself.
                await settled(
                    lambda: (sum(served.stats.frames.values()), recorder._intake.pipeline.counts.frames)
                )
                run.stop.set()
                run.done = await recording
            finally:
                for task in (clock, recording):
                    if task is not None:
                        task.cancel()
                await asyncio.gather(*(task for task in (clock, recording) if task), return_exceptions=True)
            run.read(lake, *tables)


async def until(is_so: Callable[[], bool], timeout_s: float = HANG_S) -> None:
    """Poll a condition that has no event, once a turn of the loop."""
    async with asyncio.timeout(timeout_s):
        while not is_so():  # noqa: ASYNC110 - what a simulated venue has done so far has no event
            await asyncio.sleep(_TURN_S)


async def settled(counts: Callable[[], object]) -> None:
    """Wait until what was sent has arrived: nothing more is counted for twenty turns of the loop."""
    seen, turns = counts(), 0
    while turns < 20:
        await asyncio.sleep(_TURN_S)
        turns, seen = (turns + 1, seen) if counts() == seen else (0, counts())


class Spoken(Rerun):
    """A small market that sends extra frames at chosen seconds to the subscribers of a stream."""

    def __init__(self, said: Iterable[tuple[float, str, str]], **changes: Any) -> None:
        """Take (seconds, stream such as `trades:BTC`, text)."""
        super().__init__(market(**changes).spec)
        self._said = sorted(said)

    def blocks(self) -> Iterator[Block]:
        said = list(self._said)
        for block in super().blocks():
            at_s = (block.time_ms - START_NS // MS_NS) / 1_000
            due = [item for item in said if item[0] <= at_s]
            said = said[len(due) :]
            more = [_frame(stream, text) for _, stream, text in due]
            yield dataclasses.replace(block, frames=[*block.frames, *more]) if more else block


def _frame(stream: str, text: str) -> Frame:
    """Return a frame, and count its decodable prints as sent by the venue."""
    channel, _, coin = stream.partition(":")
    return read_frame(text.encode()) or Frame(stream, channel, coin, text)


def ms(seconds: float) -> int:
    """Return an instant of the capture in the venue's notation."""
    return START_NS // MS_NS + round(seconds * 1_000)


__all__ = ["BY_NAME", "market"]
