"""Layouts: a lake of the first release is brought to this one with its rows whole, and a newer one is refused."""

from __future__ import annotations

from typing import Final

import pytest

from storage.clock import ManualTime
from storage.connection import connect
from storage.contracts import CONTRACTS, MIGRATIONS
from storage.errors import LakeError
from storage.history import snapshot_ids
from storage.lake import Lake
from storage.migrations import LAYOUT, STEPS
from storage.settings import Settings
from tests.storage.homes import filled

# Some of the first release's tables, as it made them; pins had no event, and there were no migrations.
OLD: Final = """
    CREATE TABLE pins (pin VARCHAR, snapshot BIGINT, content VARCHAR, ts_knowable_ns BIGINT,
        ts_ingested_ns BIGINT, batch VARCHAR);
    CREATE TABLE batches (batch_id VARCHAR, rows VARCHAR, inputs VARCHAR, code VARCHAR, ts_knowable_ns BIGINT,
        ts_ingested_ns BIGINT, batch VARCHAR);
    CREATE TABLE funding (instrument VARCHAR, ts_event TIMESTAMPTZ, funding_rate DOUBLE, premium DOUBLE,
        interval_h INTEGER, ts_knowable_ns BIGINT, ts_ingested_ns BIGINT, batch VARCHAR);
    INSERT INTO pins VALUES ('night', 3, 'hash', 5, 5, 'p');
    INSERT INTO batches VALUES ('p', '{"pins": 1}', '{}', 'old', 5, 5, 'p');
    INSERT INTO funding VALUES ('x', make_timestamptz(0), 0.1, NULL, 1, 5, 5, 'f');
"""


def make_old(settings: Settings) -> None:
    settings.ensure_home()
    catalog = f"sqlite:{settings.lake_dir / 'catalog.sqlite'}"
    run = connect(settings.lake, catalog)
    run.execute(
        f"ATTACH 'ducklake:{catalog}' AS lake (DATA_PATH '{settings.lake_dir / 'data'}', "
        "DATA_INLINING_ROW_LIMIT 0, META_JOURNAL_MODE 'WAL')"
    )
    run.execute("USE lake")
    run.execute(OLD)
    run.close()


def test_a_lake_of_the_first_release_is_migrated_with_its_rows_whole(settings: Settings) -> None:
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


def test_a_column_that_nobody_here_knows_is_of_a_newer_release(settings: Settings) -> None:
    with Lake.open(filled(settings)) as lake:
        lake._connection.execute("ALTER TABLE trades ADD COLUMN liquidation BOOLEAN")
    with pytest.raises(
        LakeError, match="table trades has a column 'liquidation' that this tickwalk does not"
    ):
        Lake.open(settings)


def test_steps_are_numbered_without_a_hole() -> None:
    assert [step.number for step in STEPS] == list(range(1, LAYOUT + 1))
