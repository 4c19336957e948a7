"""Import of candle files: what becomes of valid candles, and of refused, repeated and future ones."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingest.backfill import candle_rows as candle_rows_module
from ingest.backfill.candle_files import ImportResult, import_candles
from ingest.bars import from_candles
from storage.clock import NS, ManualTime, iso
from storage.errors import CaptureError, RangeError
from storage.lake.connection import connect_in_memory
from storage.lake.lake import Lake
from storage.lake.quarantine_retry import retry
from storage.settings import Settings
from tests.conftest import case

START_MS = 1_757_015_400_000  # on the grid of 5 minutes


def write(folder: Path, **changes: list[Any]) -> Path:
    rows = {
        "coin": ["BTC"] * 4,
        "t": [START_MS + n * 300_000 for n in range(4)],
        **{name: [100.0] * 4 for name in ("open", "high", "low", "close")},
        "volume": [1.0, 2.0, 3.0, 4.0],
    }
    pq.write_table(pa.table(rows | changes), folder / "c.parquet")
    return folder / "c.parquet"


@pytest.mark.parametrize(
    "changes",
    [
        {"volume": [1.0, None, 3.0, 4.0]},
        {"close": [100.0, float("nan"), 100.0, 100.0]},
        {"high": [100.0, 2.0, 100.0, 100.0]},
        {"open": [100.0, 101.0, 100.0, 100.0]},
        {"open": [100.0, None, 100.0, 100.0]},
        {"open": [100.0, float("nan"), 100.0, 100.0]},
        {"volume": [1.0, 0.0, 1.0, 1.0], "trades": [1, 10, 1, 1]},
        {"volume": [1.0, 5.0, 1.0, 1.0], "trades": [1, 0, 1, 1]},
    ],
)
def test_a_candle_that_is_refused_is_unknown_whatever_an_absent_one_means(
    spare: tuple[Settings, Lake],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    changes: dict[str, list[Any]],
) -> None:
    settings, lake = spare
    venue = f"refused{zlib.crc32(request.node.name.encode())}"
    done = import_candles(write(tmp_path, **changes), settings, lake, width="5m", venue=venue, absent="quiet")
    assert done.notes == ("1 candle breaks a rule: quarantined",)
    bars = lake.query(
        "SELECT status, cause, volume, trades FROM bars WHERE starts_with(instrument, ?) ORDER BY ts_open",
        [venue],
    )
    assert bars["status"].to_pylist() == ["printed", "unknown", "printed", "printed"]
    assert bars.slice(1, 1).drop_columns("status").to_pylist() == [
        {"cause": "candle refused", "volume": None, "trades": None}
    ]
    raw = lake.query("SELECT raw FROM quarantine WHERE contains(decode(raw), ?)", [venue])["raw"].to_pylist()
    assert ["19:55:00" in json.loads(row or b"")["ts_open"] for row in raw] == [True]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"t": [START_MS + 1_000 + n * 300_000 for n in range(4)]},
            "4 candles that do not open on the grid of 5m",
        ),
        ({"t": [n * 300 for n in range(4)]}, "column t has 4 candles outside of 2010 to 2100"),
        ({"coin": ["BTC", None, "BTC", "BTC"]}, "1 candles without a symbol"),
        ({"volume": ["a", "b", "c", "d"]}, "has a column that is no candle's"),
        ({"t": ["soon"] * 4}, "column t has 4 texts that are no time"),
        ({"Coin": ["BTC"] * 4, "T": [1] * 4, "t": ["x"] * 4}, "column t has 4 texts that are no time"),
    ],
)
def test_an_invalid_file_is_refused_as_a_whole(
    settings: Settings, tmp_path: Path, changes: dict[str, list[Any]], text: str
) -> None:
    with Lake.open(settings) as lake:
        with pytest.raises(CaptureError, match=text):
            import_candles(write(tmp_path, **changes), settings, lake, width="5m")
        assert lake.query("SELECT * FROM candles").num_rows == 0


def test_an_empty_file_is_an_empty_range(settings: Settings, tmp_path: Path) -> None:
    pq.write_table(pq.read_table(write(tmp_path)).slice(0, 0), tmp_path / "none.parquet")
    with Lake.open(settings) as lake, pytest.raises(RangeError, match="holds no candle"):
        import_candles(tmp_path / "none.parquet", settings, lake)


def test_candles_never_supersede_what_was_recorded(settings: Settings, tmp_path: Path) -> None:
    from storage.contracts.tables import BARS
    from tests.storage.rows import bar

    live = bar(START_MS // 60_000, width="5m", ts_close=START_MS * 1000 + 300_000_000, observed_ms=300_000)
    with Lake.open(settings) as lake:
        lake.commit({"bars": BARS.rows([live])}, batch_id="live")
        import_candles(write(tmp_path), settings, lake, width="5m")
        origins = lake.query("SELECT origin FROM bars_latest ORDER BY ts_open")["origin"].to_pylist()
    assert origins == ["live", "candle", "candle", "candle"]


def candle_rows(coin: str, opens_ms: Sequence[int], **columns: Any) -> pa.Table:
    """Return candles of a minute with a price of their own."""
    count = len(opens_ms)
    prices = [100.0 + number % 7 for number in range(count)]
    made: dict[str, Any] = {
        "coin": [coin] * count,
        "t": list(opens_ms),
        "open": prices,
        "high": [price + 1 for price in prices],
        "low": [price - 1 for price in prices],
        "close": prices,
        "volume": [1.0 + number for number in range(count)],
        "n": [3] * count,
    }
    return pa.table(made | columns)


def import_table(
    spare: tuple[Settings, Lake], folder: Path, table: pa.Table, venue: str, **options: Any
) -> ImportResult:
    pq.write_table(table, folder / f"{venue}.parquet")
    return import_candles(folder / f"{venue}.parquet", *spare, width="1m", venue=venue, **options)


NOW = ManualTime((START_MS + 90_000) * 1_000_000)
"""In the middle of the second minute."""
MINUTES = [START_MS + n * 60_000 for n in range(-30, 5)]


def test_nothing_of_the_future_is_taken_and_both_kinds_are_told(
    spare: tuple[Settings, Lake], tmp_path: Path
) -> None:
    lake = spare[1]
    done = import_table(spare, tmp_path, candle_rows("BTC", MINUTES), "open", clock=NOW)
    assert (done.candles, done.bars, done.to_ns) == (31, 31, (START_MS + 60_000) * 1_000_000)
    assert done.notes == (
        "1 candle is still open at 2025-09-04T19:51:30.000Z: left out",
        f"3 candles lie in the future, the first at 2025-09-04T19:52:00.000Z; it is {iso(NOW.now_ns())}: quarantined",
    )
    rows = lake.query("SELECT raw, ts_knowable_ns FROM quarantine WHERE starts_with(source, 'open.')")
    assert sorted(json.loads(raw or b"")["ts_open"] for raw in rows["raw"].to_pylist()) == [
        f"2025-09-04T19:{minute}:00.000Z" for minute in (52, 53, 54)
    ]
    assert set(rows["ts_knowable_ns"].to_pylist()) == {NOW.now_ns()}, (
        "known when they were refused, not later"
    )
    left = retry(lake, now_ns=2 * NOW.now_ns(), table="candles")
    assert not left.committed, "a retry takes no candle of the future either"


def test_the_candle_that_was_open_is_taken_from_a_later_file(
    spare: tuple[Settings, Lake], tmp_path: Path
) -> None:
    opens = MINUTES[:32]
    partial, whole = (
        candle_rows("BTC", opens),
        candle_rows("BTC", opens, volume=[1.0 + n for n in range(31)] + [99.0]),
    )
    import_table(spare, tmp_path, partial, "later", clock=NOW)
    pq.write_table(whole, tmp_path / "whole.parquet")
    later = ManualTime(NOW.now_ns() + 60 * NS)
    done = import_candles(tmp_path / "whole.parquet", *spare, width="1m", venue="later", clock=later)
    assert (done.notes, done.written) == ((), {"candles": 32, "bars": 1})
    last = spare[1].query(
        "SELECT volume, revision FROM bars WHERE starts_with(instrument, 'later') ORDER BY ts_open"
    )
    assert (last["volume"][-1].as_py(), set(last["revision"].to_pylist())) == (99.0, {0})


@pytest.mark.parametrize("far_ms", [4_070_908_800_000, START_MS + 86_400_000])
def test_one_row_far_in_the_future_costs_nothing(
    spare: tuple[Settings, Lake], tmp_path: Path, far_ms: int
) -> None:
    done = import_table(
        spare, tmp_path, candle_rows("BTC", [*MINUTES[:31], far_ms]), f"far{far_ms}", clock=NOW
    )
    assert (done.bars, done.written["quarantine"]) == (31, 1)


@pytest.mark.parametrize(
    ("opens", "text"),
    [
        (
            [START_MS + 86_400_000, START_MS + 86_460_000],
            "no candle that has ended: 2 of 2 lie in the future",
        ),
        (
            [1_262_304_000_000, *MINUTES[:3]],
            "BTC has no candle between 2010-01-01T.* and 2025-09-04T.* steps",
        ),
    ],
)
def test_a_file_without_a_candle_that_ended_or_with_a_wrong_year_is_refused(
    spare: tuple[Settings, Lake], tmp_path: Path, opens: list[int], text: str
) -> None:
    with pytest.raises((CaptureError, RangeError), match=text):
        import_table(spare, tmp_path, candle_rows("BTC", opens), "year", clock=NOW)


@pytest.mark.parametrize("threads", [pytest.param(1, marks=pytest.mark.drill), 2])
def test_the_files_first_candle_of_a_time_counts_whatever_the_threads(
    spare: tuple[Settings, Lake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """Against a loop over the file: equal repeats are skipped, others quarantined; shuffled, above a row group."""

    def connect_with_threads() -> duckdb.DuckDBPyConnection:
        run = connect_in_memory()
        run.execute(f"SET threads = {threads}")
        return run

    for module in (candle_rows_module, from_candles):
        monkeypatch.setattr(module, "connect_in_memory", connect_with_threads)
    draw = random.Random(1)
    opens = [START_MS - 60_000 * draw.randrange(10_000) for _ in range(45_000)]
    closes = [draw.choice([100.0, 100.5, 99.5]) for _ in opens]
    flat = dict.fromkeys(("open", "volume"), [100.0] * len(opens))
    made = candle_rows("BTC", opens, close=closes, high=[101.0] * len(opens), low=[99.0] * len(opens), **flat)
    first: dict[int, float] = {}
    same = other = 0
    for open_ms, close in zip(opens, closes, strict=True):
        if open_ms not in first:
            first[open_ms] = close
        elif first[open_ms] == close:
            same += 1
        else:
            other += 1
    venue = f"threads{threads}"
    done = import_table(spare, tmp_path, made, venue, clock=ManualTime((START_MS + 60_000) * 1_000_000))
    assert done.notes == (
        f"{same:,} candles say the same as an earlier one: skipped",
        f"{other:,} candles contradict an earlier one of the same time: quarantined",
    )
    found = spare[1].query(
        "SELECT epoch_ms(ts_open) AS t, close FROM bars WHERE status = 'printed' AND starts_with(instrument, ?)",
        [venue],
    )
    assert dict(zip(found["t"].to_pylist(), found["close"].to_pylist(), strict=True)) == first
    assert done.written["quarantine"] == other


def test_an_open_that_is_the_previous_close_is_not_stored_and_refuses_nothing(
    spare: tuple[Settings, Lake], tmp_path: Path
) -> None:
    """As in files of BitMEX: where the price jumps, the open lies outside of the candle."""
    made = candle_rows("BTC", MINUTES[:20], open=[50.0] * 20)
    as_first = import_table(spare, tmp_path, made, "first")
    assert (as_first.unknown, as_first.written["quarantine"]) == (20, 20)
    done = import_table(spare, tmp_path, made, "previous", opens="previous-close")
    assert (done.notes, done.written) == ((), {"candles": 20, "bars": 20})
    bars = spare[1].query(
        "SELECT DISTINCT status, open, high - low AS spread FROM bars"
        " WHERE starts_with(instrument, 'previous')"
    )
    assert bars.to_pylist() == [{"status": "printed", "open": None, "spread": 2.0}]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, ""),
        ({"T": [0] * 35}, ""),
        ({"t": None, "T": MINUTES}, ""),
        ({"t": None, "Time": MINUTES, "TIME": MINUTES}, "has several columns for t: TIME, Time"),
        ({"t": None}, "has no column for t"),
    ],
)
def test_an_exact_column_name_wins_over_one_that_differs_in_case(
    spare: tuple[Settings, Lake], tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    columns = candle_rows("BTC", MINUTES).to_pydict() | changes
    table = pa.table({name: values for name, values in columns.items() if values is not None})
    table = table.select(sorted(table.column_names))  # upper case first
    if text:
        with pytest.raises(CaptureError, match=text):
            import_table(spare, tmp_path, table, "columns")
    else:
        assert import_table(spare, tmp_path, table, f"columns{len(changes)}").bars == 35


# What must come out of each file of the shared cases: bars by status, or an error.
SHARED_CASES: dict[str, dict[str, int] | str] = {
    "quiet_thin_coins": {"printed": 550, "quiet": 644},
    "refused_candle": {"printed": 596, "quiet": 3, "unknown": 1},
    "one_row_2099": {"printed": 60},
    "duplicate_minute_same": {"printed": 60},
    "duplicate_minute_differs": {"printed": 60},
    "venue_columns": {"printed": 60},
    "venue_columns_T_exclusive": {"printed": 60},
    "venue_columns_T_first": {"printed": 60},
    "us_times": {"printed": 60},
    "float_times": {"printed": 60},
    "text_ms_times": {"printed": 60},
    "text_times": {"printed": 60},
    "naive_times": {"printed": 60},
    "ms_then_us": "column t is in milliseconds first and in microseconds",
    "new_york_naive_dst": "column t goes back from .* name the zone with --timezone|local times do",
    "odd_candles": {"printed": 3, "quiet": 1, "unknown": 6},
}


@pytest.mark.parametrize("name", SHARED_CASES)
def test_shared_cases(spare: tuple[Settings, Lake], name: str) -> None:
    file, expected = case(f"{name}/candles.parquet"), SHARED_CASES[name]
    if isinstance(expected, str):
        with pytest.raises(CaptureError, match=expected):
            import_candles(file, *spare, width="1m", venue=name, absent="quiet")
        return
    done = import_candles(file, *spare, width="1m", venue=name, absent="quiet")
    assert counted(spare[1], name) == expected
    assert any("--timezone" in note for note in done.notes) == (name in ("naive_times", "text_times"))


@pytest.mark.parametrize("name", ["halt_ragged", "halt_two_coins", "halt_one_stray_print"])
def test_no_minute_of_a_shared_halt_is_quiet(spare: tuple[Settings, Lake], name: str) -> None:
    import_candles(case(f"{name}/candles.parquet"), *spare, width="1m", venue=name, absent="quiet")
    inside = counted(spare[1], name, "AND epoch_ms(ts_open) // 60000 - 29453760 BETWEEN 200 AND 259")
    coins = 2 if name == "halt_two_coins" else 7
    strays = int(name == "halt_one_stray_print")
    status = "unknown" if coins == 2 else "halted"
    assert inside == {status: coins * 60 - strays} | ({"printed": strays} if strays else {})


def counted(lake: Lake, venue: str, more: str = "") -> dict[str, int]:
    rows = lake.query(
        f"SELECT status, count(*) AS n FROM bars WHERE starts_with(instrument, ?) {more} GROUP BY status",
        [f"{venue}|"],
    ).to_pylist()
    return {row["status"]: row["n"] for row in rows}
