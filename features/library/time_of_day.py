"""Features of the time of day and week at the close, and of the trading session."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from features.feature import feature
from storage.contracts.tables import SESSIONS

_SOURCE: Final = (
    "Andersen and Bollerslev (1997), Intraday periodicity and volatility persistence in financial markets, "
    "J. Empirical Finance 4(2-3), the first harmonic of their Fourier form, unfitted"
)
_WEEK: Final = (
    "after French (1980), Stock returns and the weekend effect, J. Financial Economics 8(1), "
    "a circle in place of his weekdays"
)
_SESSION: Final = (
    "docs.trade.xyz, trading hours (read through a third party in 2026, not confirmed by the venue), as "
    "ingest/instruments/trading_calendar.py labels bars"
)


@feature(lookback_bars=0, inputs=("day_share",), unit="-1 to 1", source=_SOURCE)
def hour_sin(day_share: Tensor) -> Tensor:
    """Sine of the UTC time of day, on a 24-hour circle.

    Formula: sin(2 pi x), x the share of the UTC day that has passed at the close

    Missing: never.
    """
    return torch.sin(2.0 * math.pi * day_share)


@feature(lookback_bars=0, inputs=("day_share",), unit="-1 to 1", source=_SOURCE)
def hour_cos(day_share: Tensor) -> Tensor:
    """Cosine of the UTC time of day, on a 24-hour circle.

    Formula: cos(2 pi x), x the share of the UTC day that has passed at the close

    Missing: never.
    """
    return torch.cos(2.0 * math.pi * day_share)


@feature(lookback_bars=0, inputs=("week_share",), unit="-1 to 1", source=_WEEK)
def week_sin(week_share: Tensor) -> Tensor:
    """Sine of the UTC time of the week, on a seven-day circle.

    Formula: sin(2 pi x), x the share of the week that has passed at the close since Sunday 00:00 UTC

    Missing: never.
    """
    return torch.sin(2.0 * math.pi * week_share)


@feature(lookback_bars=0, inputs=("week_share",), unit="-1 to 1", source=_WEEK)
def week_cos(week_share: Tensor) -> Tensor:
    """Cosine of the UTC time of the week, on a seven-day circle.

    Formula: cos(2 pi x), x the share of the week that has passed at the close since Sunday 00:00 UTC

    Missing: never.
    """
    return torch.cos(2.0 * math.pi * week_share)


@feature(lookback_bars=0, inputs=("session",), unit="0 or 1", source=_SESSION)
def session_regular(session: Tensor) -> Tensor:
    """Whether the instrument's external market is in its regular hours.

    Formula: 1 where the bar's session is `regular`, 0 where it is another

    Missing: the bar was not observed. An instrument without external hours (`always`) has 0 in all three.
    """
    return _is_session(session, "regular")


@feature(lookback_bars=0, inputs=("session",), unit="0 or 1", source=_SESSION)
def session_extended(session: Tensor) -> Tensor:
    """Whether the instrument's external market is in extended hours.

    Formula: 1 where the bar's session is `extended`, 0 where it is another

    Missing: as `session_regular`.
    """
    return _is_session(session, "extended")


@feature(lookback_bars=0, inputs=("session",), unit="0 or 1", source=_SESSION)
def session_internal(session: Tensor) -> Tensor:
    """Whether the instrument's external market is closed, so that the venue prices it from its own book.

    Formula: 1 where the bar's session is `internal`, 0 where it is another

    Missing: as `session_regular`.
    """
    return _is_session(session, "internal")


def _is_session(session: Tensor, name: str) -> Tensor:
    return torch.where(torch.isnan(session), session, (session == SESSIONS.index(name)).to(torch.float64))
