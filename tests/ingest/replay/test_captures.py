"""Captures: the rows of a capture equal those of its journal."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import pyarrow as pa
import pytest

from ingest.coverage.gap_queries import list_gaps
from ingest.replay.replay import ReplayResult, replay
from storage.lake.lake import Lake
from storage.settings import Settings, load_settings
from tests.conftest import case, recorded
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
        pytest.param(BUSY, 0, 6_000, 900, id="busy", marks=pytest.mark.drill),
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


def test_joined_pieces_give_the_rows_of_the_capture_in_order(tmp_path: Path) -> None:
    rows = []
    for name in ("in_order", "second_half_first"):
        settings = load_settings(overrides={"home": tmp_path / name}, environ={})
        rows.append(replayed(case(f"pieces_out_of_order/{name}.ndjson"), settings)[1])
    for table in TABLES:
        columns = [column for column in rows[0][table].column_names if column not in ("journal", "source")]
        assert rows[0][table].select(columns).equals(rows[1][table].select(columns)), table
    assert rows[0]["trades"].num_rows == 30


def test_prints_that_cannot_be_read_make_their_minute_blind(settings: Settings) -> None:
    _, rows = replayed(case("refused_prints/small.ndjson"), settings)
    bars = {row["ts_open"].strftime("%H:%M"): row for row in rows["bars"].to_pylist()}
    assert [(bars[at]["status"], bars[at]["trades"]) for at in ("10:41", "10:43")] == [("printed", 6)] * 2
    assert (bars["10:42"]["status"], bars["10:42"]["cause"]) == ("blind", "prints refused")
    with Lake.open(settings, read_only=True) as lake:
        gaps = list_gaps(lake, instrument="BTC").to_pylist()
    assert {gap["from"].strftime("%H:%M") for gap in gaps} == {"10:42"}
    assert {(gap["cause"], gap["repaired"]) for gap in gaps} == {("prints refused", "no")}


def test_lines_that_are_no_frames_make_their_minutes_blind_and_so_does_the_journal(tmp_path: Path) -> None:
    """Each is cut, or garbage; the journal holds them too, so that a rebuilt lake says the same."""
    lines, stamp_ns = [], 1_788_000_000_000_000_000
    for n in range(2_000):
        coin = "BTC" if n % 2 else "ETH"
        data = {
            "coin": coin,
            "side": "B",
            "px": "1",
            "sz": "1",
            "time": stamp_ns // 1_000_000 + 200 * n,
            "tid": n,
        }
        message = json.dumps({"channel": "trades", "data": [data]})
        lines.append(f'{{"recv_ns":{stamp_ns + (200 * n + 50) * 1_000_000},"msg":{message}}}')
    lines[751] = lines[751][:-40]  # BTC, 150.2 s
    lines[1_350] = "garbage"  # of either coin, 270 s
    file = tmp_path / "cut.ndjson"
    file.write_text("\n".join(lines))
    homes = [load_settings(overrides={"home": tmp_path / n}, environ={}) for n in "ab"]
    done, rows = replayed(file, homes[0])
    _, again = replayed(homes[0].journal_dir / done.recording, homes[1])
    for table in TABLES:
        assert rows[table].equals(again[table]), table
    first = min(row["ts_open"] for row in rows["bars"].to_pylist())
    last = {
        (row["instrument"].split("|")[2], (row["ts_open"] - first).seconds // 60): row["cause"]
        for row in sorted(rows["bars"].to_pylist(), key=lambda row: row["revision"])
    }
    refused = {key for key, cause in last.items() if cause == "prints refused"}
    assert refused == {("BTC", 2), ("BTC", 4), ("ETH", 4)}
    reasons = rows["quarantine"]["reason"].to_pylist()
    assert [
        any(f"line {n} of cut.ndjson is no frame" in reason for reason in reasons) for n in (752, 1_351)
    ] == [True] * 2
