"""Equal answers, byte for byte, on machines in any time zone.

In each zone, the same commands run on a copy of one home that an earlier state made. In the short form they run in this
process, whose connections then begin in the zone; in the long form in a new process, since DuckDB keeps the zone in
which it was imported.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from serving import cli
from storage.clock import WallTime
from storage.lake.connection import machine_time_zone
from storage.lake.home_id import keep_home_id
from storage.lake.lake import Lake
from tests.drills.homes import filled_tables, fresh
from tests.paths import ROOT
from tests.patience import HANG_S
from tests.tickwalk.conftest import unpack_home

ZONES: Final = ("UTC", "Asia/Kolkata", "America/New_York")
NIGHT: Final = "tiny-3cae08d6426f"
_NOW_NS: Final = 1_800_000_000_000_000_000
# The hour that New York's clocks repeat in 2026, as instants and as text without a zone.
TIMES: Final = """
    SELECT current_setting('TimeZone') AS zone, ts, ts::VARCHAR AS text, ts::DATE AS day, ts::TIMESTAMP AS plain,
           date_trunc('day', ts) AS midnight, to_json({t: ts})::VARCHAR AS json, strftime(ts, '%c %Z') AS local,
           epoch_ns('2026-11-01 01:30'::TIMESTAMPTZ) AS naive
    FROM (VALUES (make_timestamptz(1793511000000000)), (make_timestamptz(1793514600000000))) times(ts)
"""
SINCE: Final = """
    SELECT instrument, ts_open, ts_close FROM bars WHERE width = '5m' AND ts_open >= '2026-02-04 00:30'
    ORDER BY ALL LIMIT 3
"""
QUICK: Final[tuple[tuple[str, ...], ...]] = (
    ("lake", "verify"),
    ("import", "candles", "naive.parquet", "--absent", "quiet"),
    ("replay", "capture.ndjson"),
    ("sql", TIMES, "--format", "json"),
    ("sql", SINCE, "--format", "csv"),
    ("sql", SINCE, "--known-at", "2026-11-30T00:00"),
    ("lake", "pin", "mine"),
    ("explain", "BTC", "2026-02-04T01:00", "--width", "5m"),
)
THOROUGH: Final = (
    ("lake", "snapshots"),  # first, as DuckLake stamps new ones with the machine's clock
    *QUICK,
    ("quarantine", "list"),
    ("models",),
    ("instruments", "--format", "csv"),
    ("gaps", "--format", "json"),
    ("report", NIGHT),
    ("reference", "seed"),
    ("reference", "fees"),
    ("features", "build", "candles", "--width", "5m"),
    ("features", "build", "candles", "--width", "5m", "--to", "features.safetensors", "--anyway"),
    ("explain", "BTC", "2026-02-04T01:00", "--width", "5m", "--feature", "log_return_1"),
    ("nightly", "--recipe", "tiny.toml"),
    ("lake", "compact"),
    ("lake", "rebuild", "--to", "rebuilt"),
    ("lake", "verify"),
)
RECIPE: Final = """
    base = "candles"
    name = "tiny"
    width = "5m"
    feature_set = "candles"
    window_bars = 2
    stride = 2
    seeds = 1
    controls = ["ridge"]
    challengers = ["mlp"]
    [folds]
    n_folds = 1
    unit = "hour"
    test_units = 1
    valid_units = 1
    train_units = 1
    embargo_bars = 6
    [fit]
    epochs = 2
    batch = 128
"""
PRINT: Final = (
    '{"recv_ns":%d,"msg":{"channel":"trades",'
    '"data":[{"coin":"BTC","side":"B","px":"%d","sz":"1","time":%d,"tid":%d}]}}'
)


def write_inputs(folder: Path) -> None:
    """Write candles whose times have no zone, a capture, and a recipe."""
    first = datetime(2026, 11, 1, 5, 30)  # noqa: DTZ001
    candles = {
        "coin": ["XRP"] * 60,
        "t": pa.array([first + timedelta(minutes=n) for n in range(60)], pa.timestamp("us")),
        **{name: [2.0] * 60 for name in ("open", "high", "low", "close", "volume")},
    }
    pq.write_table(pa.table(candles), folder / "naive.parquet")
    prints = [
        PRINT % (second * 1_000_000_000, 100 + second % 7, second * 1_000, second)
        for second in range(1_793_511_000, 1_793_511_200)
    ]
    (folder / "capture.ndjson").write_text("\n".join(prints))
    (folder / "tiny.toml").write_text(RECIPE)


def work(zone: str, folder: Path, commands: Sequence[Sequence[str]]) -> None:
    """Run commands in this process, whose zone is set, and write what they said to a file."""
    assert machine_time_zone() == zone, "DuckDB was imported before the zone was set"
    assert time.tzname[0] == {"UTC": "UTC", "Asia/Kolkata": "IST", "America/New_York": "EST"}[zone]
    os.chdir(folder)
    said = []
    for command in commands:
        out, code = io.StringIO(), 0
        with redirect_stdout(out), redirect_stderr(out):
            try:
                cli.main(["--home", "home", "--log-level", "error", *command])
            except SystemExit as end:
                code = int(end.code or 0)
        said.append([command, code, out.getvalue().replace(str(folder), "FOLDER")])
    (folder / "said.json").write_text(json.dumps(said))


def stop_clock() -> None:
    """Let no row depend on when it was written."""
    WallTime.now_ns = lambda _: _NOW_NS  # type: ignore[method-assign]


def homes(folder: Path) -> dict[str, Path]:
    """Return a folder with a copy of one home and inputs for each zone."""
    made = {
        zone: folder / str(number) for number, zone in enumerate(ZONES)
    }  # equally long, as tables are wrapped
    for place in made.values():
        keep_home_id(folder, unpack_home(place))
        write_inputs(place)
    return made


def answers(folder: Path) -> list[Any]:
    """Return what commands said."""
    said: list[Any] = json.loads((folder / "said.json").read_text())
    return said


def tables(home: Path) -> dict[str, pa.Table]:
    """Return all rows of a lake by table; the inputs of a batch may name files below the home's folder."""
    with Lake.open(fresh(home), read_only=True) as lake:
        found = {name: lake.query(f"FROM {name} ORDER BY ALL") for name in sorted(filled_tables(lake))}
    inputs = pc.replace_substring(found["batches"]["inputs"], str(home.parent), "FOLDER")
    found["batches"] = found["batches"].drop(["inputs"]).append_column("inputs", inputs)
    return found


def files(folder: Path, *patterns: str) -> dict[str, bytes]:
    """Return the content of files by their path below a folder; a night also notes how long its steps took."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for pattern in patterns
        for path in sorted(folder.glob(pattern))
        if path.is_file() and path.parent.name != "timings"
    }


@pytest.fixture
def in_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """A function that moves this process to a zone, for one test."""
    connect = duckdb.connect

    def move(zone: str) -> None:
        def connect_there(*arguments: Any, **more: Any) -> duckdb.DuckDBPyConnection:
            made = connect(*arguments, **more)
            made.execute(f"SET GLOBAL TimeZone = '{zone}'")
            return made

        monkeypatch.setattr(duckdb, "connect", connect_there)
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    monkeypatch.setattr(WallTime, "now_ns", lambda _: _NOW_NS)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(Path.cwd())  # go back there afterwards
    yield move
    monkeypatch.undo()
    time.tzset()


def test_commands_answer_equally_in_two_zones(tmp_path: Path, in_zone: Callable[[str], None]) -> None:
    folders = homes(tmp_path)
    one, other = (folders[zone] for zone in ZONES[1:])
    for zone in ZONES[1:]:
        in_zone(zone)
        work(zone, folders[zone], QUICK)
    assert answers(one) == answers(other)
    assert [code for _, code, _ in answers(one)] == [0] * len(QUICK)
    said = {tuple(command): text for command, _, text in answers(one)}
    first, second = map(json.loads, said["sql", TIMES, "--format", "json"].splitlines())
    assert (first["zone"], first["text"], first["day"]) == ("UTC", "2026-11-01 05:30:00+00", "2026-11-01")
    assert second["naive"] == 1_793_496_600_000_000_000
    assert (
        said["sql", SINCE, "--format", "csv"]
        .splitlines()[1]
        .endswith("2026-02-04T00:30:00+00:00,2026-02-04T00:35:00+00:00")
    )
    assert tables(one / "home") == tables(other / "home")


@pytest.mark.drill
def test_all_commands_answer_equally_in_three_zones(tmp_path: Path) -> None:
    folders = homes(tmp_path)
    for zone, folder in folders.items():
        command = [sys.executable, "-m", __name__, zone, str(folder)]
        environ = os.environ | {"TZ": zone, "COLUMNS": "300"}
        subprocess.run(command, env=environ, cwd=ROOT, check=True, timeout=HANG_S)
    first, *others = folders.values()
    written = ("*.safetensors", "home/reports/*.html", "home/features/candles-*/*", "home/models/**/*")
    assert [(command, text) for command, code, text in answers(first) if code] == []
    assert len(files(first, *written)) > 10
    for other in others:
        for mine, its in zip(answers(first), answers(other), strict=True):
            assert mine == its
        for lake in ("home", "rebuilt"):
            assert tables(first / lake) == tables(other / lake)
        assert files(first, *written) == files(other, *written)


if __name__ == "__main__":
    stop_clock()
    work(sys.argv[1], Path(sys.argv[2]), THOROUGH)
