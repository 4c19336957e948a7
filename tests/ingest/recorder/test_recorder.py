"""The recorder against a real socket: no row lost, none twice, live equals replay."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import signal
import time
from pathlib import Path

import pytest

from ingest.journal.reader import read_journal
from ingest.journal.records import RecordKind
from ingest.recorder.recorder import Recorder, RecordingResult
from ingest.replay.recovery import recover
from ingest.replay.replay import replay
from ingest.simulator.faults.faults import Disconnect, Duplicate, Fault, Garbage, Reorder, SilentStream
from ingest.simulator.venue import SimulatedVenue
from storage.clock import parse_time_ns
from storage.errors import InstrumentError, VenueError
from storage.lake.lake import Lake
from storage.settings import Settings, load_settings
from tests.drills.command import Command, tickwalk
from tests.drills.homes import filled_tables
from tests.ingest.simulator.clients import market
from tests.storage.rows import UNSTAMPED

COINS = ("BTC", "SOL")
TABLES = ("trades", "quotes", "contexts", "coverage", "bars", "instruments", "quarantine")


async def record(
    settings: Settings, *, faults: list[Fault] | None = None, name: str = "simulated", **spec: object
) -> tuple[RecordingResult, SimulatedVenue]:
    """Record a short simulated market from its first frame to its end."""
    streams = len(COINS) * len(settings.record.channels)
    source = market(**({"span_s": 240.0} | spec))
    async with SimulatedVenue(source, wait_for_subscriptions=streams, faults=faults or []) as venue:
        feed = dataclasses.replace(
            settings.record,
            coins=COINS,
            clock="venue",
            ws_url=venue.ws_url,
            info_url=venue.info_url,
            backoff_first_s=0.01,
        )
        settings = dataclasses.replace(settings, record=feed)
        with Lake.open(settings) as lake:
            return await Recorder(settings, lake, name=name, ends_with_venue=True).run(asyncio.Event()), venue


def tables(settings: Settings, *names: str) -> dict[str, list[dict[str, object]]]:
    """Return the rows of tables (default: all) without their stamps; opening a lake takes half a second."""
    with Lake.open(settings, read_only=True) as lake:
        filled = {"bars_latest", *filled_tables(lake)}
        return {
            name: lake.query(f"SELECT {UNSTAMPED} FROM {name} ORDER BY ALL").to_pylist()
            if name in filled
            else []
            for name in names or TABLES
        }


def rows(settings: Settings, table: str) -> list[dict[str, object]]:
    return tables(settings, table)[table]


def stored(settings: Settings) -> dict[str, int]:
    with Lake.open(settings, read_only=True) as lake:
        found = lake.query(
            "SELECT split_part(instrument, '|', 3) AS coin, count(*) AS n FROM trades GROUP BY ALL"
        )
    return {row["coin"]: row["n"] for row in found.to_pylist()}


FAULTS: dict[str, list[Fault]] = {
    "none": [],
    "disconnect": [Disconnect(at_s=70.0, outage_s=8.0)],
    "long disconnect": [Disconnect(at_s=70.0, outage_s=90.0)],
    "duplicates and disorder": [Duplicate(share=0.3), Reorder(share=0.3, window_s=3.0)],
    "silent coin": [SilentStream(coin="SOL", at_s=50.0, for_s=60.0)],
    "garbage": [
        Garbage(kind=kind, at_s=30.0 + n) for n, kind in enumerate(("truncated", "unknown_channel", "binary"))
    ],
}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS.keys())
async def test_nothing_sent_is_lost_and_live_equals_replay(
    settings: Settings, tmp_path: Path, faults: list[Fault]
) -> None:
    done, venue = await record(settings, faults=faults)
    held = stored(settings)
    assert held == {coin: venue.stats.distinct[coin] for coin in COINS}
    assert done.counts.trades == sum(held.values()) > 50
    other = load_settings(overrides={"home": tmp_path / "other"}, environ={})
    with Lake.open(other) as lake:
        replay(settings.journal_dir / "simulated", other, lake)
    live = tables(settings)
    assert live == tables(other)
    garbage = sum(isinstance(fault, Garbage) for fault in faults)
    assert len(live["quarantine"]) == done.counts.quarantined == garbage


async def test_two_recordings_of_one_seed_are_equal_to_the_bit(settings: Settings, tmp_path: Path) -> None:
    other = load_settings(overrides={"home": tmp_path / "other"}, environ={})
    for home in (settings, other):
        await record(home, faults=[Disconnect(at_s=70.0, outage_s=8.0), Duplicate(share=0.1)])
    assert tables(settings) == tables(other)


async def test_a_long_loss_is_blind_and_a_short_one_is_bridged(settings: Settings) -> None:
    await record(settings, faults=[Disconnect(at_s=70.0, outage_s=90.0)])
    bars = {
        (row["instrument"], row["ts_open"].minute): row  # type: ignore[attr-defined]
        for row in rows(settings, "bars_latest")
    }
    btc = [bars["hyperliquid|perp|BTC", minute] for minute in range(4)]
    assert [row["status"] for row in btc[:3]] == ["printed", "blind", "blind"]
    assert {row["cause"] for row in btc[1:3]} == {"connection lost"}
    assert btc[1]["trades"], "what was printed while we watched is kept"


async def test_an_unknown_coin_is_refused_before_anything_is_written(settings: Settings) -> None:
    async with SimulatedVenue(market()) as venue:
        feed = dataclasses.replace(
            settings.record, coins=("btc",), ws_url=venue.ws_url, info_url=venue.info_url
        )
        settings = dataclasses.replace(settings, record=feed)
        with (
            Lake.open(settings) as lake,
            pytest.raises(InstrumentError, match=r"'btc' is not listed.*did you mean BTC\?"),
        ):
            await Recorder(settings, lake).run(asyncio.Event())
    assert list(settings.journal_dir.iterdir()) == []


async def test_a_venue_that_cannot_be_reached_says_what_to_check(settings: Settings) -> None:
    feed = dataclasses.replace(settings.record, info_url="http://127.0.0.1:9/info", rest_timeout_s=1.0)
    settings = dataclasses.replace(settings, record=feed)
    with (
        Lake.open(settings) as lake,
        pytest.raises(VenueError, match=r"did not answer meta.*record.info_url"),
    ):
        await Recorder(settings, lake).run(asyncio.Event())


async def test_a_second_recording_goes_on_where_the_first_ended(settings: Settings, tmp_path: Path) -> None:
    """The bar cut in two contains both halves, the time between is blind, and a replay of both has the same rows."""
    start = parse_time_ns("2026-01-05T00:00:00Z")
    await record(settings, name="a", span_s=100.0)
    await record(settings, name="b", span_s=200.0, start_ns=start + 330 * 10**9)
    bars = [row for row in rows(settings, "bars_latest") if row["instrument"] == "hyperliquid|perp|BTC"]
    minutes = [row["ts_open"].minute for row in bars]  # type: ignore[attr-defined]
    assert minutes == list(range(minutes[-1] + 1)), "one row a minute, without a hole in the grid"
    assert [row["status"] for row in bars[:6]] == ["printed", *["blind"] * 5]
    assert {row["cause"] for row in bars[2:5]} == {"recorder down"}
    with Lake.open(settings, read_only=True) as lake:
        cut = lake.query(
            """SELECT count(*) AS n FROM trades WHERE instrument = 'hyperliquid|perp|BTC'
               AND ts_event >= '2026-01-05 00:01:00+00' AND ts_event < '2026-01-05 00:02:00+00'"""
        )["n"][0].as_py()
    assert bars[1]["trades"] == cut > 0
    other = load_settings(overrides={"home": tmp_path / "other"}, environ={})
    for _ in range(2):
        with Lake.open(other) as lake:
            for name in ("a", "b"):
                replay(settings.journal_dir / name, other, lake)
        assert tables(settings) == tables(other)


def await_line(command: Command, pattern: str) -> re.Match[str]:
    said = []
    for line in command.stdout:
        said.append(line)
        if match := re.search(pattern, line):
            return match
    raise AssertionError(f"no line matched {pattern!r} in:\n{''.join(said)}")


@pytest.mark.drill
def test_on_the_wall_clock_ctrl_c_seals_and_kill_minus_nine_is_recovered(settings: Settings) -> None:
    """The user's path: two terminals, a signal, and a start after a crash."""
    venue = tickwalk(settings.home, {}, "serve-venue", "--port", "0")
    try:
        ws_url = await_line(venue, r"(ws://\S+)")[1]
        info_url = await_line(venue, r"(http://\S+)")[1]
        values = {"bars.widths": "1s", "bars.grace_ms": 500, "record.commit_s": 1}
        run = ("record", "--coin", "BTC", "--coin", "ETH", "--url", ws_url, "--info-url", info_url)

        crashed = tickwalk(settings.home, values, *run)
        await_line(crashed, "connected")
        folder = next(folder for folder in settings.journal_dir.iterdir())
        wait_for_frames(folder, 100)
        crashed.send_signal(signal.SIGKILL)
        crashed.wait()
        assert not (folder / "sealed").exists()

        second = tickwalk(settings.home, values, *run)
        await_line(second, "recording recovered")  # it records already: frames are journalled meanwhile
        other = next(item for item in settings.journal_dir.iterdir() if item != folder)
        await_line(second, "caught up")
        wait_for_frames(other, 100)
        second.send_signal(signal.SIGINT)
        output = second.communicate()
        assert second.returncode == 0, output
        assert "recorded simulated-" in output
    finally:
        venue.send_signal(signal.SIGINT)
        venue.communicate()
    assert venue.returncode == 0
    assert (folder / "sealed").exists()
    assert (other / "sealed").exists()
    assert list(read_journal(other))[-1].kind is RecordKind.STOPPED
    with Lake.open(settings) as lake:
        assert recover(settings, lake) == []
        journals = lake.query("SELECT DISTINCT journal FROM trades")["journal"].to_pylist()
        bars = lake.query(
            "SELECT count(*) AS n, count(DISTINCT (instrument, ts_open)) AS d FROM bars_latest"
        ).to_pylist()[0]
        span = lake.query(
            "SELECT date_diff('second', min(ts_open), max(ts_open)) + 1 AS s FROM bars_latest GROUP BY instrument"
        )
    assert set(journals) == {folder.name, other.name}
    assert bars["n"] == bars["d"] == sum(span["s"].to_pylist()), "one row an instrument and second"


def wait_for_frames(folder: Path, frames: int) -> None:
    """Block until a recording has this many frames on disk; the test's own timeout is the limit."""
    while sum(1 for _ in read_journal(folder)) < frames:
        time.sleep(0.1)  # another process writes them, which has no event
