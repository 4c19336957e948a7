"""Migrations: older lakes keep their rows, and newer lakes are refused."""

from __future__ import annotations

import pytest

from storage.clock import ManualTime
from storage.contracts.tables import CONTRACTS, MIGRATIONS
from storage.errors import LakeError
from storage.lake.lake import Lake
from storage.lake.migrations import LAYOUT, STEPS
from storage.lake.snapshots import snapshot_ids
from storage.settings import Settings
from tests.storage.lake.lakes import filled, make_old


def test_a_lake_of_the_first_release_is_migrated_and_keeps_its_rows(settings: Settings) -> None:
    make_old(settings)
    with Lake.open(settings, read_only=True) as lake:  # reading changes nothing
        old = lake.snapshot()
        assert lake.query("SELECT pin FROM pins")["pin"].to_pylist() == ["night"]
    with Lake.open(settings, clock=ManualTime(42)) as lake:
        assert lake.query("SELECT pin, snapshot, content, event FROM pins").to_pylist() == [
            {"pin": "night", "snapshot": 3, "content": "hash", "event": "pinned"}
        ]
        assert lake.query("SELECT funding_rate, source FROM funding").to_pylist() == [
            {"funding_rate": 0.1, "source": None}
        ]
        assert lake.query("SELECT count(*) AS n FROM pins_held")["n"][0].as_py() == 1
        taken = lake.query("SELECT number, name, ts_knowable_ns FROM migrations ORDER BY number").to_pylist()
        assert [(row["number"], row["name"], row["ts_knowable_ns"]) for row in taken] == [
            (step.number, step.name, 42) for step in STEPS
        ]
        for name, contract in CONTRACTS.items():
            held = lake.query(f"SELECT * FROM {name} LIMIT 0").schema
            assert set(held.names) == set(contract.stored_schema.names)
        # What was there before still reads as it was, and all of it came in one snapshot.
        assert lake.query("SELECT * FROM pins", at=old).num_columns == 6
        assert snapshot_ids(lake)[-1] == old + 1
    with Lake.open(settings) as lake:
        assert lake.snapshot() == old + 1, "a second opening takes no step"


@pytest.mark.parametrize("read_only", [False, True])
def test_a_lake_of_a_newer_release_is_refused(settings: Settings, read_only: bool) -> None:
    with Lake.open(filled(settings)) as lake:
        row = {"number": LAYOUT + 1, "name": "of tomorrow", "code": "1.0", "ts_knowable_ns": 1}
        lake.commit({"migrations": MIGRATIONS.rows([row])}, batch_id="m")
    said = (
        rf"the lake has layout {LAYOUT + 1}, and this tickwalk knows layouts up to {LAYOUT}.*update tickwalk"
    )
    with pytest.raises(LakeError, match=said):
        Lake.open(settings, read_only=read_only)


def test_a_lake_with_an_unknown_column_is_refused_as_newer(settings: Settings) -> None:
    with Lake.open(filled(settings)) as lake:
        lake._connection.execute("ALTER TABLE trades ADD COLUMN liquidation BOOLEAN")
    with pytest.raises(
        LakeError, match="table trades has a column 'liquidation' that this tickwalk does not"
    ):
        Lake.open(settings)


def test_migration_steps_are_numbered_without_a_gap() -> None:
    assert [step.number for step in STEPS] == list(range(1, LAYOUT + 1))


def test_a_read_only_query_names_what_an_older_lake_lacks(settings: Settings) -> None:
    make_old(settings)
    said = "the lake is of an older layout: it has no {} .*brings it to this release's layout"
    with Lake.open(settings, read_only=True) as lake:
        old = lake.snapshot()
        with pytest.raises(LakeError, match=said.format("table fees")):
            lake.query("SELECT * FROM fees")
        with pytest.raises(LakeError, match=said.format("table pins_held")):
            lake.query("SELECT * FROM pins_held")
        with pytest.raises(LakeError, match=said.format("column event of pins")):
            lake.query("SELECT event FROM pins")
        with pytest.raises(LakeError, match=r"the query failed: .*frees does not exist"):
            lake.query("SELECT * FROM frees")
    with Lake.open(settings) as lake:
        assert lake.query("SELECT * FROM fees").num_rows == 0
        with pytest.raises(LakeError, match=rf"snapshot {old} is of an older layout: it has no table fees"):
            lake.query("SELECT * FROM fees", at=old)
        with pytest.raises(LakeError, match=r"the query failed: .*column"):
            lake.query("SELECT event FROM trades")
