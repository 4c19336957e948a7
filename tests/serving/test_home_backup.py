"""Backup of a home, and its restoration into an empty one."""

from __future__ import annotations

import dataclasses
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from serving.home_backup import AIRFLOW_DATABASE, CATALOG, MANIFEST, create_backup, restore_backup
from storage.contracts.tables import TRADES
from storage.errors import LakeError, SettingsError
from storage.lake.integrity import verify
from storage.lake.lake import Lake
from storage.settings import Settings, load_settings
from tests.drills.lake_process import noted, start
from tests.storage.rows import trade
from tests.storage.servers import BUCKET, postgres, s3

NOW_NS = 1_000_000_000


def home_with_rows(folder: Path, **values: object) -> Settings:
    """Return the settings of a home with rows in its lake, and files of each kind."""
    settings = load_settings(overrides={"home": folder, **values}, environ={})
    with Lake.open(settings) as lake:
        lake.commit({"trades": TRADES.rows([trade(1), trade(2)])}, batch_id="first")
    for name, text in {
        "journal/a/segment-0": "frames",
        "models/night/checkpoint": "weights",
        "models/fits/shared": "left out",
        "features/day": "left out",
        "reports/night.html": "page",
        "recorder/status": "left out",
        "airflow/logs/task.log": "left out",
    }.items():
        path = settings.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    secret = settings.home / "airflow" / "secrets.json"
    secret.touch(mode=0o600)
    secret.write_text("{}", encoding="utf-8")
    with sqlite3.connect(settings.home / AIRFLOW_DATABASE) as airflow:
        airflow.execute("CREATE TABLE dag_run (id INTEGER)")
        airflow.execute("INSERT INTO dag_run VALUES (7)")
    airflow.close()
    return settings


def tids(settings: Settings) -> list[int]:
    with Lake.open(settings) as lake:
        assert verify(lake, now_ns=NOW_NS).is_whole
        found: list[int] = lake.query("SELECT tid FROM trades ORDER BY ALL")["tid"].to_pylist()
        return found


def test_restored_home_has_the_rows_files_and_secrets_of_the_time_of_the_backup(tmp_path: Path) -> None:
    settings = home_with_rows(tmp_path / "home")
    done = create_backup(settings, tmp_path / "backup", now_ns=NOW_NS)
    assert (done.copied, done.bucket) == (done.files, "")
    with Lake.open(settings) as lake:
        lake.commit({"trades": TRADES.rows([trade(3)])}, batch_id="later")
        home_id = lake.home
    restored = load_settings(overrides={"home": tmp_path / "new"}, environ={})
    again = restore_backup(tmp_path / "backup", restored)
    assert (again.files, again.size_bytes) == (done.files, done.size_bytes)
    assert tids(restored) == [1, 2]
    with Lake.open(restored) as lake:
        assert lake.home == home_id, "it continues as the same home"
    new = restored.home
    assert (new / "journal/a/segment-0").read_text(encoding="utf-8") == "frames"
    assert (new / "models/night/checkpoint").exists()
    assert (new / "airflow/secrets.json").stat().st_mode & 0o777 == 0o600
    with sqlite3.connect(new / AIRFLOW_DATABASE) as airflow:
        assert airflow.execute("SELECT id FROM dag_run").fetchall() == [(7,)]
    airflow.close()
    left_out = ("models/fits/shared", "features/day", "recorder/status", "airflow/logs/task.log")
    assert not [name for name in left_out if (new / name).exists()]


def test_second_backup_copies_only_what_changed_and_drops_what_is_gone(tmp_path: Path) -> None:
    settings, target = home_with_rows(tmp_path / "home"), tmp_path / "backup"
    first = create_backup(settings, target, now_ns=NOW_NS)
    (settings.home / "reports/night.html").unlink()
    (settings.home / "reports/next.html").write_text("page", encoding="utf-8")
    second = create_backup(settings, target, now_ns=NOW_NS)
    assert second.files == first.files
    assert second.copied == 3, "the two databases and the new page"
    assert not (target / "reports/night.html").exists()


@pytest.mark.parametrize("name", [CATALOG, "journal/a/segment-0"])
def test_damaged_file_is_named_and_leaves_no_lake(tmp_path: Path, name: str) -> None:
    create_backup(home_with_rows(tmp_path / "home"), tmp_path / "backup", now_ns=NOW_NS)
    damaged = tmp_path / "backup" / name
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    restored = load_settings(overrides={"home": tmp_path / "new"}, environ={})
    with pytest.raises(LakeError, match=f"{name} is damaged"):
        restore_backup(tmp_path / "backup", restored)
    assert not (restored.home / CATALOG).exists()


def test_wrong_places_are_refused(tmp_path: Path) -> None:
    settings = home_with_rows(tmp_path / "home")
    with pytest.raises(SettingsError, match="lies in the home"):
        create_backup(settings, settings.home / "backup", now_ns=NOW_NS)
    shutil.copytree(settings.home, tmp_path / "other")
    with pytest.raises(SettingsError, match="holds other files"):
        create_backup(settings, tmp_path / "other", now_ns=NOW_NS)
    create_backup(settings, tmp_path / "backup", now_ns=NOW_NS)
    with pytest.raises(SettingsError, match="is not empty"):
        restore_backup(tmp_path / "backup", settings)
    (tmp_path / "backup" / MANIFEST).unlink()
    with pytest.raises(SettingsError, match="is no complete backup"):
        restore_backup(tmp_path / "backup", load_settings(overrides={"home": tmp_path / "new"}, environ={}))


@pytest.mark.drill
def test_catalog_in_postgres_is_dumped_and_restored_into_an_empty_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = f"s3://{BUCKET}/lake"
    with postgres(tmp_path) as first, s3(monkeypatch) as endpoint:
        second = first.replace("dbname=tickwalk", "dbname=restored")
        with closing(psycopg2.connect(first.partition(":")[2])) as connection:
            connection.set_isolation_level(0)  # no transaction: Postgres creates no database in one
            connection.cursor().execute("CREATE DATABASE restored")
        values = {"lake.data": data, "lake.s3_endpoint": endpoint}
        settings = home_with_rows(tmp_path / "home", **{"lake.catalog": first}, **values)
        done = create_backup(settings, tmp_path / "backup", now_ns=NOW_NS)
        assert done.bucket == data
        with Lake.open(settings) as lake:
            lake.commit({"trades": TRADES.rows([trade(3)])}, batch_id="later")
        embedded = load_settings(overrides={"home": tmp_path / "new"}, environ={})
        with pytest.raises(SettingsError, match="the catalog of the backup is in Postgres"):
            restore_backup(tmp_path / "backup", embedded)
        restored = load_settings(
            overrides={"home": tmp_path / "new", "lake.catalog": second, **values}, environ={}
        )
        restore_backup(tmp_path / "backup", restored)
        assert tids(restored) == [1, 2]
        without = create_backup(settings, tmp_path / "without", now_ns=NOW_NS, with_catalog=False)
        assert without.files == done.files - 1, "the dump of somebody else is restored first"
        elsewhere = dataclasses.replace(restored, home=tmp_path / "elsewhere")
        restore_backup(tmp_path / "without", elsewhere)
        assert tids(elsewhere) == [1, 2]


@pytest.mark.drill
def test_backups_of_a_home_in_use_are_whole_and_hold_what_was_acknowledged_before(tmp_path: Path) -> None:
    values = {"home": tmp_path / "home"}
    settings, notes = load_settings(overrides=values, environ={}), tmp_path / "notes"
    notes.mkdir()
    with Lake.open(settings):
        pass
    writers = [
        start(role, name, values, notes, seconds=15.0) for name, role in (("w1", "write"), ("w2", "load"))
    ]
    backups = 0
    while any(writer.is_alive() for writer in writers):
        before = {f"{name}-{number}" for name in ("w1", "w2") for number in noted(notes, name)}
        create_backup(settings, tmp_path / "backup", now_ns=NOW_NS)
        backups += 1
        restored = load_settings(overrides={"home": tmp_path / f"restored-{backups}"}, environ={})
        restore_backup(tmp_path / "backup", restored)
        with Lake.open(restored) as lake:
            assert verify(lake, now_ns=NOW_NS).is_whole
            found = set(lake.query("SELECT batch_id FROM batches")["batch_id"].to_pylist())
        assert before <= found, before - found
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert backups >= 2
    assert before, "they committed meanwhile"
