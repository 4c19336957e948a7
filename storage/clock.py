"""Time sources, grid steps of bars, and conversion of times.

All instants are `int` nanoseconds since the epoch, UTC. Grid steps are epoch-aligned and right-open:
`[ts_open, ts_close)`.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Final, Protocol

from storage.errors import SettingsError

NS: Final = 1_000_000_000
MS_NS: Final = 1_000_000
US_NS: Final = 1_000
HOUR_NS: Final = 3_600 * NS
DAY_NS: Final = 24 * HOUR_NS

_UNIT_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_WIDTH: Final = re.compile(r"^([1-9][0-9]*)([smhd])$")


class TimeSource(Protocol):
    """A source of the current time: the wall clock, a recording, or a test."""

    def now_ns(self) -> int:
        """Return the current time in nanoseconds since the epoch, UTC."""


class WallTime:
    """The machine's clock."""

    def now_ns(self) -> int:
        return time.time_ns()


class ManualTime:
    """A clock that moves only by `advance_to`, and never backwards.

    The recorder uses one when a simulated venue sends the time in its frames.
    """

    def __init__(self, start_ns: int = 0) -> None:
        self._now_ns = start_ns

    def now_ns(self) -> int:
        return self._now_ns

    def advance_to(self, now_ns: int) -> None:
        """Move to `now_ns`; ignore an earlier instant."""
        self._now_ns = max(self._now_ns, now_ns)


def width_ns(width: str) -> int:
    """Return a bar width such as `1s`, `1m` or `4h` in nanoseconds.

    Raises:
        SettingsError: the text is no width, or the width does not divide a day.
    """
    match = _WIDTH.match(width)
    if match is None:
        raise SettingsError(
            f"bar width {width!r} is not a number and a unit", hint="use 1s, 10s, 1m, 5m, 1h, 1d"
        )
    seconds = int(match[1]) * _UNIT_S[match[2]]
    if 86_400 % seconds:
        raise SettingsError(
            f"bar width {width!r} does not divide a day, so its grid would shift every midnight",
            hint="use a width such as 1s, 10s, 1m, 5m, 15m, 1h, 4h, 1d",
        )
    return seconds * NS


def floor_ns(t_ns: int, step_ns: int) -> int:
    """Return the open of the grid step that contains `t_ns`."""
    return t_ns - t_ns % step_ns


def parse_time_ns(text: str) -> int:
    """Return an ISO 8601 date or time (UTC unless it has a zone) in nanoseconds.

    Raises:
        SettingsError: the text is no date or time.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise SettingsError(
            f"{text!r} is not a date or time", hint="write 2026-01-31 or 2026-01-31T05:00:00Z"
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    whole = moment.replace(microsecond=0)
    return int(whole.timestamp()) * NS + moment.microsecond * US_NS


def iso(t_ns: int) -> str:
    """Return an instant as ISO 8601 in UTC, to the millisecond, for people to read."""
    moment = datetime.fromtimestamp(t_ns // NS, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{t_ns % NS // MS_NS:03d}Z"
