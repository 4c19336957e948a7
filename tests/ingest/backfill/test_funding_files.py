"""Import of files of paid funding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from ingest.backfill import funding_files
from ingest.backfill.funding_files import import_funding
from ingest.replay.rebuild import find_sources, rebuild
from storage.clock import ManualTime, parse_time_ns
from storage.errors import CaptureError, RangeError, SettingsError
from storage.lake.lake import Lake
from storage.settings import Settings

SETTINGS = Settings()
NOW = ManualTime(parse_time_ns("2026-01-01"))
HOURS = [f"2025-05-05T{hour:02d}:00:00.100Z" for hour in range(6)]


def write(folder: Path, name: str = "paid.parquet", **columns: Any) -> Path:
    table = pa.table(
        {"coin": ["BTC"] * 6, "time": HOURS, "fundingRate": [1e-5 * n for n in range(6)]} | columns
    )
    table = table.select([field for field in table.column_names if table[field].null_count < len(table)])
    path = folder / name
    if name.endswith(".parquet"):
        pq.write_table(table, path)
    else:
        with pa.CompressedOutputStream(str(path), "gzip") if name.endswith("gz") else path.open("wb") as sink:
            pacsv.write_csv(table, sink)
    return path


def stored(lake: Lake, venue: str) -> list[dict[str, Any]]:
    columns = "instrument, epoch_us(ts_event) AS us, funding_rate, premium, interval_h, ts_knowable_ns"
    query = f"SELECT {columns} FROM funding WHERE instrument LIKE ? ORDER BY instrument, us"
    return lake.query(query, [f"{venue}|%"]).to_pylist()


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """A lake that the tests share; each writes to a venue of its own."""
    with Lake.open(Settings(home=tmp_path_factory.mktemp("home"))) as lake:
        yield lake


def test_formats_times_and_ids_make_the_same_rows(tmp_path: Path, lake: Lake) -> None:
    ms = [parse_time_ns(text) // 1_000_000 for text in HOURS]
    files = [
        write(tmp_path),
        write(tmp_path, "paid.csv"),
        write(tmp_path, "paid.csv.gz", time=ms),
        write(tmp_path, "ids.parquet", coin=["v3|perp|BTC"] * 6, interval_h=[1] * 6),
    ]
    for number, path in enumerate(files):
        done = import_funding(path, SETTINGS, lake, venue=f"v{min(number, 2)}", clock=NOW)
        assert (done.payments, done.written, done.refused) == (6, 6, 0)
    lag_ns = SETTINGS.bars.history_lag_ms * 1_000_000
    assert stored(lake, "v%") == [
        {
            "instrument": f"v{number}|perp|BTC",
            "us": value * 1000,
            "funding_rate": 1e-5 * n,
            "premium": None,
            "interval_h": 1,
            "ts_knowable_ns": value * 1_000_000 + lag_ns,
        }
        for number in range(4)
        for n, value in enumerate(ms)
    ]


def test_second_import_adds_nothing_and_a_longer_file_adds_the_rest(tmp_path: Path, lake: Lake) -> None:
    path, seen = write(tmp_path), list[int]()
    assert import_funding(path, SETTINGS, lake, venue="again", clock=NOW, on_rows=seen.append).written == 6
    snapshot = lake.snapshot()
    assert import_funding(path, SETTINGS, lake, venue="again", clock=NOW).written == 0
    assert lake.snapshot() == snapshot
    more = write(tmp_path, "more.csv", coin=["BTC"] * 5 + ["ETH"])
    assert import_funding(more, SETTINGS, lake, venue="again", clock=NOW).written == 1
    assert [row["instrument"][-3:] for row in stored(lake, "again")] == ["BTC"] * 6 + ["ETH"]
    assert seen == [6]


def test_large_file_is_loaded_in_pieces(tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(funding_files, "BULK_ROWS", 1)
    monkeypatch.setattr(funding_files, "_PIECE_ROWS", 4)
    seen, totals = list[int](), list[int]()
    calls = {"on_total": totals.append, "on_rows": seen.append}
    done = import_funding(write(tmp_path), SETTINGS, lake, venue="large", clock=NOW, **calls)
    assert (done.written, len(stored(lake, "large")), seen, totals) == (6, 6, [4, 2], [6])


def test_interval_is_derived_by_instrument_where_the_file_has_none(tmp_path: Path, lake: Lake) -> None:
    days = [f"2023-05-{day:02d}T{hour:02d}:00:00Z" for day in (20, 21) for hour in (0, 8, 16)]
    long = {
        "time": [*days, *days, *HOURS],
        "coin": ["A"] * 6 + ["B"] * 6 + ["C"] * 6,
        "fundingRate": [1e-5] * 18,
    }
    path = write(tmp_path, **long, interval_hours=[None] * 13 + [4] * 5)
    import_funding(path, SETTINGS, lake, venue="spaced", clock=NOW)
    assert [row["interval_h"] for row in stored(lake, "spaced")] == [8] * 12 + [1] + [4] * 5


def test_payment_that_breaks_the_contract_goes_to_quarantine(tmp_path: Path, lake: Lake) -> None:
    rates = [1e-5, 1.5, None, 1e-5, float("nan"), 1e-5]
    done = import_funding(write(tmp_path, fundingRate=rates), SETTINGS, lake, venue="broken", clock=NOW)
    assert (done.written, done.refused, len(stored(lake, "broken"))) == (3, 3, 3)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"coin": [None] * 6}, "has no column for instrument"),
    ({"coin": ["A", None] * 3}, "has 3 payments without an instrument"),
    ({"fundingRate": ["much"] * 6}, "has a column that is no payment's: fundingRate: "),
    ({"time": ["soon"] * 6}, "column time has 6 texts that are no time"),
    ({"time": [5] * 6}, "has 6 payments outside of 2010 to 2100"),
    ({"time": [*HOURS[:5], "2026-01-01T00:00:01Z"]}, "has 1 payments after 2026-01-01T00:00:00.000Z"),
    (
        {"FUNDING_RATE": [0.0] * 6, "Funding_Rate": [0.0] * 6, "fundingRate": [None] * 6},
        "has several columns for rate: FUNDING_RATE, Funding_Rate",
    ),
]


def test_wrong_column_is_named_and_nothing_is_written(tmp_path: Path, lake: Lake) -> None:
    for changes, text in WRONG:
        with pytest.raises(CaptureError, match=text):
            import_funding(write(tmp_path, **changes), SETTINGS, lake, venue="wrong", clock=NOW)
    assert stored(lake, "wrong") == []


def test_wrong_file_is_named(tmp_path: Path, lake: Lake) -> None:
    (tmp_path / "text.parquet").write_text("no", encoding="utf-8")
    pq.write_table(pa.table({"coin": pa.array([], pa.string())}), tmp_path / "empty.parquet")
    for name, kind, text in (
        ("text.parquet", CaptureError, r"text\.parquet cannot be read as \.parquet"),
        ("absent.csv", CaptureError, r"absent\.csv cannot be read as \.csv"),
        ("paid.xlsx", CaptureError, r"paid\.xlsx is of no known format"),
        ("empty.parquet", RangeError, r"empty\.parquet has no payment"),
    ):
        with pytest.raises(kind, match=text):
            import_funding(tmp_path / name, SETTINGS, lake, clock=NOW)
    with pytest.raises(SettingsError, match=r"--venue is 'a\|b'"):
        import_funding(write(tmp_path), SETTINGS, lake, venue="a|b", clock=NOW)


def test_rebuild_imports_the_file_again(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    path = write(tmp_path, time=[text.removesuffix("Z") for text in HOURS])
    with Lake.open(settings) as lake:
        import_funding(path, settings, lake, venue="other", timezone="Asia/Kolkata", clock=NOW)
        before = stored(lake, "other")
    assert before[0]["us"] == parse_time_ns("2025-05-04T18:30:00.1") // 1000
    (source,) = find_sources(settings)
    assert (source.kind, source.why_not) == ("file", "")
    made = rebuild(settings, [source])
    assert [item.carried for item in made.made] == [0]
    with Lake.open(settings) as lake:
        assert stored(lake, "other") == before
