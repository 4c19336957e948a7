"""DuckDB connections: UTC in every session of every connection, which one module makes."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import Final

import duckdb
import pytest

from storage.lake import snapshots
from storage.lake.connection import connect, connect_in_memory, is_retryable
from storage.lake.integrity import verify
from storage.lake.lake import Lake
from storage.lake.snapshots import pin, pins, rows_hash
from storage.settings import Settings
from storage.settings.services import LakeSettings
from tests.layers import read_packages
from tests.storage.lake.lakes import filled

ZONE: Final = "SELECT current_setting('TimeZone') AS zone"
FACTORY: Final = "storage/lake/connection.py"
NEEDS_NO_SESSION: Final = {"extract_statements"}
"""Functions of the module `duckdb` that read no time."""


# Time zone. A process keeps the zone in which it first used DuckDB, so other zones are tested in other processes
# (tests/serving/cli/test_time_zones.py); here a zone is set on the connection that is to be configured.


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each new connection begin in another zone than UTC, as on a machine there."""
    real = duckdb.connect

    def connect_abroad(*arguments: object, **more: object) -> duckdb.DuckDBPyConnection:
        made: duckdb.DuckDBPyConnection = real(*arguments, **more)  # type: ignore[arg-type]
        made.execute("SET GLOBAL TimeZone = 'Asia/Kolkata'")
        assert made.cursor().execute(ZONE).fetchone() == ("Asia/Kolkata",)
        return made

    monkeypatch.setattr(duckdb, "connect", connect_abroad)


@pytest.mark.usefixtures("foreign")
@pytest.mark.parametrize("make", [connect_in_memory, lambda: connect(LakeSettings(), "sqlite:none")])
def test_each_session_of_a_connection_is_in_utc(make: Callable[[], duckdb.DuckDBPyConnection]) -> None:
    with make() as connection:
        for session in (connection, connection.cursor(), connection.cursor().cursor()):
            assert session.execute(ZONE).fetchone() == ("UTC",)
            assert session.execute("SELECT make_timestamptz(0)::VARCHAR").fetchone() == (
                "1970-01-01 00:00:00+00",
            )
            naive = session.execute("SELECT epoch_us(TIMESTAMPTZ '1970-01-01 00:00')").fetchone()
            assert naive == (0,)


@pytest.mark.usefixtures("foreign")
def test_queries_of_a_lake_are_in_utc_also_after_it_connected_anew(settings: Settings) -> None:
    with Lake.open(filled(settings)) as lake:
        for at in (None, lake.snapshot()):
            assert lake.query(ZONE, at=at)["zone"].to_pylist() == ["UTC"]
        lake._reconnect()
        assert lake.query(ZONE)["zone"].to_pylist() == ["UTC"]
        assert lake.call(ZONE)["zone"].to_pylist() == ["UTC"]


def test_a_zone_that_a_query_sets_ends_with_it(settings: Settings) -> None:
    with Lake.open(filled(settings), read_only=True) as lake:
        set_by_hand = lake.query(f"SET TimeZone = 'Asia/Kolkata'; {ZONE}")
        assert set_by_hand["zone"].to_pylist() == ["Asia/Kolkata"]
        assert lake.query(ZONE)["zone"].to_pylist() == ["UTC"]


def test_a_pin_that_was_hashed_in_the_zone_of_the_machine_still_matches(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lake.open(filled(settings)) as lake:
        before = rows_hash(lake, lake.snapshot(), time_zone="Asia/Kolkata")
        monkeypatch.setattr(snapshots, "rows_hash", lambda *_, **__: before)
        assert pin(lake, "old", now_ns=1).content != rows_hash(lake, lake.snapshot())
        monkeypatch.undo()
        monkeypatch.setattr(snapshots, "machine_time_zone", lambda: "Asia/Kolkata")
        assert verify(lake, now_ns=1).is_whole
        monkeypatch.setattr(snapshots, "machine_time_zone", lambda: "America/New_York")
        assert [item.name for item in verify(lake, now_ns=1).findings] == ["old"]
        assert [item.name for item in pins(lake)] == ["old"]


# One factory.


def uses_of_duckdb() -> Iterator[tuple[str, str]]:
    """Yield the file and the name of each attribute of the module `duckdb` that the packages call."""
    for path, text in read_packages().items():
        for node in ast.walk(ast.parse(text if "duckdb" in text else "")):
            if isinstance(node, ast.ImportFrom):
                assert node.module != "duckdb", (
                    f"{path} imports a name from duckdb, which this test cannot follow"
                )
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "duckdb"
            ):
                yield path, node.func.attr


def test_one_module_makes_all_connections() -> None:
    """Nor does any other use DuckDB's default connection, as `duckdb.sql` does."""
    found = set(uses_of_duckdb())
    assert (FACTORY, "connect") in found, "no call was found, so nothing was checked"
    assert {(path, name) for path, name in found if path != FACTORY and name not in NEEDS_NO_SESSION} == set()


def test_commits_that_may_succeed_later_are_told_from_others() -> None:
    for text in (
        "database is locked",
        "Failed to commit DuckLake transaction.",
        'Failed to initialize DuckLake: ... ERROR:  relation "ducklake_metadata" already exists',
    ):
        assert is_retryable(duckdb.IOException(text))
        assert not is_retryable(OSError(text))
    assert not is_retryable(duckdb.CatalogException("Table with name x already exists"))
