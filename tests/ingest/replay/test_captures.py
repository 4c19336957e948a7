"""Captures: the rows of a capture equal those of its journal."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import pyarrow as pa
import pytest

from ingest.replay.replay import ReplayResult, replay
from storage.lake.lake import Lake
from storage.settings import Settings, load_settings
from tests.conftest import recorded
from tests.storage.rows import UNSTAMPED

FOUR_COINS = "hyperliquid/ws_20250904_4coins.ndjson.gz"
BUSY = "binance/ws_20240808_btc_eth_as_hyperliquid.ndjson.gz"
TABLES = ("trades", "quotes", "books", "coverage", "bars", "lags", "instruments", "quarantine")


def lines_of(name: str, first: int, frames: int, folder: Path) -> Path:
    """Write some lines of a capture to a file of their own."""
    short = folder / "short.ndjson"
    with gzip.open(recorded(name), "rb") as whole:
        short.write_bytes(b"".join(itertools.islice(whole, first, first + frames)))
    return short


def replayed(path: Path, settings: Settings) -> tuple[ReplayResult, dict[str, pa.Table]]:
    with Lake.open(settings) as lake:
        done = replay(path, settings, lake)
        query = "SELECT {} FROM {} ORDER BY ALL"
        return done, {table: lake.query(query.format(UNSTAMPED, table)) for table in TABLES}


@pytest.mark.parametrize(
    ("name", "first", "frames", "trades"),
    [
        pytest.param(FOUR_COINS, 20_500, 6_000, 1_500, id="4 coins"),
        pytest.param(BUSY, 0, 6_000, 900, id="busy"),
        pytest.param(FOUR_COINS, 0, 26_000, 4_000, id="4 coins, longer", marks=pytest.mark.drill),
        pytest.param(BUSY, 0, 26_000, 4_000, id="busy, longer", marks=pytest.mark.drill),
    ],
)
def test_a_tape_and_its_journal_give_equal_rows(
    name: str, first: int, frames: int, trades: int, tmp_path: Path
) -> None:
    """The capture's batches differ from the journal's blocks, and the 4-coin capture has a gap."""
    values = {"bars.widths": ("1s", "1m")}
    homes = [load_settings(overrides={"home": tmp_path / n, **values}, environ={}) for n in "ab"]
    done, rows = replayed(lines_of(name, first, frames, tmp_path), homes[0])
    again, others = replayed(homes[0].journal_dir / done.recording, homes[1])
    assert (done.counts, done.channels) == (again.counts, again.channels)
    assert done.counts.frames == frames
    assert done.counts.trades > trades
    assert done.counts.reconnects == (name == FOUR_COINS), "the hole is within these frames"
    for table in TABLES:
        assert rows[table].equals(others[table]), table
    assert {table for table in TABLES if rows[table].num_rows} >= {
        "trades",
        "quotes",
        "bars",
        "coverage",
        "lags",
    }
