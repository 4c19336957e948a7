"""Disk usage estimate, compared with the bytes of a real capture."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

from ingest.journal.captures import read_capture
from ingest.journal.format import segments
from ingest.journal.records import RecordKind
from ingest.journal.writer import JournalWriter
from ingest.recorder.disk_estimate import MEASURED, VENUE_WIDE, estimate, rates_of
from storage.clock import MS_NS, NS
from storage.settings import Settings
from tests.conftest import recorded

COINS = ("BTC", "ETH", "SOL")
FACTOR = 2.0
"""An estimate from the figures of one afternoon, or from half an hour, is within this factor of the rest of it."""


def journal_of(frames: Iterator[tuple[int, bytes]], folder: Path) -> tuple[float, float]:
    """Write frames as a live journal with a block each 40 ms; return its bytes and its span in seconds."""
    first_ns = written_ns = recv_ns = 0
    with JournalWriter(folder) as journal:
        for recv_ns, body in frames:
            first_ns = first_ns or recv_ns
            if recv_ns - written_ns > 40 * MS_NS:
                journal._write(sync=False)
                written_ns = recv_ns
            journal.append(recv_ns, RecordKind.FRAME, 0, body)
    return sum(path.stat().st_size for path in segments(folder)), (recv_ns - first_ns) / NS


def tape(since_s: float, until_s: float, *, channels: tuple[str, ...]) -> Iterator[tuple[int, bytes]]:
    """Yield a part of the 4-coin capture, of three coins."""
    marks = [f'"channel":"{name}"'.encode() for name in channels]
    spaced = [mark.replace(b":", b": ") for mark in marks]
    frames = read_capture(recorded("hyperliquid/ws_20250904_4coins.ndjson.gz"))
    first_ns, first = next(frames)
    assert first
    part = takewhile(lambda frame: frame[0] < first_ns + until_s * NS, frames)
    for recv_ns, body in part:
        is_wanted = any(mark in body[:60] for mark in (*marks, *spaced)) and b"WLFI" not in body[:400]
        if recv_ns >= first_ns + since_s * NS and is_wanted:
            yield recv_ns, body


def test_the_default_figures_are_near_a_real_tape(settings: Settings, tmp_path: Path) -> None:
    """Trades and quotes; the slow book of that day came ten times as often as it does today."""
    size_bytes, span_s = journal_of(tape(0, 400, channels=("trades", "bbo")), tmp_path / "made")
    told = estimate(settings, coins=COINS, channels=("trades", "bbo"), free=10**12)
    # Each print is carried by `record.twins` sockets; the capture has it once.
    once = sum(
        line.journal_bytes_per_day / (settings.record.twins if line.channel == "trades" else 1)
        for line in told.lines
    )
    assert once / FACTOR < size_bytes * 86_400 / span_s < once * FACTOR


def test_the_last_recording_tells_more_than_the_defaults(settings: Settings, tmp_path: Path) -> None:
    """The first minutes, as a recording of this home, predict the size of those after them."""
    channels = ("trades", "bbo", "l2Book")
    journal_of(tape(0, 400, channels=channels), settings.journal_dir / "hyperliquid-1")
    size_bytes, span_s = journal_of(tape(400, 800, channels=channels), tmp_path / "made")
    told = estimate(settings, coins=COINS, channels=channels)
    assert {line.source for line in told.lines} == {"recording hyperliquid-1"}
    told_bytes = told.journal_bytes_per_day * span_s / 86_400
    assert told_bytes / 1.5 < size_bytes < told_bytes * 1.5
    mixed = estimate(settings, coins=(*COINS, "HYPE"), channels=("trades", "activeAssetCtx"))
    assert {line.channel: line.source for line in mixed.lines} == {
        "trades": "recording hyperliquid-1, and data of 2025-09-04",
        "activeAssetCtx": "data of 2025-09-04",
    }


def test_the_stated_figures_are_those_of_the_recorded_data() -> None:
    rates, span_s, _ = rates_of(read_capture(recorded("hyperliquid/ws_20250904_4coins.ndjson.gz")))
    assert span_s == pytest.approx(2_088, abs=1)
    for channel in ("trades", "bbo"):
        mean = sum(rates[channel, coin].frames_per_s for coin in COINS) / 3
        size = sum(rates[channel, coin].bytes_per_frame for coin in COINS) / 3
        assert MEASURED[channel].frames_per_s == pytest.approx(mean, rel=0.01)
        assert MEASURED[channel].bytes_per_frame == pytest.approx(size, rel=0.01)
    books = [rates["l2Book", coin].bytes_per_frame for coin in COINS]
    assert MEASURED["l2Book"].bytes_per_frame == pytest.approx(sum(books) / 3, rel=0.01)


def test_the_recorded_frame_of_all_contexts_is_as_long_as_stated() -> None:
    size = recorded("hyperliquid/messages/ws_all_dexs_asset_ctxs.json").stat().st_size
    assert VENUE_WIDE["allDexsAssetCtxs"].bytes_per_frame == pytest.approx(size, rel=0.05)


def test_the_text_sums_up_and_says_for_how_long_the_disk_has_room(settings: Settings) -> None:
    told = estimate(settings, coins=COINS, channels=("trades", "allMids", "novel"), free=10**11)
    text = told.text()
    assert told.days == pytest.approx(10**11 / told.bytes_per_day)
    assert f"room for {told.days:,.0f} days" in text
    assert "not counted, since no rate is known: novel" in text
    assert text.count("data of 2025-09-04") == 2


def test_a_home_that_is_not_made_yet_has_its_disk(settings: Settings) -> None:
    assert not settings.home.exists()
    assert estimate(settings).free_bytes > 0
