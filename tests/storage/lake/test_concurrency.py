"""Concurrent writers, readers and maintenance: no lost, repeated or partial batch, and unchanged pins."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from storage.errors import SettingsError
from storage.lake.connection import connect
from storage.lake.integrity import verify
from storage.lake.lake import Lake
from storage.lake.snapshots import pin, rows_hash
from storage.settings import Settings, load_settings
from storage.settings.services import LakeSettings
from tests.drills.lake_process import Role, assert_whole, noted, start
from tests.storage.rows import batch
from tests.storage.servers import BUCKET, postgres, s3

ALL: Final[Mapping[str, Role]] = {"w1": "write", "w2": "load", "r1": "read", "r2": "read", "tidy": "tidy"}
FEW: Final[Mapping[str, Role]] = {"w1": "write", "w2": "load", "r1": "read"}


def together(
    tmp_path: Path, *, seconds: float, roles: Mapping[str, Role] = ALL, least: int = 3, **more: object
) -> str:
    """Run writing, reading and maintaining processes; check the lake, and return a summary.

    Args:
        tmp_path: an empty folder.
        seconds: how long they run.
        roles: role of each process, by name.
        least: minimum number of commits, or reads, of each.
        more: settings of the lake, such as `catalog`.
    """
    values: Mapping[str, object] = {
        "home": tmp_path / "home",
        "lake.keep_snapshots_days": 1.0,
        **{f"lake.{key}": value for key, value in more.items()},
    }
    settings, notes = load_settings(overrides=values, environ={}), tmp_path / "notes"
    notes.mkdir()
    with Lake.open(settings) as lake:
        at = lake.commit(batch(0, "first"), batch_id="first-0").snapshot
        lake.commit(batch(1, "first"), batch_id="first-1")
        held = pin(lake, "first", now_ns=1, snapshot=at)
    processes = {
        name: start(role, name, values, notes, seconds=seconds, least=1 if role == "tidy" else least)
        for name, role in roles.items()
    }
    for name, process in processes.items():
        process.join(seconds + 120)
        assert process.exitcode == 0, f"{name} ended with {process.exitcode}"
    acknowledged = {name: noted(notes, name) for name in ("w1", "w2")} | {"first": ["0", "1"]}
    reads = len(noted(notes, "r1")) + len(noted(notes, "r2"))
    with Lake.open(settings) as lake:
        batches = assert_whole(lake, acknowledged)
        assert rows_hash(lake, at) == held.content
        assert verify(lake, now_ns=time.time_ns()).is_whole
    assert batches >= 2 + 2 * least
    assert reads >= least
    return f"{batches} batches, {reads} reads, {len(noted(notes, 'tidy'))} times tidied in {seconds:g} s"


def test_no_batch_is_lost_or_partially_visible(tmp_path: Path) -> None:
    together(tmp_path, seconds=1.0)


@pytest.mark.drill
def test_the_same_on_postgres(tmp_path: Path) -> None:
    with postgres(tmp_path / "pg") as catalog:
        together(tmp_path, seconds=0.0, roles=FEW, least=2, catalog=catalog)


@pytest.mark.drill
def test_the_same_with_the_data_in_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3(monkeypatch) as endpoint:
        together(tmp_path, seconds=0.0, roles=FEW, least=2, data=f"s3://{BUCKET}/lake", s3_endpoint=endpoint)


@pytest.mark.drill
@pytest.mark.timeout(2_400)
@pytest.mark.parametrize("where", ["sqlite", "postgres", "s3"])
def test_ten_minutes(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = float(os.environ.get("DRILL_S", "600"))
    if where == "postgres":
        with postgres(tmp_path / "pg") as catalog:
            said = together(tmp_path, seconds=seconds, catalog=catalog)
    elif where == "s3":
        with s3(monkeypatch) as endpoint:
            said = together(tmp_path, seconds=seconds, data=f"s3://{BUCKET}/lake", s3_endpoint=endpoint)
    else:
        said = together(tmp_path, seconds=seconds)
    with capsys.disabled():
        print(f"\ntogether on {where}: {said}")


@pytest.fixture
def no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a file of credentials that does not exist yet, in an environment that has no other."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "credentials"
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return path


def test_s3_without_credentials_says_what_is_missing(settings: Settings, no_keys: Path) -> None:
    assert not no_keys.exists()
    values = {"home": settings.home, "lake.data": "s3://bucket/lake"}
    with pytest.raises(
        SettingsError, match=r"'s3://bucket/lake', but there are no credentials.*AWS_ACCESS_KEY_ID"
    ):
        Lake.open(load_settings(overrides=values, environ={}))


def test_s3_takes_keys_from_the_file_of_the_aws_tools(no_keys: Path) -> None:
    no_keys.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = it's\n", encoding="utf-8")
    connection = connect(LakeSettings(data="s3://bucket/lake", s3_region="eu-west-1"), "sqlite:x")
    ((secret,),) = connection.execute("SELECT secret_string FROM duckdb_secrets()").fetchall()
    assert "key_id=a" in secret
    assert "region=eu-west-1" in secret
