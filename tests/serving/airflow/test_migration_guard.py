"""No migration beside a live scheduler."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from serving.airflow.migration_guard import LiveScheduler, live_schedulers, may_migrate

NOW_S = 1_790_000_000.0  # 2026-09-21T14:13:20Z


def test_schedulers_with_a_recent_heartbeat_are_found(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'airflow.db'}"
    assert live_schedulers(url, now_s=NOW_S) == [], "a database without tables"
    with sqlite3.connect(tmp_path / "airflow.db") as database:
        database.execute(
            "CREATE TABLE job (job_type TEXT, state TEXT, hostname TEXT, latest_heartbeat TIMESTAMP)"
        )
        database.executemany(
            "INSERT INTO job VALUES (?, ?, ?, ?)",
            [
                ("SchedulerJob", "running", "alive", "2026-09-21 14:13:00.000000"),
                ("SchedulerJob", "running", "killed", "2026-09-21 14:12:40.000000"),
                ("SchedulerJob", "success", "ended", "2026-09-21 14:13:19.000000"),
                ("TriggererJob", "running", "other", "2026-09-21 14:13:19.000000"),
                ("SchedulerJob", "running", "new", None),
            ],
        )
    assert live_schedulers(url, now_s=NOW_S) == [LiveScheduler("alive", NOW_S - 20.0)]


class Waiting:
    """A scheduler that stays for some looks, and the time that was waited."""

    def __init__(self, looks: int) -> None:
        self.looks, self.now_s = looks, 0.0

    def find(self) -> list[LiveScheduler]:
        self.looks -= 1
        return [LiveScheduler("box", 0.0)] if self.looks >= 0 else []

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def may_migrate(self, *, is_current: bool) -> bool:
        return may_migrate(
            self.find, is_current=lambda: is_current, clock=lambda: self.now_s, sleep=self.sleep
        )


def test_a_database_without_a_scheduler_is_migrated_at_once() -> None:
    waiting = Waiting(0)
    assert waiting.may_migrate(is_current=True)
    assert waiting.now_s == 0


def test_a_current_database_is_left_alone_beside_a_scheduler() -> None:
    waiting = Waiting(100)
    assert not waiting.may_migrate(is_current=True)
    assert waiting.now_s == 0


def test_an_older_database_waits_for_the_end_of_its_scheduler() -> None:
    waiting = Waiting(8)
    assert waiting.may_migrate(is_current=False)
    assert waiting.now_s == 40


def test_a_scheduler_that_stays_is_named() -> None:
    waiting = Waiting(100)
    with pytest.raises(RuntimeError, match=r"a scheduler on box uses this database.*tickwalk airflow down"):
        waiting.may_migrate(is_current=False)
    assert waiting.now_s > 90
