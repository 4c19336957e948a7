"""Integrity checks: every kind of damage is named, and only old orphans are removed."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from storage.clock import DAY_NS
from storage.contracts.lake_records import PINS
from storage.lake.integrity import IntegrityFinding, verify, verify_steps
from storage.lake.lake import Lake
from storage.lake.snapshots import ROWS_HASH, pin
from storage.settings import Settings
from tests.storage.lake.lakes import filled

NOW_NS = time.time_ns()
LATER_NS = NOW_NS + 30 * DAY_NS


@pytest.fixture
def lake(settings: Settings) -> Lake:
    return Lake.open(filled(settings))


def files_of(settings: Settings, table: str) -> list[Path]:
    return sorted((settings.lake_dir / "data").rglob(f"{table}/*.parquet"))


def test_an_intact_lake_has_no_findings(lake: Lake) -> None:
    pin(lake, "mine", now_ns=NOW_NS)
    steps: list[str] = []
    found = verify(lake, now_ns=NOW_NS, on_step=steps.append)
    assert (found.findings, found.is_whole) == ((), True)
    assert (found.batches, found.pins, found.files > 9, found.rows > 15) == (4, 1, True, True)
    assert len(steps) == verify_steps(lake)


def test_a_missing_file_is_named(lake: Lake, settings: Settings) -> None:
    pin(lake, "mine", now_ns=NOW_NS)
    gone = files_of(settings, "trades")[1]
    gone.unlink()
    missing, batch, held = verify(lake, now_ns=NOW_NS).findings
    assert missing == IntegrityFinding("missing", str(gone.absolute()), "its 3 rows are gone")
    assert batch == IntegrityFinding("batch", "b1", "trades holds 0 of its rows, and 3 were written")
    assert (held.kind, held.name) == ("pin", "mine")
    assert held.detail.startswith(f"the rows of snapshot {lake.snapshot() - 1} cannot be read")


def test_a_file_with_other_rows_is_named(lake: Lake, settings: Settings) -> None:
    path = files_of(settings, "trades")[0]
    pq.write_table(pq.read_table(path).slice(0, 1), path)
    assert "it has 1 rows, and 3 were written" in {
        item.detail for item in verify(lake, now_ns=NOW_NS).findings
    }


def test_a_truncated_file_is_named(lake: Lake, settings: Settings) -> None:
    path = files_of(settings, "trades")[0]
    path.write_bytes(path.read_bytes()[:-20])
    (finding,) = [item for item in verify(lake, now_ns=NOW_NS).findings if item.kind == "damaged"]
    assert (finding.name, "cannot be read" in finding.detail) == (str(path.absolute()), True)


def test_a_batch_that_lost_rows_is_named(lake: Lake) -> None:
    lake._connection.execute("DELETE FROM trades WHERE tid = 4")
    (finding,) = verify(lake, now_ns=NOW_NS).findings
    assert finding == IntegrityFinding("batch", "b1", "trades holds 2 of its rows, and 3 were written")


def test_a_pin_whose_rows_changed_is_named(lake: Lake) -> None:
    row = {"pin": "wrong", "snapshot": lake.snapshot(), "content": f"{ROWS_HASH}0", "event": "pinned"}
    rows = [row | {"ts_knowable_ns": 1}, row | {"pin": "gone", "snapshot": 999, "ts_knowable_ns": 2}]
    lake.commit({"pins": PINS.rows(rows)}, batch_id="p")
    found = {item.name: item.detail for item in verify(lake, now_ns=NOW_NS).findings}
    assert found["gone"] == "snapshot 999 is no longer there"
    assert "read otherwise" in found["wrong"]
    assert verify(lake, now_ns=NOW_NS, with_pins=False).findings == ()


def test_an_orphan_is_named_and_removed_only_when_it_is_old(lake: Lake, settings: Settings) -> None:
    orphan = files_of(settings, "trades")[0].with_name("ducklake-left.parquet")
    pq.write_table(pq.read_table(files_of(settings, "trades")[0]), orphan)
    expected = IntegrityFinding("orphan", str(orphan.absolute()), "no catalog entry names this file")
    young = verify(lake, now_ns=NOW_NS, mend=True)
    assert (young.findings, young.removed, young.is_whole, orphan.exists()) == ((expected,), (), True, True)
    assert verify(lake, now_ns=LATER_NS).removed == ()
    assert orphan.exists()
    assert verify(lake, now_ns=LATER_NS, mend=True).removed == (str(orphan.absolute()),)
    assert not orphan.exists()
    assert verify(lake, now_ns=LATER_NS).findings == ()
