"""A recorder beside its venue, over real sockets and on the real clock."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final
from unittest.mock import patch

from ingest.recorder.drivers import RealTimeDriver
from ingest.recorder.recorder import Recorder, RecordingResult
from ingest.recorder.status import RecorderStatus
from ingest.simulator.market.spec import MarketSpec
from ingest.simulator.market.synthetic import SyntheticMarket
from ingest.simulator.venue import SimulatedVenue
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.drills.venue_process import addresses
from tests.ingest.simulator.clients import BY_NAME
from tests.patience import HANG_S

COINS: Final = ("BTC", "SOL")

QUICK: Final[dict[str, Any]] = {
    "coins": COINS,
    "channels": ("trades", "bbo", "l2BookFast", "activeAssetCtx"),
    "commit_s": 2.0,
    "ntp_server": "",
    "backoff_first_s": 0.05,
    "backoff_max_s": 0.05,
    "handshakes_per_minute": 600,
    "messages_per_s": 500,
}


def quick(settings: Settings, port: int, **changes: Any) -> Settings:
    """Return settings of a home for a venue on a port, with which a test need not be patient.

    Args:
        settings: whose home.
        port: the venue's, or that of a proxy before it.
        changes: of single sections, as `record={"twins": 1}`.
    """
    sections: dict[str, dict[str, Any]] = {
        "record": dict(QUICK),
        "bars": {"widths": ("1s",), "grace_ms": 1500},
    }
    for key, value in addresses(port).items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    for section, values in changes.items():
        sections.setdefault(section, {}).update(values)
    made = {name: dataclasses.replace(getattr(settings, name), **values) for name, values in sections.items()}
    return dataclasses.replace(settings, **made)


def live_market(*, activity: float = 20.0, coins: tuple[str, ...] = COINS, **more: Any) -> SyntheticMarket:
    """Return a market of these coins that begins now and goes on for ever."""
    return SyntheticMarket(
        MarketSpec(
            start_ns=time.time_ns(),
            span_s=None,
            activity=activity,
            coins=tuple(BY_NAME[name] for name in coins),
            **more,
        )
    )


def port_of(venue: SimulatedVenue) -> int:
    """Return where a venue listens."""
    return int(venue.info_url.rsplit(":", 1)[1].partition("/")[0])


def commit_by_the_clock(driver: RealTimeDriver, new_bars: asyncio.Event) -> None:
    """Leave bars that were published to the next commit, as `RealTimeDriver.bars_published` does not."""


class Running:
    """A recorder at work."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.recorder: Recorder
        self.recording: RecordingResult | None = None
        """What it came to, once it has ended."""
        self.seen: list[RecorderStatus] = []
        self._stop = asyncio.Event()
        self._news = asyncio.Event()

    @property
    def vitals(self) -> RecorderStatus:
        """The newest vital signs."""
        return self.seen[-1]

    async def until(self, is_so: Callable[[RecorderStatus], bool], *, timeout_s: float = HANG_S) -> float:
        """Wait until vital signs, of which there is a new picture each second, are so; return how many s it took."""
        began_s = time.monotonic()
        async with asyncio.timeout(timeout_s):
            while not (self.seen and is_so(self.vitals)):
                self._news.clear()
                await self._news.wait()
        return time.monotonic() - began_s

    def note(self, vitals: RecorderStatus) -> None:
        """Take vital signs."""
        self.seen.append(vitals)
        self._news.set()

    async def run(self, **more: Any) -> None:
        """Record until `end`."""
        with Lake.open(self.settings) as lake:
            self.recorder = Recorder(self.settings, lake, on_vitals=self.note, **more)
            self.recording = await self.recorder.run(self._stop)

    def end(self) -> None:
        """Stop as Ctrl-C would."""
        self._stop.set()


@asynccontextmanager
async def running(settings: Settings, **more: Any) -> AsyncIterator[Running]:
    """Run a recorder for the time of a block; it is stopped in order at its end, and its failure is raised there."""
    held = Running(settings)
    # Bars of a second would be committed each second, and a commit takes a quarter of a second of processor time.
    with patch.object(RealTimeDriver, "bars_published", commit_by_the_clock):
        task = asyncio.create_task(held.run(**more))
        watch = asyncio.create_task(held.until(lambda vitals: vitals.trades > 0))
        try:
            await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await watch
                yield held
        finally:
            watch.cancel()
            held.end()
            async with asyncio.timeout(HANG_S):
                await task


def whole(vitals: RecorderStatus, bars: int) -> bool:
    """Say whether each instrument's last bars were watched throughout."""
    return bool(vitals.instruments) and all(
        len(item.statuses) >= bars and "blind" not in item.statuses[-bars:]
        for item in vitals.instruments.values()
    )
