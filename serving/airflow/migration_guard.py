"""Guard of the migration: Airflow's database is not migrated beside a live scheduler, on this machine or another."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

_WAIT_S: Final = 90.0
_POLL_S: Final = 5.0
# Airflow's own limit for a heartbeat (scheduler.scheduler_health_check_threshold).
_ALIVE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class LiveScheduler:
    """A scheduler whose heartbeat is recent."""

    host: str
    beat_s: float
    """Its last heartbeat, seconds since the epoch."""


def live_schedulers(url: str, *, now_s: float) -> list[LiveScheduler]:
    """Return the schedulers that used a database within the last half minute; none where it has no tables yet.

    Args:
        url: SQLAlchemy address. The table is read by itself, since it may be of another release.
        now_s: seconds since the epoch.
    """
    import sqlalchemy as sa

    job = sa.table(
        "job",
        sa.column("job_type", sa.String),
        sa.column("state", sa.String),
        sa.column("hostname", sa.String),
        sa.column("latest_heartbeat", sa.DateTime(timezone=True)),
    )
    query = sa.select(job.c.hostname, job.c.latest_heartbeat).where(
        job.c.job_type == "SchedulerJob", job.c.state == "running", job.c.latest_heartbeat.is_not(None)
    )
    engine = sa.create_engine(url)
    try:
        if not sa.inspect(engine).has_table("job"):
            return []
        with engine.connect() as connection:
            found = [LiveScheduler(host, _seconds(beat)) for host, beat in connection.execute(query)]
    finally:
        engine.dispose()
    return [scheduler for scheduler in found if now_s - scheduler.beat_s < _ALIVE_S]


def may_migrate(
    find: Callable[[], list[LiveScheduler]],
    *,
    is_current: Callable[[], bool],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Return whether to migrate now: False where a scheduler is alive and nothing is left to migrate.

    A scheduler that was killed looks alive for half a minute, so this waits a while for it.

    Args:
        find: returns the live schedulers.
        is_current: returns whether the database is of this release.
        clock: returns monotonic seconds.
        sleep: called with the seconds until the next look.

    Raises:
        RuntimeError: a scheduler of another release stays alive.
    """
    deadline_s = clock() + _WAIT_S
    while schedulers := find():
        if is_current():
            return False
        if clock() > deadline_s:
            hosts = ", ".join(sorted({scheduler.host for scheduler in schedulers}))
            raise RuntimeError(
                f"a scheduler on {hosts} uses this database, which must be migrated first; stop that scheduler: "
                "tickwalk airflow down"
            )
        sys.stderr.write("waiting for the end of a scheduler that uses this database\n")
        sleep(_POLL_S)
    return True


def is_current() -> bool:
    """Return whether Airflow's database has every migration of this release."""
    from airflow.utils.db import check_migrations

    try:
        check_migrations(timeout=1)  # type: ignore[no-untyped-call]  # Airflow's own
    except TimeoutError:
        return False
    return True


def _seconds(beat: datetime) -> float:
    # SQLite stores UTC without saying so.
    return (beat if beat.tzinfo else beat.replace(tzinfo=UTC)).timestamp()
