"""Schedule of the nights, and the time that a night may take."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Literal

from storage.errors import SettingsError


def nightly_interval_s(schedule: str, now_ns: int) -> float:
    """Return the time between the start of a night and that of the next one, in seconds.

    It depends on the schedule and not on the hour at which a night runs, so a night that is repeated in the evening has
    as much time as one that starts in time.

    Args:
        schedule: five fields of cron, UTC; empty: no schedule.
        now_ns: during the night.

    Raises:
        SettingsError: the schedule is none.

    >>> nightly_interval_s("20 0 * * *", 1_700_000_000_000_000_000)
    86400.0
    """
    if not schedule.strip():
        return math.inf
    at_s = now_ns / 1e9
    return _tick_s(schedule, at_s, "get_next") - _tick_s(schedule, at_s, "get_prev")


def last_night(schedule: str, now_ns: int) -> int:
    """Return when the last night of a schedule started, nanoseconds since the epoch.

    >>> last_night("20 0 * * *", 1_700_000_000_000_000_000)  # 2023-11-14T22:13:20Z
    1699921200000000000
    """
    return round(_tick_s(schedule, now_ns / 1e9, "get_prev")) * 1_000_000_000


def night_until(schedule: str, day: str) -> str:
    """Return the day, ISO 8601, before whose start the bars of a night open.

    Args:
        schedule: see `nightly_interval_s`.
        day: of the start of the night before, which is the partition key of a night that Airflow starts; or any other
            day, for which the next one is returned.

    >>> night_until("20 0 * * *", "2026-11-22"), night_until("20 0 * * 1", "2026-11-23")
    ('2026-11-23', '2026-11-30')
    >>> night_until("20 0 * * 1", "2026-11-25")
    '2026-11-26'
    """
    first = datetime.fromisoformat(day).replace(tzinfo=UTC)
    last_s = (first + timedelta(days=1)).timestamp() - 1
    if not schedule.strip() or _tick_s(schedule, last_s, "get_prev") < first.timestamp():
        return str((first + timedelta(days=1)).date())
    return str(datetime.fromtimestamp(_tick_s(schedule, last_s, "get_next"), UTC).date())


def daily_schedule(schedule: str) -> str:
    """Return the schedule on which days are sealed: every day at the time of the first night of a schedule.

    >>> daily_schedule("20 0 * * *"), daily_schedule("30 2 * * 1")
    ('20 0 * * *', '30 2 * * *')
    """
    at = datetime.fromtimestamp(_tick_s(schedule, -1.0, "get_next"), UTC)
    return f"{at.minute} {at.hour} * * *"


def is_followed_by_night(schedule: str, day: str) -> bool:
    """Return whether a night of a schedule starts on the day after a day.

    >>> is_followed_by_night("20 0 * * *", "2026-11-25")
    True
    >>> [is_followed_by_night("20 0 * * 1", day) for day in ("2026-11-28", "2026-11-29")]
    [False, True]
    """
    next_day = datetime.fromisoformat(day).replace(tzinfo=UTC) + timedelta(days=1)
    return (
        _tick_s(schedule, next_day.timestamp() - 1, "get_next") < (next_day + timedelta(days=1)).timestamp()
    )


def _tick_s(schedule: str, at_s: float, which: Literal["get_next", "get_prev"]) -> float:
    """Return the start of a night before or after an instant, in seconds since the epoch."""
    from croniter import CroniterBadCronError, croniter  # type: ignore[import-untyped]

    try:
        found: float = getattr(croniter(schedule, datetime.fromtimestamp(at_s, UTC)), which)(float)
    except (CroniterBadCronError, ValueError) as error:
        raise SettingsError(
            f"airflow.nightly is {schedule!r}: {error}",
            hint="write five fields of cron: minute, hour, day, month, weekday, such as 20 0 * * *",
        ) from error
    return found
