"""Live terminal view of recorders."""

from __future__ import annotations

import asyncio
import io

import pytest
from rich.console import Console

from ingest.recorder.heartbeat import Heartbeat, write_heartbeat
from ingest.recorder.status import InstrumentStatus
from serving.monitoring.live_view import live_view, render, render_all, watch_home
from storage.clock import NS
from storage.settings import Settings
from storage.settings.services import AlertSettings
from tests.serving.monitoring.recorder_statuses import BTC, NOW_NS, beat, poorly_watched, vitals


def text_of(held: Heartbeat, *, width: int = 120, rows: int = 20) -> str:
    console = Console(file=io.StringIO(), width=width, record=True, color_system=None)
    console.print(render(held, NOW_NS, AlertSettings(), rows=rows, width=width))
    return console.export_text()


def line_with(text: str, start: str) -> str:
    (line,) = [line for line in text.splitlines() if line.lstrip("│ ").startswith(start)]
    return line.strip("│ ")


def test_healthy_recorder_shows_all_well() -> None:
    text = text_of(beat())
    assert "recording for 3 h 0 min" in text
    assert "8,123,456 frames" in text
    assert line_with(text, "BTC").split()[:2] == ["BTC", "0.1"]
    assert "812" in line_with(text, "BTC")
    assert line_with(text, "bbo").endswith("655 ms")
    assert line_with(text, "sockets").endswith("3 of 3 open, 24 subscriptions")
    assert line_with(text, "disk").endswith("full in 41 days")
    assert line_with(text, "clock").endswith("ok, -3 ms against ntp, +12 ms against venue")
    assert "all well" in text


def test_issues_are_shown_first() -> None:
    signs = beat(clock_verdict="off", disk_days_left=2.0, instruments=poorly_watched(), clock_steps=1)
    text = text_of(signs)
    assert "all well" not in text
    assert "disk  2.0 days until the disk is full" in text
    assert "1 of 3 instruments watched too little: hyperliquid|perp|ETH 93%" in text
    assert line_with(text, "clock    off").endswith("set once")


def test_the_newest_bars_are_never_cut_off() -> None:
    """However narrow the terminal, the strip ends with the last bar."""
    for width, bars in ((160, 30), (120, 30), (110, 30), (100, 12), (80, 12)):
        text = text_of(beat(instruments=poorly_watched()), width=width)
        assert "█" * (bars - 2) + "XX" in line_with(text, "ETH"), width
        assert all(len(line) <= width for line in text.splitlines())


def test_last_gap_is_shown_with_its_cause_and_whether_it_is_open() -> None:
    text = text_of(beat(instruments=poorly_watched()), width=140)
    assert "23:50:00 for 18 s, connection lost" in line_with(text, "BTC")
    assert "23:58:25 until now, silent for 30 s" in line_with(text, "ETH")
    assert "never" in line_with(text, "xyz:AAPL")


def test_share_below_1_is_never_rounded_up_to_100_percent() -> None:
    text = text_of(beat(instruments={BTC: InstrumentStatus(observed_share=0.99999)}))
    assert "99.9 %" in line_with(text, "BTC")


def test_instruments_with_the_lowest_coverage_are_shown() -> None:
    many = {f"hyperliquid|perp|C{n:03}": InstrumentStatus(observed_share=1.0) for n in range(200)}
    many["hyperliquid|perp|Z"] = InstrumentStatus(observed_share=0.97)
    text = text_of(beat(instruments=many), rows=5)
    assert line_with(text, "Z")
    assert "and 196 more with at least this coverage" in text
    assert len(text.splitlines()) < 35


def test_kind_and_venue_are_shown_where_several_are_recorded() -> None:
    both = {BTC: InstrumentStatus(), "gaiaex|perp|BTC": InstrumentStatus()}
    text = text_of(beat(instruments=both))
    assert line_with(text, "BTC perp hyperliquid")
    assert line_with(text, "BTC perp gaiaex")


def test_instrument_name_is_not_parsed_as_markup() -> None:
    odd = {"hyperliquid|perp|[red]x": InstrumentStatus()}
    assert "[red]x" in text_of(beat(instruments=odd))


@pytest.mark.parametrize("state", ["starting", "ending", "ended", "failed"])
def test_every_state_is_named(state: str) -> None:
    assert f"{state} for" in text_of(beat(state=state, error="disk full"))


def test_empty_home_shows_the_command_to_run(settings: Settings) -> None:
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(render_all([], NOW_NS, settings.alert, console))
    assert "tickwalk record" in console.export_text()


def test_two_shards_fit_one_terminal(settings: Settings) -> None:
    console = Console(file=io.StringIO(), width=120, height=60, record=True)
    many = {f"hyperliquid|perp|C{n:03}": InstrumentStatus() for n in range(200)}
    beats = [beat(shard=shard, recording=f"r{shard[0]}", instruments=many) for shard in ("1/2", "2/2")]
    console.print(render_all(beats, NOW_NS, settings.alert, console))
    text = console.export_text()
    assert "shard 1/2" in text
    assert "shard 2/2" in text
    assert len(text.splitlines()) <= 60


async def test_watch_follows_the_heartbeat(settings: Settings) -> None:
    """Until it is told to stop; the last picture stays."""
    write_heartbeat(settings, vitals())
    console, stop = Console(file=io.StringIO(), width=120, height=50, record=True), asyncio.Event()
    watching = asyncio.create_task(watch_home(settings, console, stop))
    asyncio.get_running_loop().call_soon(stop.set)
    async with asyncio.timeout(5):
        await watching
    assert "8,123,456 frames" in console.export_text()


def test_recorder_draws_its_own_status(settings: Settings) -> None:
    console = Console(file=io.StringIO(), width=120, height=50, record=True)
    with live_view(settings.alert, console) as draw:
        draw(vitals(frames=1))
        draw(vitals(frames=2, now_ns=NOW_NS + NS))
    assert "2 frames" in console.export_text()
