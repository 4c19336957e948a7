"""Rebuild of a lake from its home: equal, complete where it was damaged, with every loss reported."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingest.backfill.archive.object_cache import ObjectCache
from ingest.backfill.archive.trades import ArchiveTradeSource
from ingest.backfill.candle_files import import_candles
from ingest.backfill.rest.runner import RestRequest, backfill_over_rest
from ingest.backfill.runner import run_backfill
from ingest.backfill.source import BackfillRequest
from ingest.journal.format import hold_recording, segments
from ingest.journal.records import RecordKind
from ingest.journal.writer import JournalWriter
from ingest.replay.rebuild import RebuildResult, find_sources, rebuild
from ingest.simulator.server.history_endpoint import RecordedHistory
from ingest.simulator.wire.encoder import SimulatedFunding
from storage.clock import ManualTime, parse_time_ns
from storage.contracts.coverage_days import COVERAGE_DAYS
from storage.contracts.lake_records import GATE_DAYS, HOLDOUTS, LINEAGES, TRIALS, VERSIONS
from storage.contracts.tables import TRADES
from storage.errors import LakeError
from storage.lake.fees import seed_fees
from storage.lake.integrity import verify
from storage.lake.lake import Lake
from storage.lake.snapshots import ROWS_HASH, kept_snapshots, pin, pins
from storage.settings import Settings
from tests.drills.homes import TABLES, assert_equal, fresh, read_tables
from tests.ingest.backfill.archive.archives import HOUR, HOUR_MS, LATER, both, in_order, packed, pulse
from tests.ingest.backfill.histories import NOW_NS, candles, serving, settings_for
from tests.ingest.recorder.faults.test_archive_fills import a_block
from tests.ingest.recorder.test_recorder import record
from tests.storage.lake.lakes import filled
from tests.storage.rows import trade

HOUR_S = 3_600
# A pin names another snapshot in a rebuilt lake.
SAME = tuple(name for name in TABLES if name != "pins")

Tables = dict[str, pa.Table]


class Shelf:
    """An archive of the venue's, here."""

    def __init__(self, where: str, objects: dict[str, bytes]) -> None:
        self.where, self._objects = where, objects

    def sizes(self, prefix: str) -> dict[str, int]:
        return {key: len(body) for key, body in self._objects.items() if key.startswith(prefix)}

    def download(self, key: str, path: Path) -> bool:
        if key in self._objects:
            path.write_bytes(self._objects[key])
        return key in self._objects


async def live(settings: Settings) -> None:
    """Record a simulated market twice, the second time from the end of the first; backfill another past over REST."""
    await record(settings, name="monday", span_s=90.0)
    await record(settings, name="tuesday", span_s=60.0, start_ns=parse_time_ns("2026-01-05T00:02:05Z"))
    paid = [
        SimulatedFunding("BTC", NOW_NS // 1_000_000 // 3_600_000 * 3_600_000 - n * 3_600_000, 1e-5, 0.0)
        for n in range(9)
    ]
    past = RecordedHistory(NOW_NS, {("BTC", "1m"): candles(100, flat=(5,), absent=(9,))}, paid[::-1])
    async with serving(past) as venue:
        chosen = settings_for(settings, venue)
        with Lake.open(chosen) as lake:
            for wanted, hours_back in ((RestRequest("candles"), 2), (RestRequest("funding"), 8)):
                wish = BackfillRequest(NOW_NS - hours_back * HOUR_S * 10**9, NOW_NS, ("BTC",))
                await backfill_over_rest(wanted, wish, lake, chosen, clock=ManualTime(NOW_NS))


def archived(settings: Settings) -> None:
    """Backfill an hour of trades from an archive."""
    prints = [a_block(*both(number, HOUR_MS + 60_000 * number)) for number in range(1, 9)]
    body = packed(in_order([*prints, *pulse(HOUR_MS - 60_000, HOUR_MS + 3_660_000)]))
    keys = [f"node_fills_by_block/hourly/20250729/{hour}.lz4" for hour in (13, 14, 15)]
    shelf = Shelf(settings.archive.node_data.rstrip("/"), dict.fromkeys(keys, body))
    objects = ObjectCache(shelf, settings.archive_dir / shelf.where.partition("://")[2])
    with Lake.open(settings) as lake:
        source = ArchiveTradeSource(objects, settings, ManualTime(LATER), query=lake.query)
        wish = BackfillRequest(HOUR, HOUR + HOUR_S * 10**9, ("BTC",))
        done = asyncio.run(run_backfill([source], wish, lake, settings))
    assert done.rows["trades"] == 8


def imported(settings: Settings, folder: Path) -> None:
    """Import a file of candles."""
    file = folder / "history.parquet"
    duckdb.execute(
        "COPY (SELECT 'ETH' AS coin, 1700000040000 + 60000 * i AS t, 10.0 + i AS open, 11.0 + i AS high, 9.0 AS low,"
        f" 10.5 + i AS close, 1.0 AS volume, 3 AS trades FROM range(50) r(i)) TO '{file}' (FORMAT parquet)"
    )
    with Lake.open(settings) as lake:
        import_candles(file, settings, lake)


VERSION = {
    "version": "v1", "event": "registered", "recipe": "r", "model": "m", "night": "n", "reason": "made",
    "metrics": "{}", "inputs": '{"snapshot": 1}', "artefact": "a", "ts_knowable_ns": 5,
}  # fmt: skip
LEDGERS = {
    LINEAGES: {
        "lineage": "l", "null_hypothesis": "zero", "k": 1, "p_value": None, "is_quoted": True, "through_ns": 3,
        "period_ns": 1, "definition": "{}", "recipe": "r", "night": "n", "ts_knowable_ns": 5,
    },
    GATE_DAYS: {
        "lineage": "l", "null_hypothesis": "zero", "day_ns": 2, "net": 0.1, "risk": None, "worst_loss": 0.2,
        "is_quoted": True, "source": "history", "night": "n", "ts_knowable_ns": 5,
    },
    TRIALS: {
        "trial": "t", "source": "night", "run": "n", "recipe": "r", "lineage": "l", "model": "m", "seed": 0,
        "instruments": "[]", "tested_since_ns": 1, "tested_until_ns": 3, "net": 0.1, "sharpe": None, "who": "",
        "ts_knowable_ns": 5,
    },
    COVERAGE_DAYS: {
        "instrument": "hyperliquid|perp|BTC", "day": "2026-11-22", "revision": 0, "state": "partial", "covered_h": 23.0,
        "missing_h": 1.0, "repairable_h": 0.5, "causes": "recorder_down=1", "ts_knowable_ns": 5,
    },
    HOLDOUTS: {
        "since_ns": 7, "until_ns": 9, "event": "sealed", "reason": "why", "who": "me@here", "ts_knowable_ns": 5,
    },
}  # fmt: skip
"""A row of each table that nights, days and people append to, and that no source yields again."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose lake has rows of every kind of source."""
    folder = Path(tmp_path_factory.mktemp("made"))
    settings = fresh(folder / "home")
    asyncio.run(live(settings))
    imported(settings, folder)
    archived(settings)
    with Lake.open(settings) as lake:
        seed_fees(lake)
        ledgers = {contract.name: contract.rows([row]) for contract, row in LEDGERS.items()}
        done = lake.commit({"versions": VERSIONS.rows([VERSION])} | ledgers, batch_id="versions-n")
    assert done.refused == 0
    return settings.home


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose lake has rows of a file and of an archive."""
    folder = Path(tmp_path_factory.mktemp("few"))
    settings = fresh(folder / "home")
    imported(settings, folder)
    archived(settings)
    return settings.home


@pytest.fixture(scope="module")
def held(made: Path) -> Tables:
    """The rows of that lake."""
    return read_tables(fresh(made), names=SAME)


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Settings:
    return copied(made, tmp_path)


def copied(home: Path, folder: Path) -> Settings:
    shutil.copytree(home, folder / "home")
    return fresh(folder / "home")


def assert_same(held: Tables, settings: Settings) -> dict[str, int]:
    return assert_equal(held, read_tables(settings, names=SAME))


def made_anew(settings: Settings, **more: Any) -> RebuildResult:
    return rebuild(settings, find_sources(settings), **more)


def whole(settings: Settings) -> bool:
    with Lake.open(settings, read_only=True) as lake:
        return verify(lake, now_ns=NOW_NS).is_whole


def size_of(path: Path) -> int:
    return path.stat().st_size


def data_files(settings: Settings, table: str) -> list[Path]:
    return sorted((settings.lake_dir / "data").rglob(f"{table}/*.parquet"))


def test_a_lake_made_anew_is_the_same(home: Settings, held: Tables) -> None:
    with Lake.open(home) as lake:
        pin(lake, "early", now_ns=1, snapshot=lake.snapshot() - 1)  # before the version was committed
        pin(lake, "mine", now_ns=1)
    seen: list[str] = []
    done = made_anew(home, on_step=seen.append)
    kinds = Counter((item.source.kind, item.why == "") for item in done.made)
    assert kinds == {
        ("recording", True): 2, ("backfill", True): 2, ("bars of a backfill", True): 1, ("file", True): 1,
        ("archive", True): 1, ("other", False): 2,
    }  # fmt: skip
    ledgers = [contract.name for contract in LEDGERS]
    carried = sum(held[name].num_rows for name in ("fees", "versions", *ledgers))
    assert sum(item.carried for item in done.made) == carried > 7
    assert all((table.missing, table.extra, table.lost) == (0, 0, ()) for table in done.compared)
    rows = assert_same(held, home)
    for table in ("trades", "quotes", "bars", "coverage", "candles", "funding", "fees", "versions", *ledgers):
        assert rows[table] > 0
    assert {table.table: table.equal for table in done.compared if table.equal} == rows
    assert whole(home)
    assert len(seen) == len(done.made) + len(done.compared)
    # The old lake is kept, and what was pinned in it is pinned on the snapshot that reads the same.
    assert done.kept is not None
    assert (done.kept / "catalog.sqlite").exists()
    assert not (home.home / "rebuilding").exists()
    again = {item.pin.name: item.snapshot for item in done.pins}
    with Lake.open(home, read_only=True) as lake:
        assert {item.name: item.snapshot for item in pins(lake)} == again
        assert [item.content[: len(ROWS_HASH)] for item in pins(lake)] == [ROWS_HASH] * 2
        assert [lake.query("FROM versions", at=again[name]).num_rows for name in ("early", "mine")] == [0, 1]
        # The version names a snapshot of the lake before, which holds nothing here.
        assert kept_snapshots(lake) == {again["early"]: ("early",), again["mine"]: ("mine",)}


@pytest.mark.parametrize("lake_of", ["few", pytest.param("made", id="every source", marks=pytest.mark.drill)])
def test_a_lake_that_lost_files_is_whole_again(
    request: pytest.FixtureRequest, tmp_path: Path, lake_of: str
) -> None:
    home = copied(request.getfixturevalue(lake_of), tmp_path)
    held = read_tables(home, names=SAME)
    gone = {name: max(data_files(home, name), key=size_of) for name in ("trades", "bars", "candles")}
    for path in gone.values():
        path.unlink()
    assert not whole(home)
    done = made_anew(home)
    assert (sum(item.lost for item in done.made), done.missing) == (0, 0)
    assert {item.table: item.lost for item in done.compared if item.lost} == {
        name: (str(path),) for name, path in gone.items()
    }
    assert whole(home)
    assert_same(held, home)


@pytest.mark.drill
def test_where_the_batches_are_lost_rows_say_what_they_are_of(home: Settings, held: Tables) -> None:
    for path in data_files(home, "batches"):
        path.unlink()
    done = made_anew(home)
    whys = Counter(item.source.kind for item in done.made if item.why)
    assert (whys["recording"], whys["backfill"], whys["other"] > 0) == (0, 0, True)
    assert_same(held, home)


@pytest.mark.drill
def test_what_is_gone_from_the_home_is_carried_over_and_told(home: Settings, held: Tables) -> None:
    shutil.rmtree(home.journal_dir)
    shutil.rmtree(home.archive_dir)
    done = made_anew(home)
    whys = {item.source.kind: item.why for item in done.made if item.why}
    assert whys["recording"] == whys["backfill"] == "its journal is not here"
    assert whys["archive"].startswith("3 of its objects are not here, such as 13.lz4")
    assert "file" not in whys, "it lies elsewhere"
    assert sum(item.carried for item in done.made) > 500
    assert sum(item.lost for item in done.made) == 0
    assert_same(held, home)
    assert whole(home)
    with Lake.open(home, read_only=True) as lake:
        # A backfill finds its steps by these, and the keeping of the journal its last frame.
        kept = lake.query(
            "SELECT count(*) FILTER (starts_with(batch_id, 'candles:hyperliquid')) AS pages,"
            " max(CAST(inputs->>'$.frames[1]' AS BIGINT)) FILTER (inputs->>'$.recording' = 'monday') AS last"
            " FROM batches"
        ).to_pylist()[0]
    assert (kept["pages"], kept["last"] > 250) == (1, True)


@pytest.mark.drill
def test_a_journal_that_lost_frames_is_not_taken_for_whole_and_what_nothing_gives_again_is_counted(
    home: Settings,
) -> None:
    segment = max(segments(home.journal_dir / "monday"), key=size_of)
    body = bytearray(segment.read_bytes())
    half = len(body) // 2
    body[half : half + 2_000] = bytes(2_000)
    segment.write_bytes(body)
    data_files(home, "contexts")[0].unlink()
    with pytest.raises(LakeError, match=r"lacks \d+ rows of the old one") as seen:
        made_anew(home)
    done = seen.value.facts["rebuilt"]
    assert isinstance(done, RebuildResult)
    monday, tuesday = [item for item in done.made if item.source.kind == "recording"]
    assert monday.why.startswith("its journal lacks frame ")
    assert monday.lost == monday.source.batches[0].rows["contexts"] > 10
    assert monday.carried == monday.source.rows - monday.lost
    # Made again is the other one, but without the context that its first bars had taken over.
    assert tuesday.why == ""
    assert {item.table for item in done.compared if item.missing} == {"bars"}


class Stop(BaseException):
    """Ctrl-C."""


@pytest.fixture
def small(settings: Settings) -> Settings:
    """A home with few rows that no journal holds, and a recording in which nothing printed."""
    filled(settings)
    with JournalWriter(settings.journal_dir / "silent") as journal:
        about = {"source": "socket", "coins": [], "symbols": []}
        journal.append(1, RecordKind.STARTED, -1, json.dumps(about).encode())
        journal.append(2, RecordKind.STOPPED, -1, b"told to")
    return settings


def test_one_that_is_cut_off_or_in_the_way_of_others_leaves_the_old_lake_as_it_was(small: Settings) -> None:
    held, names = read_tables(small), sorted(path.name for path in small.home.iterdir())

    def stop(name: str) -> None:
        if name == "trades":
            raise Stop

    with pytest.raises(Stop):
        made_anew(small, on_step=stop)
    with hold_recording(small.journal_dir / "silent"):
        sources = find_sources(small)
        with pytest.raises(LakeError, match=r"recording silent is in use.*stop the recorder"):
            rebuild(small, sources)
    assert_equal(held, read_tables(small))

    def write(name: str) -> None:
        if name == "trades":
            with Lake.open(small) as lake:
                pin(lake, "late", now_ns=2)

    with pytest.raises(LakeError, match="someone wrote to the lake while it was rebuilt"):
        made_anew(small, on_step=write)
    assert sorted(path.name for path in small.home.iterdir()) == names
    assert_same({name: held[name] for name in SAME}, small)


@pytest.mark.drill
def test_a_lake_that_lacks_rows_takes_no_ones_place_unless_it_is_asked_to(
    small: Settings, tmp_path: Path
) -> None:
    lacking = TRADES.rows([trade(number) for number in (901, 902, 903)])
    with Lake.open(small) as lake:
        inputs = {"recording": "silent", "frames": [0, 1]}
        lake.commit({"trades": lacking}, batch_id="live:silent:0-1", inputs=inputs)
    elsewhere = made_anew(small, to=tmp_path / "other")
    assert (elsewhere.missing, elsewhere.kept) == (3, None)
    assert read_tables(fresh(tmp_path / "other"), names=["trades"])["trades"].num_rows == 9
    with pytest.raises(LakeError, match=r"other is not empty"):
        rebuild(small, [], to=tmp_path / "other")
    with pytest.raises(LakeError, match=r"lacks 3 rows of the old one, which stays.*--accept-missing"):
        made_anew(small)
    assert not list(small.home.glob("lake-before-*"))
    done = made_anew(small, accepts_missing=True)
    assert done.missing == 3
    assert done.kept is not None
    assert done.kept.exists()


def test_a_lake_that_lies_elsewhere_is_not_replaced(settings: Settings) -> None:
    served = dataclasses.replace(
        settings, lake=dataclasses.replace(settings.lake, catalog="postgres:dbname=none")
    )
    with pytest.raises(LakeError, match=r"they cannot be replaced.*--to FOLDER"):
        rebuild(served, [])


def test_an_imported_file_is_imported_with_the_same_options_and_the_same_present(settings: Settings) -> None:
    """Candles that were open or of the future then are left out again, though they have ended by now."""
    first = parse_time_ns("2025-11-02T05:00")  # an hour before clocks are set back
    local = [
        datetime.fromtimestamp(first / 1e9 + 60 * n, ZoneInfo("America/New_York")).replace(tzinfo=None)
        for n in range(180)
    ]
    prices = {name: [10.0] * 180 for name in ("high", "low", "close", "volume")}
    settings.ensure_home()
    file = settings.home / "local.parquet"
    pq.write_table(pa.table({"coin": ["ETH"] * 180, "t": local, "open": [99.0] * 180, **prices}), file)
    with Lake.open(settings) as lake:
        done = import_candles(
            file, settings, lake, absent="quiet", opens="previous-close", timezone="America/New_York",
            clock=ManualTime(first + 9_030 * 10**9),
        )  # fmt: skip
        assert done.written == {"candles": 150, "bars": 150, "quarantine": 29}
    held = read_tables(settings, names=SAME)
    made_anew(settings)
    assert assert_same(held, settings)["candles"] == 150
