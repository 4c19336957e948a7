"""In which trading session does an instant lie?

First-dex perps and spot pairs trade `always`. HIP-3 equities trade all week too, but where their price comes from
changes: from outside on trading days, from their own book otherwise. The venue sends none of this, so the calendar
is our own reference data (docs.trade.xyz, read through a third party in 2026; not confirmed by the venue):

- a trading day runs from 20:00 New York time of the evening before to 20:00 of the day itself;
- on a day on which the NYSE is open: `regular` from 9:30 to 16:00 (13:00 on half days), else `extended`;
- on any other day, hence from Friday 20:00 to Sunday 20:00, prices are `internal`. For holidays this is our own
  inference: no outside price exists on them, and without one for 30 s the venue prices internally.

Not known, hence `always`, which claims no closing: dexes that are not named below. Commodities and FX of a dex that
is named follow its calendar, though their outside markets keep other hours.
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
_OPEN: Final = time(9, 30)
_CLOSE: Final = time(16)
_EARLY_CLOSE: Final = time(13)


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


@lru_cache(maxsize=4096)  # one clock for all instruments: bars ask for the same minute many times
def _session_of(minute: int) -> Session:
    # The wall in New York decides; what a day is must not move with daylight saving time.
    local = datetime.fromtimestamp(minute * 60, UTC).astimezone(NEW_YORK).replace(tzinfo=None)
    closes = _close_of((local + _DAY_BEGINS_EARLY).date())
    if closes is None:
        return "internal"
    return "regular" if _OPEN <= local.time() < closes else "extended"


@lru_cache(maxsize=4096)
def _close_of(day: date) -> time | None:
    """Return when the NYSE closes on a day, or None where it does not open."""
    if day.weekday() >= 5:
        return None
    closed, half = _nyse(day.year)
    if day in closed:
        return None
    return _EARLY_CLOSE if day in half else _CLOSE


@lru_cache(maxsize=64)
def _nyse(year: int) -> tuple[frozenset[date], frozenset[date]]:
    """Return the holidays and the half days of a year."""
    import holidays  # half a second, which only instruments with a calendar are worth
    from holidays.constants import HALF_DAY, PUBLIC

    closed, half = (
        frozenset(holidays.financial_holidays("NYSE", years=year, categories=(kind,)))
        for kind in (PUBLIC, HALF_DAY)
    )
    return closed, half
