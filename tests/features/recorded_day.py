"""A simulated market with disconnects and late prints: recorded, replayed and built."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from features.build import build_features
from features.feature import FeatureBlock
from features.panel.panel import Panel, load_panel
from ingest.recorder.recorder import Recorder
from ingest.simulator.faults.faults import Disconnect, Duplicate, Fault, Garbage, Reorder, SilentStream
from ingest.simulator.market.spec import MarketSpec
from ingest.simulator.market.synthetic import SyntheticMarket
from ingest.simulator.venue import SimulatedVenue
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.drills.homes import fresh, replay_all

SET: Final = "live"


def faults(span_s: float) -> list[Fault]:
    """Return short and long disconnects, a silent coin, duplicated prints, and prints that arrive after their bar."""
    return [
        Disconnect(at_s=0.55 * span_s, outage_s=12.0),
        Disconnect(at_s=0.70 * span_s, outage_s=420.0),
        Disconnect(at_s=0.93 * span_s, outage_s=3.0),
        SilentStream(coin="DOGE", at_s=0.80 * span_s, for_s=0.01 * span_s),
        Duplicate(share=0.01),
        Reorder(share=0.1, window_s=9.0, at_s=0.6 * span_s, for_s=0.3 * span_s),
        Garbage(kind="truncated", at_s=0.85 * span_s),
    ]


async def record(settings: Settings, span_s: float) -> Settings:
    """Record a simulated market on its own clock, through the real recorder and a real socket."""
    spec = MarketSpec(seed=11, span_s=span_s + 5.0, activity=0.25, context_s=20, book_s=60)
    coins = tuple(coin.name for coin in spec.coins if coin.listed)
    venue = SimulatedVenue(
        SyntheticMarket(spec),
        clock="virtual",
        wait_for_subscriptions=len(coins) * len(settings.record.channels),
        faults=faults(span_s),
    )
    async with venue:
        changed = dataclasses.replace(
            settings.record, coins=coins, ws_url=venue.ws_url, info_url=venue.info_url, clock="venue"
        )
        settings = dataclasses.replace(settings, record=changed)
        settings.ensure_home()
        with Lake.open(settings) as lake:
            await Recorder(settings, lake, name="day", ends_with_venue=True).run(asyncio.Event())
    return settings


@dataclass
class Day:
    """A recorded market, its replay in another home, and the features built from all of it."""

    settings: Settings
    replayed: Settings
    panel: Panel
    block: FeatureBlock

    def load(self, lake: Lake, **asked: Any) -> Panel:
        return load_panel(lake, **({"width": "1m", "grace_ns": self.settings.bars.grace_ns} | asked))


def make_day(folder: Path, hours: float) -> Day:
    settings = asyncio.run(record(fresh(folder / "live"), hours * 3_600.0))
    replayed = replay_all(settings, folder / "replayed")
    with Lake.open(settings, read_only=True) as lake:
        panel = load_panel(lake, width="1m", grace_ns=settings.bars.grace_ns)
    return Day(settings, replayed, panel, build_features(panel, SET))
