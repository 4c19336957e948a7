"""Maintenance: snapshots read unchanged, kept snapshots stay, unused files go, and repetition is harmless."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest

from storage.clock import DAY_NS, NS
from storage.contracts.lake_records import VERSIONS
from storage.contracts.tables import CONTRACTS
from storage.errors import LakeError
from storage.lake.integrity import verify
from storage.lake.lake import Lake
from storage.lake.maintenance import compact, expirable, expire, remove_freed, status
from storage.lake.snapshots import (
    diff,
    diff_rows,
    kept_snapshots,
    list_snapshots,
    pin,
    pins,
    rows_hash,
    snapshot_ids,
    tables_at,
    unpin,
)
from storage.settings import Settings
from tests.storage.rows import BTC, bar, batch, trade

# The catalog stamps snapshots by the wall's clock, so the tests' present is some days after it.
NOW_NS = time.time_ns()
LATER_NS = NOW_NS + 30 * DAY_NS


def fill(lake: Lake, first: int, last: int) -> list[int]:
    """Commit batches and return their snapshots."""
    return [lake.commit(batch(number), batch_id=f"b{number}").snapshot for number in range(first, last)]


def files(settings: Settings) -> set[Path]:
    return set((settings.lake_dir / "data").rglob("*.parquet"))


def seen(lake: Lake, at: int) -> dict[str, object]:
    """Return every row of every table of a snapshot, in the order of the keys."""
    return {
        name: lake.query(f"SELECT * FROM {name} ORDER BY {', '.join(CONTRACTS[name].key)}", at=at)
        for name in tables_at(lake, at, with_rows=True)
    }


def test_maintenance_does_not_change_what_a_kept_snapshot_reads(settings: Settings) -> None:
    with Lake.open(settings) as lake:
        made = fill(lake, 0, 6)
        held = [pin(lake, name, now_ns=NOW_NS, snapshot=made[at]) for name, at in (("early", 1), ("late", 4))]
        before = {item.snapshot: seen(lake, item.snapshot) for item in held}
        newest, count = lake.snapshot(), len(files(settings))
        before[newest] = seen(lake, newest)

        assert compact(lake, now_ns=NOW_NS)["trades"] == (6, 1)
        assert len(expire(lake, now_ns=LATER_NS, dry_run=False)) > 6
        remove_freed(lake, now_ns=LATER_NS)

        assert len(files(settings)) < count / 2
        assert {item.snapshot for item in held} < set(snapshot_ids(lake))
        assert made[2] not in snapshot_ids(lake)
        for at, tables in before.items():
            if at != newest:
                assert len(tables) >= 4
                assert seen(lake, at) == tables
        assert [rows_hash(lake, item.snapshot) for item in held] == [item.content for item in held]
        assert verify(lake, now_ns=LATER_NS).findings == ()


def test_repeated_maintenance_does_nothing(settings: Settings) -> None:
    with Lake.open(settings) as lake:
        fill(lake, 0, 2)
        compact(lake, now_ns=NOW_NS)
        expire(lake, now_ns=LATER_NS, dry_run=False)
        remove_freed(lake, now_ns=LATER_NS)
        at, left = lake.snapshot(), files(settings)
        assert compact(lake, now_ns=LATER_NS) == {}
        assert expire(lake, now_ns=LATER_NS, dry_run=False) == []
        assert (lake.snapshot(), files(settings)) == (at, left)
        assert rows_hash(lake, at) == rows_hash(lake, lake.snapshot())


def test_unused_files_stay_until_the_grace_period_ends(settings: Settings) -> None:
    with Lake.open(settings) as lake:
        fill(lake, 0, 3)
        before = files(settings)
        compact(lake, now_ns=NOW_NS)
        assert before < files(settings)
        found = status(lake, now_ns=time.time_ns())
        assert (found.freed > 8, found.removable) == (True, 0)
        assert remove_freed(lake, now_ns=LATER_NS) == found.freed
        assert len(before - files(settings)) == found.freed
        assert verify(lake, now_ns=LATER_NS).findings == ()


def test_maintenance_waits_for_readers_and_gives_way_to_long_ones(settings: Settings) -> None:
    with Lake.open(settings) as lake, Lake.open(settings, read_only=True) as reader:
        with (
            reader._locks.reading(),
            pytest.raises(LakeError, match=r"held the lake's lock for 0\.1 s"),
            lake.alone(patience_s=0.1),
        ):
            pass
        with lake.alone():
            assert lake.query("SELECT count(*) AS n FROM trades").num_rows == 1


def test_expiry_is_a_dry_run_by_default(settings: Settings) -> None:
    with Lake.open(settings) as lake:
        fill(lake, 0, 3)
        there = snapshot_ids(lake)
        assert expire(lake, now_ns=NOW_NS) == []  # none is seven days old
        assert expire(lake, now_ns=LATER_NS) == there[:-1]
        assert snapshot_ids(lake) == there


def test_a_reader_of_an_expired_snapshot_gets_an_error(settings: Settings) -> None:
    with Lake.open(settings) as lake, Lake.open(settings, read_only=True) as reader:
        made = fill(lake, 0, 3)
        assert reader.query("SELECT count(*) AS n FROM trades", at=made[0])["n"][0].as_py() == 3
        expire(lake, now_ns=LATER_NS, dry_run=False)
        with pytest.raises(LakeError, match=r"snapshot \d+ does not exist or has expired"):
            reader.query("SELECT count(*) AS n FROM trades", at=made[0])


def test_unpinning_appends_a_row(settings: Settings) -> None:
    with Lake.open(settings) as lake:
        at = fill(lake, 0, 2)[0]
        made = pin(lake, "night", now_ns=NOW_NS, snapshot=at)
        assert pin(lake, "night", now_ns=NOW_NS + NS, snapshot=at) == made
        with pytest.raises(LakeError, match=r"the pin 'night' holds snapshot .*tickwalk lake unpin night"):
            pin(lake, "night", now_ns=NOW_NS + NS)
        assert at not in expirable(lake, now_ns=LATER_NS)
        assert unpin(lake, "night", now_ns=NOW_NS + 2 * NS) == [made]
        events = lake.query("SELECT event FROM pins ORDER BY ts_knowable_ns")["event"].to_pylist()
        assert (events, pins(lake)) == (["pinned", "unpinned"], [])
        assert at in expirable(lake, now_ns=LATER_NS)
        with pytest.raises(LakeError, match="there is no pin 'night'"):
            unpin(lake, "night", now_ns=NOW_NS + 3 * NS)


def test_a_snapshot_named_by_a_model_version_never_expires(settings: Settings) -> None:
    event = dict.fromkeys(("recipe", "model", "night", "reason", "artefact"), "x")
    event |= {"version": "v1", "event": "registered", "metrics": "{}", "ts_knowable_ns": NOW_NS}
    with Lake.open(settings) as lake:
        at = fill(lake, 0, 2)[0]
        rows = VERSIONS.rows([event | {"inputs": f'{{"snapshot": {at}}}'}])
        lake.commit({"versions": rows}, batch_id="v")
        expire(lake, now_ns=LATER_NS, dry_run=False)
        assert kept_snapshots(lake) == {at: ("version v1",)}
        assert lake.query("SELECT count(*) AS n FROM trades", at=at)["n"][0].as_py() == 3


def test_a_snapshot_list_names_pins_and_versions(settings: Settings) -> None:
    with Lake.open(settings) as lake:
        at = fill(lake, 0, 2)[1]
        pin(lake, "mine", now_ns=NOW_NS)
        rows = {row["snapshot"]: row for row in list_snapshots(lake, limit=2).to_pylist()}
        assert (rows[at]["batch"], rows[at]["held_by"]) == ("b1", "mine")
        assert len(rows) == 2


def test_diff_counts_and_lists_the_added_rows(settings: Settings) -> None:
    with Lake.open(settings) as lake:
        first = fill(lake, 0, 3)[-1]
        tables = batch(3) | {"bars": CONTRACTS["bars"].rows([bar(3), bar(1, volume=9.0)])}
        second = lake.commit(tables, batch_id="more").snapshot
        compact(lake, now_ns=NOW_NS)
        added = {item.table: (item.before, item.rows) for item in diff(lake, first, second)}
        assert (added["trades"], added["bars"], added["books"]) == ((9, 3), (3, 2), (0, 0))
        changed = diff_rows(lake, first, second, "bars").select(["instrument", "ts_open", "revision"])
        assert [(row["instrument"], row["revision"]) for row in changed.to_pylist()] == [(BTC, 1), (BTC, 0)]
        with pytest.raises(LakeError, match=f"tickwalk lake diff {first} {second}"):
            diff(lake, second, first)


def test_the_hash_of_rows_does_not_depend_on_their_commits(settings: Settings, tmp_path: Path) -> None:
    other = dataclasses.replace(settings, home=tmp_path / "other")
    with Lake.open(settings) as one, Lake.open(other) as two:
        one.commit({"trades": CONTRACTS["trades"].rows([trade(1), trade(2)])}, batch_id="a")
        for number in (2, 1):
            two.commit({"trades": CONTRACTS["trades"].rows([trade(number)])}, batch_id=f"{number}")
        assert rows_hash(one, one.snapshot()) == rows_hash(two, two.snapshot())
        two.commit({"trades": CONTRACTS["trades"].rows([trade(3)])}, batch_id="more")
        assert rows_hash(one, one.snapshot()) != rows_hash(two, two.snapshot())
