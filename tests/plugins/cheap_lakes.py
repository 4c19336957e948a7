"""A pytest plugin that saves processor time on lakes: copies, one layout check for each, and one thread in DuckDB.

Making the tables of a lake takes a quarter of a second of processor time, and hundreds of tests want a new lake; so a
new lake starts as a copy of an empty one, which each process makes once. The layout of any other lake is checked when a
process opens it for writing for the first time: the check takes as long as the rest of opening. DuckDB's idle threads
spin, which takes a quarter of what a recording takes (measured 2026-11-30), and the tests run in as many processes as
there are cores. The tests of migrations make their lakes from nothing and in as many threads as DuckDB likes, and so
does a test marked `real_lakes`. A benchmark that is run by itself never loads this plugin.

A closed lake stays attached to its DuckDB for a while: opened again unchanged, it costs nothing. Otherwise it is
detached, and the next one is opened in the same DuckDB, which has its extensions loaded: that takes 21 ms instead of
48. Each is used a limited number of times, as a commit leaves memory behind in it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

import duckdb
import pytest

from storage.lake import lake as lakes
from storage.lake.connection import connect
from storage.lake.lake import Lake
from storage.settings import load_settings
from storage.settings.services import LakeSettings

_REAL: Final = "tests/storage/lake/test_migrations.py"
_open_database = duckdb.connect
_connect = Lake._connect
_connect_checked = Lake._connect_checked
_close = Lake.close
Key = tuple[str, int, int, int]
_MOST_USES: Final = 40
_MOST_COMMITS: Final = 100
_is_cheap = False
_checked: set[tuple[str, int] | None] = set()
"""Catalogs whose layout is this release's."""
_spare: list[duckdb.DuckDBPyConnection] = []
"""Connections without a lake."""
_warm: dict[Key, duckdb.DuckDBPyConnection] = {}
"""Connections with a closed lake that is still attached, the oldest first."""
_MOST_WARM: Final = 4
_uses: dict[int, int] = {}
"""How often a connection that may be used again was used, by its id."""


def pytest_configure() -> None:
    """Replace the steps that are made cheaper."""
    duckdb.connect = _open_database_in_one_thread
    Lake._connect = _connect_to_copy  # type: ignore[method-assign]
    Lake._connect_checked = _connect_checked_once  # type: ignore[method-assign]
    Lake.close = _close_and_keep_database  # type: ignore[method-assign]
    lakes.connect = _connect_database


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Choose for a test, and for the fixtures that are made for it."""
    global _is_cheap
    _is_cheap = not item.nodeid.startswith(_REAL) and item.get_closest_marker("real_lakes") is None


def use_cheap_lakes() -> None:
    """Choose cheap lakes in a process that runs no tests."""
    global _is_cheap
    _is_cheap = True


def _open_database_in_one_thread(
    *arguments: Any, config: Mapping[str, Any] | None = None, **more: Any
) -> duckdb.DuckDBPyConnection:
    cheap = {"threads": "1"} if _is_cheap else {}
    return _open_database(*arguments, config=cheap | dict(config or {}), **more)


def _connect_database(settings: LakeSettings, catalog: str) -> duckdb.DuckDBPyConnection:
    """Return a connection that can open a catalog, a used one if there is any."""
    if not (_is_cheap and catalog.startswith("sqlite:") and not settings.data):
        run = connect(settings, catalog)
        _uses.pop(id(run), None)  # the id may be that of an earlier one
        return run
    if _spare:
        run = _spare.pop()
    else:
        run = connect(settings, catalog)
        run.execute(
            "SET enable_external_file_cache = false"
        )  # a file that is damaged later must be read again
        _uses[id(run)] = 0
    _uses[id(run)] += 1
    return run


def _close_and_keep_database(lake: Lake) -> None:
    """Close a lake, and keep its database for another one."""
    run = lake._connection
    uses = _uses.pop(id(run), _MOST_USES)
    if uses >= _MOST_USES or lake._commits > _MOST_COMMITS:
        _close(lake)
        return
    lake._close_readers()
    try:
        run.execute("USE memory")
        for at in lake._attached:
            run.execute(f"DETACH lake_at_{at}")
    except duckdb.Error:  # in the middle of something, or broken
        _close(lake)
        return
    key = _key_of(lake)
    lake._connection = _closed()
    lake._locks.close()
    _uses[id(run)] = uses
    if key in _warm:  # opened twice at a time
        _detach(run)
    elif key:
        _warm[key] = run
    while len(_warm) > _MOST_WARM:
        _detach(_warm.pop(next(iter(_warm))))


def _detach(run: duckdb.DuckDBPyConnection) -> None:
    run.execute("DETACH lake")
    _spare.append(run)


def _key_of(lake: Lake) -> Key | None:
    """Return what an attached lake may be used for again: the same catalog in the same state, attached alike."""
    catalog = Path(lake._catalog.removeprefix("sqlite:"))
    if not catalog.exists():
        return None
    stat = catalog.stat()
    return lake._attach_as("lake", lake._mode), stat.st_ino, stat.st_size, stat.st_mtime_ns


@cache
def _closed() -> duckdb.DuckDBPyConnection:
    run = _open_database()
    run.close()
    return run


def _connect_checked_once(lake: Lake) -> None:
    """Check the layout of a lake only when this process opens it for the first time."""
    catalog = Path(lake._catalog.removeprefix("sqlite:"))
    if not (_is_cheap and lake._is_sqlite):
        _connect_checked(lake)
        return
    found = _id_of(catalog)
    if found in _checked if found else _is_copied(lake):
        lake._connection = lake._connect()
    else:
        _connect_checked(lake)
    if not lake._mode:  # who only reads leaves an old layout as it is
        _checked.add(_id_of(catalog))


def _id_of(catalog: Path) -> tuple[str, int] | None:
    return (str(catalog), catalog.stat().st_ino) if catalog.exists() else None


def _connect_to_copy(lake: Lake) -> duckdb.DuckDBPyConnection:
    if _is_cheap and lake._is_sqlite and (run := _warm.pop(_key_of(lake), None)):
        _uses[id(run)] += 1
        run.execute("USE lake")
        return run
    if _is_copied(lake):
        shutil.copytree(_empty_lake(), lake._settings.lake_dir, dirs_exist_ok=True)
    return _connect(lake)


def _is_copied(lake: Lake) -> bool:
    """Return whether a lake does not exist yet, and starts as a copy."""
    is_local = lake._is_sqlite and not lake._settings.lake.catalog and not lake._settings.lake.data
    return (
        _is_cheap
        and is_local
        and not lake._mode
        and not (lake._settings.lake_dir / "catalog.sqlite").exists()
    )


@cache
def _empty_lake() -> Path:
    """Make an empty lake; return its folder without the lock."""
    global _is_cheap
    settings = load_settings(overrides={"home": Path(mkdtemp(prefix="tickwalk-lake-"))}, environ={})
    before, _is_cheap = _is_cheap, False
    try:
        Lake.open(settings).close()
    finally:
        _is_cheap = before
    (settings.lake_dir / "commit.lock").unlink()
    return settings.lake_dir
