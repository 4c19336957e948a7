"""Replay: exact tables from a recording, each row once."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path
from typing import Any, Final

import pytest

from ingest.journal.format import segments
from ingest.journal.writer import JournalWriter
from ingest.replay.replay import replay
from storage.errors import CaptureError
from storage.lake.lake import Lake
from storage.settings import Settings, load_settings
from tests.conftest import recorded
from tests.ingest.pipeline.scripts import Script
from tests.storage.rows import UNSTAMPED

FOUR_COINS = "hyperliquid/ws_20250904_4coins.ndjson.gz"
# Lines of that capture: from 19:56 to 20:00, around the disconnect.
MINUTES: Final = (20_500, 28_500)
# Frames, prints, and distinct prints by coin, counted in the file without this project.
COUNTS: Final = {
    "minutes": (8_000, 2_725, {"BTC": 944, "ETH": 430, "SOL": 1_122, "WLFI": 194}),
    "whole": (73_973, 20_559, {"BTC": 6_675, "ETH": 6_867, "SOL": 4_427, "WLFI": 2_555}),
}
EITHER_TAPE = pytest.mark.parametrize(
    "tape", ["minutes", pytest.param("whole", marks=pytest.mark.drill)], indirect=True, scope="module"
)
PRINT = '{"channel":"trades","data":[{"coin":"BTC","side":"B","px":"%s","sz":"1","time":%d,"tid":%d}]}'


def line(second: int, message: str) -> str:
    """Return one line of a capture."""
    return f'{{"recv_ns":{1_757_015_200_000_000_000 + second * 1_000_000_000},"msg":{message}}}'


@pytest.fixture(scope="module")
def tape(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home into which the real 4-coin capture, or some minutes of it, was replayed, twice."""
    settings = load_settings(overrides={"home": tmp_path_factory.mktemp("tape") / "home"}, environ={})
    path = recorded(FOUR_COINS)
    frames, prints, trades = COUNTS[request.param]
    if request.param == "minutes":
        with gzip.open(path, "rb") as whole:
            path = settings.home.parent / "minutes.ndjson"
            path.write_bytes(b"".join(itertools.islice(whole, *MINUTES)))
    with Lake.open(settings) as lake:
        first = replay(path, settings, lake)
        assert (first.counts.prints, first.counts.trades, first.counts.frames) == (
            prints,
            sum(trades.values()),
            frames,
        )
        before = lake.query("SELECT * FROM bars ORDER BY ALL")
        again = replay(path, settings, lake)
        assert sum(again.written.values()) == 0
        assert lake.query("SELECT * FROM bars ORDER BY ALL").equals(before)
    return settings


def bar(settings: Settings, coin: str, opened: str) -> dict[str, Any]:
    with Lake.open(settings, read_only=True) as lake:
        rows = lake.query(
            "SELECT * FROM bars_latest WHERE instrument = ? AND ts_open = ?::TIMESTAMPTZ",
            [f"hyperliquid|perp|{coin}", f"2025-09-04 {opened}:00+00"],
        ).to_pylist()
    assert len(rows) == 1
    return dict(rows[0])


@pytest.mark.parametrize(
    ("tape", "trades"),
    [
        ("minutes", COUNTS["minutes"][2]),
        pytest.param("whole", COUNTS["whole"][2], marks=pytest.mark.drill),
    ],
    indirect=["tape"],
    ids=["minutes", "whole"],
    scope="module",
)
def test_the_capture_stores_each_distinct_print_once(tape: Settings, trades: dict[str, int]) -> None:
    with Lake.open(tape, read_only=True) as lake:
        rows = lake.query(
            "SELECT instrument, count(*) AS n FROM trades GROUP BY ALL ORDER BY ALL"
        ).to_pylist()
        quarantined = lake.query("SELECT * FROM quarantine").num_rows
    assert {row["instrument"].split("|")[2]: row["n"] for row in rows} == trades
    assert quarantined == 0


@pytest.mark.parametrize(
    ("tape", "coin", "opened", "trades", "volume", "buy_volume", "ohlc"),
    [
        ("minutes", "BTC", "19:57", 77, 0.71936, 0.33074, (109836, 109837, 109822, 109822)),
        ("minutes", "SOL", "19:59", 387, 27003.07, 14518.9, (201.9, 202.27, 201.77, 202.16)),
        ("minutes", "WLFI", "19:57", 25, 52026, 20971, (0.18556, 0.18608, 0.1855, 0.18597)),
        pytest.param(
            *("whole", "BTC", "20:05", 194, 11.58961, 10.35638, (110095, 110150, 110095, 110149)),
            marks=pytest.mark.drill,
        ),
        pytest.param(
            *("whole", "SOL", "20:10", 109, 2618.98, 822.81, (202.7, 202.86, 202.64, 202.65)),
            marks=pytest.mark.drill,
        ),
        pytest.param(
            *("whole", "WLFI", "20:10", 59, 188689, 80843, (0.1877, 0.18777, 0.18627, 0.18644)),
            marks=pytest.mark.drill,
        ),
    ],
    indirect=["tape"],
    ids=lambda value: value if isinstance(value, str) else None,
    scope="module",
)
def test_real_minutes_are_what_they_were(
    tape: Settings,
    coin: str,
    opened: str,
    trades: int,
    volume: float,
    buy_volume: float,
    ohlc: tuple[float, ...],
) -> None:
    row = bar(tape, coin, opened)
    assert (row["status"], row["trades"]) == ("printed", trades)
    assert row["volume"] == pytest.approx(volume, rel=1e-12)
    assert row["buy_volume"] == pytest.approx(buy_volume, rel=1e-12)
    assert (row["open"], row["high"], row["low"], row["close"]) == ohlc


@EITHER_TAPE
def test_the_real_disconnect_is_proven_harmless_for_three_coins_and_not_for_btc(tape: Settings) -> None:
    """BTC's last print before the loss is at 19:58:11.087, the oldest resent at 19:58:13.170: no overlap."""
    rows = {coin: bar(tape, coin, "19:58") for coin in ("BTC", "ETH", "SOL", "WLFI")}
    assert {coin: (row["status"], row["repaired"]) for coin, row in rows.items()} == {
        "BTC": ("blind", False),
        "ETH": ("printed", True),
        "SOL": ("printed", True),
        "WLFI": ("printed", True),
    }
    assert rows["BTC"]["cause"] == "capture silent beyond 5 s"
    assert all(40_000 < row["observed_ms"] < 43_000 for row in rows.values())
    with Lake.open(tape, read_only=True) as lake:
        gaps = lake.query(
            """SELECT instrument, bridged, evidence, epoch_ms(ts_from) AS f, epoch_ms(ts_to) AS t FROM coverage
               WHERE channel = 'trades' AND kind = 'gap'
               QUALIFY row_number() OVER (PARTITION BY instrument ORDER BY revision DESC) = 1"""
        ).to_pylist()
    assert {row["instrument"].split("|")[2]: row["bridged"] for row in gaps} == {
        "BTC": False,
        "ETH": True,
        "SOL": True,
        "WLFI": True,
    }
    assert {row["evidence"] for row in gaps if row["bridged"]} == {"overlap"}
    assert all(row["t"] - row["f"] > 17_000 for row in gaps)


def test_the_verbatim_capture_keeps_its_frames_byte_for_byte(settings: Settings) -> None:
    from ingest.journal.captures import read_capture
    from ingest.journal.reader import read_journal
    from ingest.journal.records import RecordKind

    path = recorded("hyperliquid/ws_20250126_btc_verbatim.txt.gz")
    with Lake.open(settings) as lake:
        done = replay(path, settings, lake)
    kept = [r.body for r in read_journal(settings.journal_dir / done.recording) if r.kind is RecordKind.FRAME]
    assert kept == [frame for _, frame in read_capture(path)]
    assert len(kept) == 55


def test_sparse_history_is_stored_and_nothing_is_called_quiet(settings: Settings) -> None:
    """Trades alone, hours apart: nothing proves coverage in between."""
    path = recorded("hyperliquid/trades_20230227_20230502.ndjson.gz")
    head = settings.home.parent / "head.ndjson"
    with gzip.open(path, "rb") as whole:
        head.write_bytes(b"".join(whole.readline() for _ in range(20)))
    with Lake.open(settings) as lake:
        replay(head, settings, lake)
        statuses = lake.query("SELECT DISTINCT status FROM bars")["status"].to_pylist()
        trades = lake.query("SELECT count(*) AS n FROM trades")["n"][0].as_py()
    assert statuses == ["blind"]
    assert trades >= 20


def test_replaying_a_recording_gives_the_rows_it_was_recorded_with(
    settings: Settings, tmp_path: Path
) -> None:
    script = Script().open(0).alive(0.1, 100).print(30).print(95, event_s=40).close(100).open(101, 1)
    folder = script.alive(102, 190, connection=1).stop(190).write(settings.journal_dir / "made")
    other = load_settings(overrides={"home": tmp_path / "other"}, environ={})
    with Lake.open(settings) as one, Lake.open(other) as two:
        replay(folder, settings, one)
        replay(folder / "000000.twj", other, two)
        for table in ("trades", "quotes", "coverage", "bars"):
            query = f"SELECT {UNSTAMPED} FROM {table} ORDER BY ALL"
            assert one.query(query).equals(two.query(query)), table
            assert one.query(query).num_rows > 0, table


def test_bad_lines_are_quarantined_with_their_bytes_and_the_good_ones_stay(
    settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "mixed.ndjson"
    lines = [
        line(16, PRINT % ("100", 1757015216000, 1)),
        "garbage",
        line(17, '{"channel":"weather","data":1}'),
        line(18, PRINT % ("-5", 1757015217000, 2)),
        line(19, PRINT % ("101", 1757015218000, 3)),
        line(20, PRINT % ("102", 1757015218000, 3)),
    ]
    file.write_text("\n".join(lines))
    with Lake.open(settings) as lake:
        done = replay(file, settings, lake)
        rows = lake.query("SELECT table_name, reason, raw FROM quarantine ORDER BY reason").to_pylist()
        assert lake.query("SELECT tid FROM trades ORDER BY tid")["tid"].to_pylist() == [1, 3]
    reasons = [row["reason"] for row in rows]
    assert len(rows) == done.counts.quarantined == 4
    assert any("line 2 of mixed.ndjson is no frame" in reason for reason in reasons)
    assert any("Invalid value 'weather'" in reason for reason in reasons)
    assert any("price -5.0 is not between" in reason for reason in reasons)
    assert any("came again with other values" in reason for reason in reasons)
    assert b"garbage" in [row["raw"] for row in rows]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"PAR1\x00\x01\x02", "holds no frame"),
        (b"", "holds no frame"),
        (b"\x1f\x8b\x08broken", "is not a whole gzip file"),
        (b"a,b,c\n1,2,3\n" * 100, "holds no frame"),
    ],
)
def test_a_file_that_is_no_capture_is_refused_and_leaves_nothing(
    settings: Settings, tmp_path: Path, content: bytes, text: str
) -> None:
    file = tmp_path / "not_a_capture"
    file.write_bytes(content)
    with Lake.open(settings) as lake, pytest.raises(CaptureError, match=text):
        replay(file, settings, lake)
    assert list(settings.journal_dir.iterdir()) == []


def test_a_truncated_capture_keeps_what_is_whole(settings: Settings, tmp_path: Path) -> None:
    lines = [line(n, PRINT % (100 + n, 1757015200000 + n, n)) for n in range(5_000)]
    whole = gzip.compress("\n".join(lines).encode())
    file = tmp_path / "cut.ndjson.gz"
    file.write_bytes(whole[: len(whole) // 2])
    with Lake.open(settings) as lake:
        done = replay(file, settings, lake)
        assert 100 < done.counts.trades < 5_000
        reasons = lake.query("SELECT reason FROM quarantine")["reason"].to_pylist()
    assert any(
        "ends in the middle of its gzip stream" in reason or "is no frame" in reason for reason in reasons
    )


def test_a_torn_journal_is_replayed_up_to_the_tear_and_says_so(settings: Settings) -> None:
    folder = Script().open(0).alive(0.1, 130).print(30).write(settings.journal_dir / "made")
    segment = folder / "000000.twj"
    with segment.open("ab") as handle:
        handle.write(b"\x40\x00\x00\x00half a block")
    with Lake.open(settings) as lake:
        replay(folder, settings, lake)
        assert lake.query("SELECT count(*) AS n FROM trades")["n"][0].as_py() == 1
        row = lake.query("SELECT * FROM quarantine").to_pylist()[0]
    assert "torn" in row["reason"]
    assert row["source"].startswith("made/000000.twj@")


def test_a_path_that_does_not_exist_is_said(settings: Settings, tmp_path: Path) -> None:
    with Lake.open(settings) as lake, pytest.raises(CaptureError, match="does not exist"):
        replay(tmp_path / "nowhere", settings, lake)


def test_a_damaged_block_makes_its_minutes_blind(settings: Settings, tmp_path: Path) -> None:

    folder = settings.journal_dir / "made"
    script = Script().open(0).alive(0.1, 300)
    with JournalWriter(folder) as journal:
        for number, record in enumerate(script.sorted()):
            journal.append(record.recv_ns, record.kind, record.connection, record.body)
            if number % 20 == 0:
                journal.sync()
    path = segments(folder)[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with Lake.open(settings) as lake:
        replay(folder, settings, lake)
        bars = lake.query("SELECT status, cause, observed_ms FROM bars_latest ORDER BY ts_open").to_pylist()
        refused = lake.query("SELECT count(*) AS n FROM quarantine")["n"][0].as_py()
    assert refused == 1
    blind = [bar for bar in bars[:-1] if bar["status"] == "blind" and bar["cause"] == "journal damaged"]
    assert len(blind) in (1, 2), bars
    assert 60_000 * len(blind) - sum(bar["observed_ms"] for bar in blind) in range(15_000, 30_000)
