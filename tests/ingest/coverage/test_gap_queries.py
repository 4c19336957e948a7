"""Gap queries: which gaps are listed, and what counts as their repair."""

from __future__ import annotations

from typing import Any

from ingest.coverage.gap_queries import list_gaps
from storage.contracts.tables import COVERAGE
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.storage.rows import BTC

S_US = 1_000_000


def span(from_s: int, to_s: int, **changes: Any) -> dict[str, Any]:
    """Return a row of `coverage` (default: a gap of a recorder)."""
    row = {
        "journal": "live",
        "connection": -1,
        "channel": "trades",
        "instrument": BTC,
        "ts_from": from_s * S_US,
        "ts_to": to_s * S_US,
        "kind": "gap",
        "cause": "recorder down",
        "evidence": "inferred",
        "bridged": False,
        "revision": 0,
        "ts_knowable_ns": to_s * 10**9,
    }
    return row | changes


def archived(from_s: int, to_s: int, **changes: Any) -> dict[str, Any]:
    """Return the coverage that an archive's object proves."""
    proof = {
        "journal": f"s3://archive/{from_s}",
        "kind": "watched",
        "cause": "",
        "evidence": "venue_statement",
    }
    return span(from_s, to_s, **proof | changes)


def counted(from_s: int, to_s: int) -> dict[str, Any]:
    """Return a bar of a gap whose trades were counted by the venue's candle."""
    return span(from_s, to_s, bridged=True, evidence="venue_statement", connection=-2)


def repaired(settings: Settings, *rows: dict[str, Any]) -> list[str]:
    with Lake.open(settings) as lake:
        assert lake.commit({"coverage": COVERAGE.rows(list(rows))}, batch_id="c").refused == 0
        told = list_gaps(lake)
        still = list_gaps(lake, open_only=True)
    assert still.num_rows == sum(text[:3] != "yes" for text in told["repaired"].to_pylist())
    return [str(text) for text in told["repaired"].to_pylist()]


def test_an_archive_that_was_written_throughout_repairs_a_gap(settings: Settings) -> None:
    rows = (span(100, 200), archived(0, 150), archived(150, 3_600), span(5_000, 5_001))
    assert repaired(settings, *rows) == ["yes: venue_statement", "no"]


def test_what_is_told_twice_counts_once(settings: Settings) -> None:
    """An archive and a candle that cover the same half of a gap do not repair all of it."""
    rows = (span(100, 200), archived(0, 150), archived(90, 150, journal="another"), counted(120, 150))
    assert repaired(settings, *rows) == ["in part: venue_statement"]


def test_an_archive_of_another_instrument_or_channel_repairs_nothing(settings: Settings) -> None:
    rows = (span(100, 200), archived(0, 300, instrument=f"{BTC}~2"), archived(0, 300, channel="book"))
    assert repaired(settings, *rows) == ["no"]


def test_candles_that_count_every_bar_of_a_gap_repair_it(settings: Settings) -> None:
    rows = (span(100, 200), counted(60, 120), counted(120, 180), counted(180, 240))
    assert repaired(settings, *rows) == ["yes: venue_statement"]
