"""Trading session at an instant: regular, extended, internal or always.

First-dex perps and spot pairs trade `always`. HIP-3 equities also trade all week, but the source of their price
changes: the outside market on trading days, their own book otherwise. The venue sends no session, so the calendar
is our own reference data (docs.trade.xyz, read through a third party in 2026; not confirmed by the venue):

- a trading day runs from 20:00 New York time of the evening before to 20:00 of the day itself;
- on a day on which the NYSE is open: `regular` from 9:30 to 16:00 (13:00 on half days), else `extended`;
- on any other day, hence from Friday 20:00 to Sunday 20:00, prices are `internal`. For holidays this is our own
  inference: no outside price exists on them, and without one for 30 s the venue prices internally.

Opening days and hours of the NYSE come from the calendar XNYS of `exchange_calendars`, which knows neither extended
hours nor internal pricing: those two are the rules above. A dex that is not named below is `always`, since nothing is
known about its closing. Commodities and FX of a dex that is named follow its calendar, though their outside markets
keep other hours.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Final, Literal
from zoneinfo import ZoneInfo

from storage.clock import NS

Session = Literal["regular", "extended", "internal", "always"]
Calendar = Literal["always", "us_equities"]

NEW_YORK: Final = ZoneInfo("America/New_York")
# `xyz` states this calendar; the other two list shares and indices of the same market and are taken to follow it.
_EQUITY_DEXES: Final = frozenset({"xyz", "cash", "km"})
_DAY_BEGINS_EARLY: Final = timedelta(hours=4)
_MINUTE_NS: Final = 60 * NS
# The calendar counts nanoseconds, as we do: it ends in April of 2262.
_LAST_DAY: Final = "2261-12-31"


def calendar_of(instrument: str) -> Calendar:
    """Return the calendar that an instrument's sessions follow.

    >>> calendar_of("hyperliquid|perp|xyz:AAPL"), calendar_of("hyperliquid|perp|BTC")
    ('us_equities', 'always')
    """
    symbol = instrument.rpartition("|")[2]
    dex, colon, _ = symbol.partition(":")
    return "us_equities" if colon and dex in _EQUITY_DEXES else "always"


def session_at(instrument: str, ts_ns: int) -> Session:
    """Return the session of an instrument at an instant (ns since the epoch, UTC).

    >>> from storage.clock import parse_time_ns
    >>> session_at("hyperliquid|perp|xyz:AAPL", parse_time_ns("2026-11-23T15:00:00Z"))
    'regular'
    """
    if calendar_of(instrument) == "always":
        return "always"
    return _session_of(ts_ns // _MINUTE_NS)


@lru_cache(maxsize=4096)  # one clock for all instruments: bars need the same minute many times
def _session_of(minute: int) -> Session:
    # New York local time decides, so that a day does not move with daylight saving time.
    local = datetime.fromtimestamp(minute * 60, UTC).astimezone(NEW_YORK).replace(tzinfo=None)
    day = (local + _DAY_BEGINS_EARLY).date()
    hours = _nyse_hours(day.year // 10 * 10).get(day)
    if hours is None:
        return "internal"
    opens, closes = hours
    return "regular" if opens <= local.time() < closes else "extended"


@lru_cache(maxsize=8)
def _nyse_hours(decade: int) -> dict[date, tuple[time, time]]:
    """Return when the NYSE opens and closes in New York, for every day of a decade on which it opens."""
    # Imported here, since pandas and the calendar take half a second that only instruments with sessions need.
    import exchange_calendars

    last = min(f"{decade + 9}-12-31", _LAST_DAY)
    calendar = exchange_calendars.get_calendar("XNYS", start=f"{decade}-01-01", end=last)
    opens, closes = (
        [moment.astimezone(NEW_YORK).time() for moment in column]
        for column in (calendar.opens, calendar.closes)
    )
    return dict(zip((day.date() for day in calendar.sessions), zip(opens, closes, strict=True), strict=True))
