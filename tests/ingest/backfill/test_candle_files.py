"""Import of candle files: valid candles become bars, refused ones make none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingest.backfill.candle_files import import_candles
from storage.errors import CaptureError, RangeError
from storage.lake.lake import Lake
from storage.settings import Settings

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


def statuses(settings: Settings, file: Path) -> tuple[list[str], int]:
    with Lake.open(settings) as lake:
        import_candles(file, settings, lake, width="5m")
        found = lake.query("SELECT status FROM bars_latest ORDER BY ts_open")["status"].to_pylist()
        return found, lake.query("SELECT * FROM quarantine").num_rows


@pytest.mark.parametrize(
    "changes",
    [
        {"volume": [1.0, None, 3.0, 4.0]},
        {"close": [100.0, float("nan"), 100.0, 100.0]},
        {"high": [100.0, 2.0, 100.0, 100.0]},
    ],
)
def test_a_candle_that_is_refused_makes_no_bar(
    settings: Settings, tmp_path: Path, changes: dict[str, list[Any]]
) -> None:
    found, quarantined = statuses(settings, write(tmp_path, **changes))
    assert found == ["printed", "unknown", "printed", "printed"]
    assert quarantined == 1


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"t": [START_MS + 1_000 + n * 300_000 for n in range(4)]},
            "4 candles that do not open on the grid of 5m",
        ),
        ({"t": [START_MS // 1000 + n * 300 for n in range(4)]}, "4 candles outside of 2010 to 2100"),
        ({"coin": ["BTC", None, "BTC", "BTC"]}, "1 candles without a symbol"),
        ({"volume": ["a", "b", "c", "d"]}, "has a column that is no candle's"),
        ({"t": ["soon"] * 4}, "has a column that is no candle's"),
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
