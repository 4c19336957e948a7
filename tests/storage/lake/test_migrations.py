"""Migrations: older lakes keep their rows, and newer lakes are refused."""

from __future__ import annotations

import pytest

from storage.clock import ManualTime
from storage.contracts.lake_records import MIGRATIONS
from storage.contracts.tables import BARS, CONTRACTS, COVERAGE
from storage.errors import LakeError
from storage.lake.home_id import home_id
from storage.lake.integrity import verify
from storage.lake.lake import Lake
from storage.lake.migrations import LAYOUT, STEPS
from storage.lake.snapshots import rows_hash, snapshot_ids
from storage.settings import Settings
from tests.storage.lake.lakes import OLD_BARS, filled, make_old
from tests.storage.rows import BTC, bar

_TO_LAYOUT_2 = (
    "ALTER TABLE bars DROP COLUMN ts_available_ns",
    "ALTER TABLE bars DROP COLUMN home",
    "DROP TABLE recordings",
    "DELETE FROM migrations WHERE number > 2",
)


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


AVAILABLE = [row["ts_available_ns"] for row in OLD_BARS]
CLOCK = "SELECT ts_available_ns FROM {} ORDER BY ts_open, revision"


def test_bars_of_an_older_release_have_both_clocks_wherever_they_are_read(settings: Settings) -> None:
    make_old(settings)
    newest = [AVAILABLE[0], *AVAILABLE[2:]]
    with Lake.open(settings, read_only=True) as lake:
        old = lake.snapshot()
        content = rows_hash(lake, old)
        for at in (None, old):
            assert lake.query(CLOCK.format("bars"), at=at)["ts_available_ns"].to_pylist() == AVAILABLE
            assert lake.query(CLOCK.format("bars_latest"), at=at)["ts_available_ns"].to_pylist() == newest
            assert lake.query("SELECT DISTINCT home FROM bars", at=at)["home"].to_pylist() == [""]
        with Lake.open(settings) as writer:  # meanwhile
            assert writer.query(CLOCK.format("bars"))["ts_available_ns"].to_pylist() == AVAILABLE
        assert lake.query("SELECT DISTINCT home FROM bars")["home"].to_pylist() == [home_id(settings.home)]
        assert lake.query("SELECT DISTINCT home FROM bars", at=old)["home"].to_pylist() == [""]
        # What a pin covers reads the same before the migration, after it, and in any other lake of these rows.
        assert rows_hash(lake, old) == content
        known_ns = OLD_BARS[1]["ts_knowable_ns"]
        known = lake.query("SELECT * FROM bars", at=old, known_at_ns=known_ns)
        assert (known.num_rows, known.num_columns) == (3, len(BARS.stored_schema))
        # The rows were rewritten: no file is read less the rows deleted from it.
        named = lake.query("SELECT delete_file FROM ducklake_list_files('lake', 'bars')")
        assert named["delete_file"].null_count == named.num_rows > 0
        assert not [finding for finding in verify(lake, now_ns=1).findings if "bars" in str(finding)]


def test_history_of_recorded_instruments_is_stamped_with_its_arrival(settings: Settings) -> None:
    """What a recording listed follows from its coverage; an archive's coverage is no recording's."""
    day, minute = 1_440, 60_000_000
    watched = {
        "journal": "monday", "connection": 0, "channel": "trades", "instrument": BTC, "kind": "watched",
        "cause": "", "evidence": "socket", "bridged": False, "revision": 0, "ts_knowable_ns": 0,
        "ts_from": 10 * day * minute, "ts_to": (10 * day + 5) * minute,
    }  # fmt: skip
    archive = watched | {"journal": "s3://there/fills/1.lz4", "ts_from": 0, "ts_to": 20 * day * minute}
    minutes = (0, 10 * day - 1, 10 * day, 11 * day + 4, 11 * day + 5, 20 * day)
    history = [
        bar(at, origin=origin, instrument=name)
        for at in minutes
        for origin, name in (("candle", BTC), ("archive", BTC + "~2"))
    ]
    with Lake.open(settings, clock=ManualTime(77 * day * minute * 1_000)) as lake:
        lake.commit(
            {"bars": BARS.rows([*history, bar(5)]), "coverage": COVERAGE.rows([watched, archive])},
            batch_id="b",
        )
        for statement in _TO_LAYOUT_2:
            lake._connection.execute(statement)
    with Lake.open(settings) as lake:
        rows = lake.query("SELECT instrument, ts_open, ts_knowable_ns = ts_ingested_ns AS is_moved FROM bars")
        known = lake.query("SELECT * EXCLUDE (ts_ingested_ns, batch) FROM recordings").to_pylist()
    moved = {
        (row["instrument"], round(row["ts_open"].timestamp()) // 60)
        for row in rows.to_pylist()
        if row["is_moved"]
    }
    assert moved == {(BTC, 10 * day), (BTC, 11 * day + 4)}
    assert known == [
        {
            "recording": "monday", "home": "", "venue": "hyperliquid", "instruments": f'["{BTC}"]',
            "ts_started_ns": 10 * day * minute * 1_000, "ts_last_ns": (10 * day + 5) * minute * 1_000,
            "ts_knowable_ns": (10 * day + 5) * minute * 1_000,
        }
    ]  # fmt: skip


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
