"""The lake: atomic and idempotent commits, also from several processes and after kills; readable snapshots."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import duckdb
import pytest

from storage.clock import ManualTime
from storage.contracts.tables import BARS, TRADES
from storage.errors import LakeError
from storage.lake.lake import Lake
from storage.settings import Settings, load_settings
from tests.paths import ROOT
from tests.storage.rows import bar, trade


def count(lake: Lake, table: str, *, at: int | None = None) -> int:
    return int(lake.query(f"SELECT count(*) AS n FROM {table}", at=at)["n"][0].as_py())


@pytest.mark.real_lakes
def test_committing_a_batch_id_again_does_nothing(settings: Settings) -> None:
    with Lake.open(settings, clock=ManualTime(42)) as lake:
        first = lake.commit({"trades": TRADES.rows([trade(1), trade(2)])}, batch_id="a")
        again = lake.commit({"trades": TRADES.rows([trade(1), trade(2)])}, batch_id="a")
        assert first.rows == {"trades": 2}
        assert (again.is_new, again.rows, again.snapshot) == (False, {}, first.snapshot)
        assert count(lake, "trades") == 2
        assert lake.query("SELECT DISTINCT ts_ingested_ns, batch FROM trades").to_pylist() == [
            {"ts_ingested_ns": 42, "batch": "a"}
        ]


@pytest.mark.real_lakes
def test_existing_rows_are_not_written_again(settings: Settings) -> None:
    with Lake.open(settings) as lake:
        lake.commit({"trades": TRADES.rows([trade(1), trade(2)])}, batch_id="a")
        # The same prints by another recording, received at another time.
        later = [trade(1, journal="other", ts_recv_ns=9), trade(2), trade(3)]
        assert lake.commit({"trades": TRADES.rows(later)}, batch_id="b").rows == {"trades": 1}
        assert count(lake, "trades") == 3
        assert count(lake, "quarantine") == 0


def test_a_row_with_a_stored_key_and_other_values_is_quarantined(settings: Settings) -> None:
    with Lake.open(settings) as lake:
        lake.commit({"trades": TRADES.rows([trade(1)])}, batch_id="a")
        done = lake.commit({"trades": TRADES.rows([trade(1, price=7.0), trade(2)])}, batch_id="b")
        assert done.refused == 1
        assert lake.query("SELECT price FROM trades ORDER BY tid")["price"].to_pylist() == [100.0, 100.0]
        row = lake.query("SELECT * FROM quarantine").to_pylist()[0]
        assert row["reason"] == "trades holds the same key with other values"
        assert json.loads(row["raw"])["price"] == 7.0


def test_a_bar_with_other_values_becomes_a_revision(settings: Settings) -> None:
    with Lake.open(settings) as lake:
        lake.commit({"bars": BARS.rows([bar(0), bar(0, revision=1, volume=3.0), bar(1)])}, batch_id="a")
        lake.commit({"bars": BARS.rows([bar(0), bar(0, revision=1, volume=3.0)])}, batch_id="b")
        lake.commit({"bars": BARS.rows([bar(0, volume=5.0), bar(0, revision=1, volume=6.0)])}, batch_id="c")
        held = lake.query(
            "SELECT revision, volume FROM bars WHERE ts_open = make_timestamptz(0) ORDER BY revision"
        )
        assert held["volume"].to_pylist() == [2.0, 3.0, 5.0, 6.0]
        assert held["revision"].to_pylist() == [0, 1, 2, 3]
        assert lake.query("SELECT volume FROM bars_latest ORDER BY ts_open")["volume"].to_pylist() == [
            6.0,
            2.0,
        ]


def test_a_row_that_breaks_its_contract_does_not_stop_the_good_ones(settings: Settings) -> None:
    with Lake.open(settings) as lake:
        done = lake.commit({"trades": TRADES.rows([trade(1), trade(2, price=-1.0), trade(3)])}, batch_id="a")
        assert (done.rows["trades"], done.refused) == (2, 1)
        assert "price is -1.0" in lake.query("SELECT reason FROM quarantine")["reason"][0].as_py()


def test_a_snapshot_reads_unchanged(settings: Settings) -> None:
    with Lake.open(settings) as lake:
        first = lake.commit({"trades": TRADES.rows([trade(1)])}, batch_id="a").snapshot
        second = lake.commit({"trades": TRADES.rows([trade(2)])}, batch_id="b").snapshot
        assert [count(lake, "trades", at=at) for at in (first, second)] == [1, 2]
        assert lake.snapshot() == second
        with pytest.raises(LakeError, match=r"snapshot 999 does not exist.*tickwalk lake snapshots"):
            count(lake, "trades", at=999)


@pytest.mark.real_lakes
def test_a_lake_continues_after_a_reconnect(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each commit leaks memory in a connection, so a recorder replaces its connection regularly."""
    monkeypatch.setattr("storage.lake.lake._COMMITS_PER_CONNECTION", 2)
    with Lake.open(settings) as lake:
        before = lake._connection
        marks = []
        for number in range(5):
            done = lake.commit({"trades": TRADES.rows([trade(number)])}, batch_id=str(number))
            marks.append(done.snapshot)
            assert count(lake, "trades", at=marks[0]) == 1
        assert lake._connection is not before
        assert [count(lake, "trades", at=mark) for mark in marks] == [1, 2, 3, 4, 5]
        assert not lake.commit({"trades": TRADES.rows([trade(0)])}, batch_id="0").is_new


def test_every_snapshot_names_its_inputs_and_code(settings: Settings) -> None:
    with Lake.open(settings) as lake:
        done = lake.commit(
            {"trades": TRADES.rows([trade(1)])}, batch_id="a", inputs={"recording": "r", "frames": [0, 9]}
        )
        row = lake.query(
            "SELECT commit_message, commit_extra_info FROM lake.snapshots() WHERE snapshot_id = ?",
            [done.snapshot],
        ).to_pylist()[0]
        extra = json.loads(row["commit_extra_info"])
        assert row["commit_message"] == "a"
        assert extra["inputs"] == {"recording": "r", "frames": [0, 9]}
        assert extra["code"]


def test_opening_a_missing_lake_read_only_says_how_to_make_one(settings: Settings) -> None:
    with pytest.raises(LakeError, match=r"there is no lake in .*tickwalk replay FILE"):
        Lake.open(settings, read_only=True)


@pytest.mark.parametrize("text", ["", " \n", "-- nothing", "/* nothing */ ;", ";"])
def test_an_empty_query_is_refused(settings: Settings, text: str) -> None:
    with Lake.open(settings) as lake, pytest.raises(LakeError, match=r"the query is empty.*SHOW TABLES"):
        lake.query(text)


@pytest.mark.real_lakes
def test_a_read_only_lake_refuses_to_write(settings: Settings) -> None:
    Lake.open(settings).close()
    with (
        Lake.open(settings, read_only=True) as lake,
        pytest.raises(LakeError, match="could not be committed"),
    ):
        lake.commit({"trades": TRADES.rows([trade(1)])}, batch_id="a")


def test_a_query_that_fails_says_why(settings: Settings) -> None:
    with Lake.open(settings) as lake, pytest.raises(LakeError, match=r"the query failed: .*nowhere"):
        lake.query("SELECT * FROM nowhere")


WRITER = """
import sys
from pathlib import Path
from storage.contracts.tables import BARS, TRADES
from storage.lake.lake import Lake
from storage.settings import load_settings
from tests.storage.rows import bar, trade
name, batches, home = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
with Lake.open(load_settings(overrides={"home": home}, environ={})) as lake:
    for batch in range(batches):
        tids = [name * 1_000_000 + batch * 10 + i for i in range(10)]
        bars = [bar(name * 1_000_000 + batch)]
        tables = {"trades": TRADES.rows([trade(t) for t in tids]), "bars": BARS.rows(bars)}
        lake.commit(tables, batch_id=f"{name}-{batch}")
        print(batch, flush=True)
"""


def start_writer(home: Path, name: int, batches: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WRITER, str(name), str(batches), str(home)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ})


@pytest.mark.drill
@pytest.mark.real_lakes
def test_two_processes_write_at_once_and_lose_nothing(settings: Settings) -> None:
    Lake.open(settings).close()
    writer = start_writer(settings.home, 1, 6)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "0\n"
    with Lake.open(settings) as lake:
        for number in range(6):
            trades = TRADES.rows([trade(2_000_000 + 10 * number + i) for i in range(10)])
            tables = {"trades": trades, "bars": BARS.rows([bar(2_000_000 + number)])}
            lake.commit(tables, batch_id=f"2-{number}")
    assert writer.wait(timeout=120) == 0
    with Lake.open(settings, read_only=True) as lake:
        assert count(lake, "trades") == 120
        assert count(lake, "bars") == 12
        assert count(lake, "batches") == 12


def test_a_killed_writer_leaves_complete_batches_and_all_acknowledged_ones(settings: Settings) -> None:
    Lake.open(settings).close()
    writer = start_writer(settings.home, 1, 10_000)
    assert writer.stdout is not None
    acknowledged = [int(writer.stdout.readline()) for _ in range(5)]
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    acknowledged += [int(line) for line in writer.stdout.read().split()]
    with Lake.open(settings) as lake:
        batches, trades, bars = (count(lake, table) for table in ("batches", "trades", "bars"))
        assert batches >= len(acknowledged)
        assert (trades, bars) == (batches * 10, batches)
        lake.commit({"trades": TRADES.rows([trade(1)])}, batch_id="after")
        assert count(lake, "trades") == trades + 1


@pytest.mark.parametrize("name", ["with space", "it's quoted", "50% off"])
def test_a_home_may_have_any_name_and_be_moved(tmp_path: Path, name: str) -> None:
    made, moved = (
        load_settings(overrides={"home": tmp_path / folder}, environ={}) for folder in (name, name + "2")
    )
    with Lake.open(made) as lake:
        first = lake.commit({"trades": TRADES.rows([trade(1)])}, batch_id="a").snapshot
    made.home.rename(moved.home)
    with Lake.open(moved) as lake:
        lake.commit({"trades": TRADES.rows([trade(2)])}, batch_id="b")
        assert [count(lake, "trades"), count(lake, "trades", at=first)] == [2, 1]


@pytest.mark.real_lakes
def test_a_home_may_have_a_relative_or_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, home in enumerate(("here", tmp_path / "here")):
        with Lake.open(load_settings(overrides={"home": home}, environ={})) as lake:
            lake.commit({"trades": TRADES.rows([trade(number)])}, batch_id=str(number))
            assert count(lake, "trades") == number + 1


@pytest.mark.real_lakes
def test_no_connection_loads_an_unsigned_extension(settings: Settings, tmp_path: Path) -> None:
    """Nor does a later connection of the process, which skips checking the lake's extensions."""
    package = files("duckdb_extension_httpfs") / "extensions" / f"v{duckdb.__version__}"
    forged = bytearray((package / "httpfs.duckdb_extension").read_bytes())
    forged[len(forged) // 2] ^= 1
    path = tmp_path / "httpfs.duckdb_extension"
    path.write_bytes(forged)
    for _ in range(2):
        with Lake.open(settings) as lake, pytest.raises(LakeError, match="signature"):
            lake.query(f"LOAD '{path}'")
