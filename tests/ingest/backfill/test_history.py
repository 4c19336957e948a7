"""Stamps of history commands beside recordings, and their repetition by a rebuild."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingest.backfill.candle_files import import_candles
from ingest.backfill.certify import certify
from ingest.journal.format import hold_recording
from ingest.journal.recording import SEALED
from ingest.pipeline.journal_registration import register_recordings
from ingest.replay.rebuild import find_sources, rebuild
from ingest.replay.recovery import recover
from ingest.replay.replay import replay
from storage.clock import DAY_NS, MS_NS, NS, ManualTime
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.drills.homes import fresh
from tests.ingest.pipeline.scripts import START_NS, Script
from tests.storage.rows import LAG_NS

HOUR_NS = 3_600 * NS
NOW_NS = START_NS + 20 * DAY_NS
# A script's recording begins at `START_NS` and lasts four minutes.
_SPAN_S = 240.0

_STAMPS = "SELECT instrument, epoch_us(ts_close) * 1000 AS close_ns, ts_knowable_ns AS ns FROM bars WHERE width = '1h'"


def script() -> Script:
    recorded = Script().open(0.0).alive(1.0, _SPAN_S)
    for at_s in range(5, round(_SPAN_S), 10):
        recorded.print(float(at_s))
    return recorded


def candles(
    folder: Path, *, days: tuple[int, int] = (-2, 3), coins: tuple[str, ...] = ("BTC", "ETH")
) -> Path:
    """Write hourly candles of whole days around the recording."""
    hours = range(24 * days[0], 24 * days[1])
    rows = {
        "coin": [coin for coin in coins for _ in hours],
        "t": [(START_NS + hour * HOUR_NS) // MS_NS for _ in coins for hour in hours],
        **dict.fromkeys(("open", "high", "low", "close", "volume"), [100.0] * len(hours) * len(coins)),
    }
    file = folder / f"{'-'.join(coins)}{days[0]}{days[1]}.parquet"
    pq.write_table(pa.table(rows), file)
    return file


def stamps(lake: Lake) -> dict[str, dict[int, int]]:
    """Return the stamp of each hour by coin; hours count from the recording's start."""
    found: dict[str, dict[int, int]] = {}
    for row in lake.query(_STAMPS).to_pylist():
        found.setdefault(row["instrument"][-3:], {})[(row["close_ns"] - START_NS) // HOUR_NS] = row["ns"]
    return found


def expected(hour: int, first: int, last: int, now_ns: int = NOW_NS) -> int:
    return now_ns if first <= hour <= last else START_NS + hour * HOUR_NS + LAG_NS


@pytest.fixture
def lake_at(settings: Settings) -> Any:
    """Open the lake of the home at a time."""
    return lambda now_ns=NOW_NS: Lake.open(settings, clock=ManualTime(now_ns))


def test_history_is_known_from_its_arrival_on_where_it_was_recorded(
    settings: Settings, tmp_path: Path, lake_at: Any
) -> None:
    with lake_at() as lake:
        replay(script().write(settings.journal_dir / "monday"), settings, lake)
        import_candles(candles(tmp_path), settings, lake)
        found = stamps(lake)
        (inputs,) = lake.query("SELECT inputs FROM batches WHERE batch_id LIKE 'candles:%'")[
            "inputs"
        ].to_pylist()
    # The recording lists BTC for four minutes, so the 24 closes after its start are near enough to it.
    assert found["BTC"] == {hour: expected(hour, 1, 24) for hour in range(-47, 73)}
    assert found["ETH"] == {hour: expected(hour, 1, 0) for hour in range(-47, 73)}
    assert json.loads(inputs)["history"]["listed"].keys() == {"hyperliquid|perp|BTC"}


@pytest.mark.parametrize("state", ["killed", "running", "sealed before it was registered"])
def test_a_recording_counts_that_the_lake_does_not_know(
    settings: Settings, tmp_path: Path, lake_at: Any, state: str
) -> None:
    """A header in the journal is enough; a recording that runs lists until now."""
    folder = script().write(settings.journal_dir / "monday")
    if state.startswith("sealed"):
        (folder / SEALED).touch()
    with lake_at() as lake:
        if state == "running":
            with hold_recording(folder):
                import_candles(candles(tmp_path), settings, lake)
        else:
            import_candles(candles(tmp_path), settings, lake)
        found, known = (
            stamps(lake),
            lake.query("SELECT * FROM recordings ORDER BY ts_knowable_ns").to_pylist(),
        )
        assert register_recordings(settings, lake) == (1 if state == "running" else 0)
    last = 72 if state == "running" else 24
    assert found["BTC"] == {hour: expected(hour, 1, last) for hour in range(-47, 73)}
    assert [row["ts_last_ns"] is None for row in known] == ([True] if state == "running" else [True, False])


def test_a_recording_of_another_home_counts_in_a_shared_catalog(
    settings: Settings, tmp_path: Path, lake_at: Any
) -> None:
    other = fresh(tmp_path / "other")
    shared = {"catalog": f"sqlite:{tmp_path / 'catalog.sqlite'}", "data": str(tmp_path / "data")}
    here, there = (
        dataclasses.replace(home, lake=dataclasses.replace(home.lake, **shared)) for home in (settings, other)
    )
    with Lake.open(there) as lake:
        replay(script().write(other.journal_dir / "monday"), there, lake)
    with Lake.open(here, clock=ManualTime(NOW_NS)) as lake:
        import_candles(candles(tmp_path), here, lake)
        found = stamps(lake)
    assert found["BTC"] == {hour: expected(hour, 1, 24) for hour in range(-47, 73)}


def test_a_recovered_recording_has_the_rows_that_its_header_had(settings: Settings, lake_at: Any) -> None:
    folder = script().write(settings.journal_dir / "monday")
    with lake_at() as lake:
        assert register_recordings(settings, lake) == 2
        before = lake.query("SELECT * FROM recordings ORDER BY ALL")
        assert recover(settings, lake) == [folder.name]
        assert lake.query("SELECT * FROM recordings ORDER BY ALL") == before
        assert lake.query("SELECT * FROM quarantine").num_rows == 0


def test_an_old_decision_outlives_later_recordings_and_a_rebuild(
    settings: Settings, tmp_path: Path, lake_at: Any
) -> None:
    """An import before a recording of its time is replayed keeps its stamps; so does the rebuilt lake."""
    with lake_at() as lake:
        import_candles(candles(tmp_path, coins=("BTC",)), settings, lake)
        replay(script().write(settings.journal_dir / "monday"), settings, lake)
        import_candles(candles(tmp_path, coins=("BTC",), days=(-1, 5)), settings, lake)
        before = stamps(lake)
    assert {hour for hour, at_ns in before["BTC"].items() if at_ns == NOW_NS} == set()
    rebuild(settings, find_sources(settings), clock=ManualTime(NOW_NS + DAY_NS))
    with lake_at(NOW_NS + DAY_NS) as lake:
        assert stamps(lake) == before


def test_a_certified_revision_of_a_recorded_bar_is_known_from_now_on(
    settings: Settings, tmp_path: Path, lake_at: Any
) -> None:
    with lake_at() as lake:
        replay(script().write(settings.journal_dir / "monday"), settings, lake)
        bars = lake.query("SELECT * FROM bars_latest WHERE status = 'printed' AND revision = 0")
        rows = {
            "coin": ["BTC"] * bars.num_rows,
            "t": bars["ts_open"],
            **{name: bars[name] for name in ("open", "high", "low", "close", "volume", "trades")},
        }
        pq.write_table(pa.table(rows), tmp_path / "venue.parquet")
        import_candles(tmp_path / "venue.parquet", settings, lake, width="1m")
        assert certify(lake, settings, clock=ManualTime(NOW_NS)).certified > 0
        certified = lake.query("SELECT * FROM bars WHERE certified").to_pylist()
    assert {row["origin"] for row in certified} == {"live"}
    assert {row["ts_knowable_ns"] for row in certified} == {NOW_NS}
    assert {row["ts_available_ns"] for row in certified} == {NOW_NS}
