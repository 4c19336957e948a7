"""Homes that share a Postgres catalog: each batch once, one writer at a time, and the lock of a dead one is free."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import psycopg2
import pytest
from structlog.testing import capture_logs

from storage.errors import LakeError
from storage.lake.catalog_lock import CatalogLock
from storage.lake.commit_result import CommitResult
from storage.lake.lake import Lake
from storage.lake.locks import LakeLocks
from storage.settings import Settings, load_settings
from tests.drills.forked import context
from tests.drills.lake_process import assert_whole, noted, start
from tests.patience import HANG_S
from tests.storage.rows import batch
from tests.storage.servers import postgres

_EQUAL: Final = "both"
"""Name of the writer whose batch ids are the same in both homes."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgres(tmp_path_factory.mktemp("pg")) as catalog:
        yield catalog


@pytest.fixture
def catalog(server: str) -> str:
    """An empty database of the server."""
    name = f"lake_{uuid4().hex}"
    run(server, f"CREATE DATABASE {name}")
    return server.replace("dbname=tickwalk", f"dbname={name}")


def run(catalog: str, sql: str) -> list[tuple[Any, ...]]:
    """Run a statement in a database and return its rows."""
    connection = psycopg2.connect(catalog.partition(":")[2])
    try:
        connection.set_session(autocommit=True)
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def lock_sessions(catalog: str, condition: str = "true") -> list[int]:
    """Return the server's process ids of the connections that locks were taken on."""
    found = run(
        catalog,
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        f" AND application_name = 'tickwalk commit lock' AND {condition}",
    )
    return [pid for (pid,) in found]


def until(is_true: Any) -> None:
    """Wait for something that another process or thread is doing."""
    give_up_s = time.monotonic() + HANG_S
    while not is_true():
        assert time.monotonic() < give_up_s
        time.sleep(0.005)


def of_home(folder: Path, name: str, catalog: str) -> dict[str, object]:
    """Return the settings of one of several homes that share the lake below a folder."""
    return {"home": folder / name, "lake.catalog": catalog, "lake.data": str(folder / "data")}


def settings_of(folder: Path, name: str, catalog: str) -> Settings:
    return load_settings(overrides=of_home(folder, name, catalog), environ={})


# Batches of two homes.


def drill(folder: Path, catalog: str, *, equal: int, different: int, kills: int, seed: int) -> str:
    """Write from two homes and kill the writers at random moments; check the lake, and return a summary.

    Args:
        folder: an empty one.
        catalog: empty.
        equal: number of batches that both homes write.
        different: number of batches that only one of them writes.
        kills: number of kills.
        seed: of the random moments.
    """
    draw = random.Random(seed)
    numbers = {(home, _EQUAL): equal for home in "ab"} | {(home, home): different // 2 for home in "ab"}
    for home in "ab":
        (folder / f"notes-{home}").mkdir()

    def go(home: str, name: str) -> Any:
        left = numbers[home, name] - len(noted(folder / f"notes-{home}", name))
        values = of_home(folder, home, catalog)
        role = "load" if name == "b" else "write"
        return start(role, name, values, folder / f"notes-{home}", seconds=0.0, least=left)

    running, killed = {job: go(*job) for job in numbers}, 0
    while killed < kills and (alive := [job for job in running if running[job].is_alive()]):
        job = draw.choice(alive)
        running[job].join(draw.uniform(0.0, 1.0))
        if running[job].is_alive():
            running[job].kill()
            running[job].join()
            running[job], killed = go(*job), killed + 1
    for job, process in running.items():
        process.join(HANG_S)
        assert process.exitcode == 0, f"{job} ended with {process.exitcode}"
    with Lake.open(settings_of(folder, "c", catalog), read_only=True) as lake:
        told = {name: [str(n) for n in range(count)] for (_, name), count in numbers.items()}
        assert assert_whole(lake, told) == equal + 2 * (different // 2)
    return f"{equal} equal and {different} different batches once each, {killed} kills"


def test_two_homes_commit_each_batch_once(tmp_path: Path, catalog: str) -> None:
    drill(tmp_path, catalog, equal=4, different=4, kills=2, seed=1)


@pytest.mark.drill
@pytest.mark.timeout(3_600)
def test_200_equal_and_200_different_batches_of_two_homes(
    tmp_path: Path, catalog: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kills = int(os.environ.get("DRILL_KILLS", "100"))
    said = drill(tmp_path, catalog, equal=200, different=200, kills=kills, seed=2)
    with capsys.disabled():
        print(f"\ntwo homes, one catalog: {said}")


def test_equal_batch_that_another_home_commits_meanwhile_is_not_repeated(
    tmp_path: Path, catalog: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a `kill -9`: the lock is free, and the server still executes the commit of the dead process."""

    @contextmanager
    def unlocked(_: LakeLocks, timeout_s: float = 0.0) -> Iterator[None]:
        yield

    monkeypatch.setattr(LakeLocks, "exclusive", unlocked)
    with (
        Lake.open(settings_of(tmp_path, "a", catalog)) as one,
        Lake.open(settings_of(tmp_path, "b", catalog)) as other,
    ):
        first: list[CommitResult] = []
        stamp = one.stamp

        def commit_first(batch_id: str) -> tuple[int, str]:  # called within the transaction
            if not first:
                first.append(other.commit(batch(0), batch_id=batch_id))
            return stamp(batch_id)

        monkeypatch.setattr(one, "stamp", commit_first)
        second = one.commit(batch(0), batch_id="BTC-0")
        assert first[0].is_new
        assert not second.is_new
        assert assert_whole(one, {"BTC": ["0"]}) == 1


# The lock.


def test_a_home_waits_for_another_and_gives_up_after_its_patience(tmp_path: Path, catalog: str) -> None:
    with (
        Lake.open(settings_of(tmp_path, "a", catalog)) as one,
        Lake.open(settings_of(tmp_path, "b", catalog)) as other,
    ):
        for block in (one.exclusive, one.alone):
            with (
                block(),
                pytest.raises(LakeError, match=r"another home has held the lock.*0\.1 s.*wait until"),
            ):
                other.commit(batch(0), batch_id="x", patience_s=0.1)
        done: list[CommitResult] = []
        writer = threading.Thread(target=lambda: done.append(other.commit(batch(0), batch_id="x")))
        with one.exclusive():
            writer.start()
            until(lambda: lock_sessions(catalog, "wait_event = 'advisory'"))
            assert not done
        writer.join(HANG_S)
        assert done[0].is_new


def test_opening_a_lake_waits_for_the_home_that_makes_or_migrates_it(tmp_path: Path, catalog: str) -> None:
    opened: list[Lake] = []
    with CatalogLock(catalog).hold():
        other = threading.Thread(target=lambda: opened.append(Lake.open(settings_of(tmp_path, "b", catalog))))
        other.start()
        until(lambda: lock_sessions(catalog, "wait_event = 'advisory'"))
        assert not opened
        assert run(catalog, "SELECT 1 FROM pg_tables WHERE tablename = 'ducklake_snapshot'") == []
    other.join(HANG_S)
    opened[0].close()
    assert not lock_sessions(catalog)


def test_lakes_in_two_databases_of_a_server_do_not_wait_for_each_other(server: str, catalog: str) -> None:
    with CatalogLock(server).hold(), CatalogLock(catalog).hold(0.0):
        assert lock_sessions(server)
        assert lock_sessions(catalog)
    assert not lock_sessions(server)


def hold_for_ever(catalog: str) -> None:
    with CatalogLock(catalog).hold():
        threading.Event().wait()


def test_the_lock_of_a_killed_process_is_free(catalog: str) -> None:
    process = context().Process(target=hold_for_ever, args=(catalog,))
    process.start()
    until(lambda: lock_sessions(catalog, "state = 'idle in transaction'"))
    with pytest.raises(LakeError), CatalogLock(catalog).hold(0.0):
        pass
    process.kill()
    process.join()
    with CatalogLock(catalog).hold(HANG_S):
        pass


def test_a_connection_that_the_server_closed_while_idle_is_replaced(catalog: str) -> None:
    lock = CatalogLock(catalog)
    with lock.hold():
        pass
    (before,) = lock_sessions(catalog)
    run(catalog, f"SELECT pg_terminate_backend({before}, 10000)")
    with lock.hold():
        assert lock_sessions(catalog) != [before]
    lock.close()


def test_a_lock_that_is_lost_in_the_middle_is_logged(tmp_path: Path, catalog: str) -> None:
    with Lake.open(settings_of(tmp_path, "a", catalog)) as lake, capture_logs() as logs:
        with lake.exclusive():
            run(catalog, f"SELECT pg_terminate_backend({lock_sessions(catalog)[0]}, 10000)")
        assert [line["event"] for line in logs] == ["catalog lock lost"]
        assert lake.commit(batch(0), batch_id="x").is_new


def test_limits_of_the_server_do_not_end_the_lock(catalog: str) -> None:
    limits = " options='-c statement_timeout=20 -c idle_in_transaction_session_timeout=20'"
    with CatalogLock(catalog + limits).hold():
        with pytest.raises(LakeError, match="another home"), CatalogLock(catalog + limits).hold(0.1):
            pass
        assert lock_sessions(catalog, "state = 'idle in transaction'")
