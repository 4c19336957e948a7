"""Trading sessions by New York local time, on both sides of each change of daylight saving time."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.instruments.trading_calendar import NEW_YORK, Session, calendar_of, session_at
from storage.clock import NS, parse_time_ns
from storage.contracts.tables import SESSIONS

AAPL = "hyperliquid|perp|xyz:AAPL"


def at(local: str) -> Session:
    """Return the session at a New York local time such as `2026-03-08 20:00`."""
    moment = datetime.fromisoformat(local).replace(tzinfo=NEW_YORK)
    return session_at(AAPL, int(moment.timestamp()) * NS)


@pytest.mark.parametrize(
    ("local", "session"),
    [
        ("2026-11-23 09:29:59", "extended"),
        ("2026-11-23 09:30:00", "regular"),
        ("2026-11-23 15:59:59", "regular"),
        ("2026-11-23 16:00:00", "extended"),
        ("2026-11-23 23:00:00", "extended"),
        ("2026-11-20 19:59:59", "extended"),
        ("2026-11-20 20:00:00", "internal"),
        ("2026-11-21 12:00:00", "internal"),
        ("2026-11-22 19:59:59", "internal"),
        ("2026-11-22 20:00:00", "extended"),
        ("2026-11-25 19:59:59", "extended"),
        ("2026-11-25 20:00:00", "internal"),
        ("2026-11-26 10:00:00", "internal"),
        ("2026-11-26 20:00:00", "extended"),
        ("2026-11-27 12:59:59", "regular"),
        ("2026-11-27 13:00:00", "extended"),
        ("2026-11-27 20:00:00", "internal"),
    ],
)
def test_a_week_with_a_holiday_and_a_half_day(local: str, session: Session) -> None:
    """Thanksgiving of 2026 and the day after it."""
    assert at(local) == session


@pytest.mark.parametrize(
    ("utc", "session"),
    [
        # To daylight saving time on Sunday 2026-03-08: 20:00 in New York is 01:00 UTC before it and 00:00 after it.
        ("2026-03-07T00:59:59Z", "extended"),
        ("2026-03-07T01:00:00Z", "internal"),
        ("2026-03-08T23:59:59Z", "internal"),
        ("2026-03-09T00:00:00Z", "extended"),
        ("2026-03-06T14:30:00Z", "regular"),
        ("2026-03-09T13:29:59Z", "extended"),
        ("2026-03-09T13:30:00Z", "regular"),
        # And back on Sunday 2026-11-01.
        ("2026-10-30T23:59:59Z", "extended"),
        ("2026-10-31T00:00:00Z", "internal"),
        ("2026-11-02T00:59:59Z", "internal"),
        ("2026-11-02T01:00:00Z", "extended"),
        ("2026-11-02T14:30:00Z", "regular"),
    ],
)
def test_a_weekend_of_the_clocks_change(utc: str, session: Session) -> None:
    assert session_at(AAPL, parse_time_ns(utc)) == session


@pytest.mark.parametrize(
    ("local", "session"),
    [
        ("2018-12-05 12:00", "internal"),  # day of mourning
        ("2025-01-09 12:00", "internal"),  # day of mourning
        ("2021-06-18 12:00", "regular"),  # Juneteenth became a holiday of the exchange in 2022
        ("2022-06-20 12:00", "internal"),
        ("2020-12-24 12:59", "regular"),
        ("2020-12-24 13:00", "extended"),
        ("2023-07-03 13:00", "extended"),
        ("2261-12-31 12:00", "regular"),
        ("2262-04-10 12:00", "internal"),  # the calendar ends
    ],
)
def test_special_closures_and_early_closes(local: str, session: Session) -> None:
    assert at(local) == session


@pytest.mark.parametrize(
    ("instrument", "calendar"),
    [
        ("hyperliquid|perp|BTC", "always"),
        ("hyperliquid|spot|@107", "always"),
        ("hyperliquid|spot|PURR/USDC", "always"),
        ("hyperliquid|perp|hyna:BTC", "always"),
        ("hyperliquid|perp|xyz:AAPL~2", "us_equities"),
        ("gaiaex|perp|cash:USA500", "us_equities"),
    ],
)
def test_only_the_dexes_of_shares_have_a_calendar(instrument: str, calendar: str) -> None:
    assert calendar_of(instrument) == calendar
    assert (session_at(instrument, 0) == "always") == (calendar == "always")


@given(st.datetimes(datetime.fromisoformat("2024-01-01"), datetime.fromisoformat("2027-12-31")))
def test_every_hour_has_one_session_and_no_weekend_is_regular(moment: datetime) -> None:
    session = at(moment.isoformat(" ", "seconds"))
    assert session in SESSIONS
    if (moment + timedelta(hours=4)).weekday() >= 5:
        assert session == "internal"
    if not 9 <= moment.hour < 16:
        assert session != "regular"
