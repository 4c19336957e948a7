"""The demo: a simulated market recorded over a real socket, and a real night on it.

Only the market is simulated. Recorder, journal, lake, features, training, gate and report are those of a live venue.
The clock is the venue's, carried in its frames, so every run gives the same bits.
"""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ingest.recorder.recorder import Recorder, RecordingResult
from ingest.recorder.status import RecorderStatus
from ingest.simulator.faults.faults import Disconnect, Duplicate, Fault, Garbage, Reorder, SilentStream
from ingest.simulator.market.spec import MarketSpec
from ingest.simulator.market.synthetic import SyntheticMarket
from ingest.simulator.venue import SimulatedVenue
from serving.nightly import run_night
from storage.clock import iso
from storage.errors import SettingsError
from storage.lake.lake import Lake
from storage.settings import Settings

HOME: Final = "demo"
RECORDING: Final = "simulated-demo"
_MARK: Final = ".tickwalk-demo"


@dataclass(frozen=True, slots=True)
class Demo:
    """Result of the demo."""

    night: str
    verdict: dict[str, Any]
    report: str
    recorded: str


def demo_faults(span_s: float) -> list[Fault]:
    """Return the faults of the demo's market, which give its report gaps and repairs to show."""
    return [
        Disconnect(at_s=0.21 * span_s, outage_s=12.0),
        Disconnect(at_s=0.52 * span_s, outage_s=420.0),
        SilentStream(coin="DOGE", at_s=0.35 * span_s, for_s=0.01 * span_s),
        Duplicate(share=0.01),
        Reorder(share=0.05, window_s=2.0, at_s=0.6 * span_s, for_s=0.05 * span_s),
        Garbage(kind="truncated", at_s=0.7 * span_s),
    ]


def run_demo(
    settings: Settings, *, hours: float, seed: int, on_step: Callable[[str], None] = lambda _: None
) -> Demo:
    """Record a simulated market into a fresh home, and run a night of recipe `demo` on it.

    Args:
        settings: the folder `demo` is made in their home.
        hours: length of the market.
        seed: of the market; that of the training is a setting.
        on_step: called with the progress.

    Raises:
        SettingsError: the folder `demo` exists and was not made by an earlier demo.
    """
    settings = _fresh_home(settings)
    # Calmer than a live market, so that two days take a minute; the last seconds prove the last bar.
    spec = MarketSpec(seed=seed, span_s=hours * 3_600.0 + 5.0, activity=0.25, context_s=20, book_s=60)
    recorded = asyncio.run(record_market(settings, spec, on_step=on_step))
    done = run_night(settings, recipe="demo", on_step=on_step)
    counts = recorded.counts
    summary = (
        f"{counts.frames:,} frames, {counts.trades:,} trades, {recorded.written.get('bars', 0):,} bars; "
        f"{counts.reconnects} reconnects, {counts.seen:,} prints sent again, {counts.quarantined} quarantined"
    )
    return Demo(done.night, done.verdict, done.report, summary)


async def record_market(
    settings: Settings, spec: MarketSpec, *, on_step: Callable[[str], None] = lambda _: None
) -> RecordingResult:
    """Record a simulated market over a socket, with the faults of the demo.

    Args:
        settings: the home.
        spec: of the market; it has an end.
        on_step: called with the progress.
    """
    coins = tuple(coin.name for coin in spec.coins if coin.listed)
    assert spec.span_s is not None
    venue = SimulatedVenue(
        SyntheticMarket(spec),
        clock="virtual",
        wait_for_subscriptions=len(coins) * len(settings.record.channels),
        faults=demo_faults(spec.span_s),
    )

    def show(status: RecorderStatus) -> None:
        on_step(
            f"recording the simulated market: {iso(status.now_ns)}, "
            f"{status.frames:,} frames, {status.trades:,} trades"
        )

    async with venue:
        record = dataclasses.replace(
            settings.record, coins=coins, ws_url=venue.ws_url, info_url=venue.info_url, clock="venue"
        )
        settings = dataclasses.replace(settings, record=record)
        with Lake.open(settings) as lake:
            recorder = Recorder(settings, lake, name=RECORDING, ends_with_venue=True, on_vitals=show)
            return await recorder.run(asyncio.Event())


def _fresh_home(settings: Settings) -> Settings:
    home = settings.home / HOME
    if home.exists():
        if not (home / _MARK).exists():
            raise SettingsError(
                f"{home} holds something that is not an earlier demo",
                hint="choose another --home, or move it away",
            )
        shutil.rmtree(home)
    settings = dataclasses.replace(settings, home=home)
    settings.ensure_home()
    (home / _MARK).touch()
    return settings
