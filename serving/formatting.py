"""Formatting of numbers, times and names for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from storage.clock import DAY_NS, NS

MINUS: Final = "\N{MINUS SIGN}"
NOTHING: Final = "\N{EN DASH}"
"""Shown for an undefined figure."""

_CHECKS: Final = {
    "future": "all bars after a cut replaced",
    "past": "all bars before the lookback replaced",
    "cut": "part of the panel against the whole",
    "blocks": "night by night against the whole",
    "stream": "bar by bar against the whole",
    "build": "the built block against the tested values",
    "live": "the live step against the tested values",
    "shuffle": "instruments in a different order",
    "shift": "clock shifted by whole days",
}
"""Description of each check of the leakage test."""


def decimal(value: float | None, digits: int = 2) -> str:
    """Return a number with a fixed number of decimals, or a dash where it is undefined.

    >>> decimal(1234.5, 1), decimal(None)
    ('1,234.5', '–')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    return _minus(f"{value:,.{digits}f}", digits)


def signed(value: float | None, digits: int = 4) -> str:
    """Return a number that always shows its sign.

    >>> signed(0.01234), signed(-0.00001)
    ('+0.0123', '0.0000')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    return _minus(f"{value:+,.{digits}f}", digits)


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share, 0 to 1, in percent; values just below 100% or above 0% are not rounded to them.

    >>> percent(0.97934), percent(0.99996), percent(1.0), percent(0.0002)
    ('97.9%', '>99.9%', '100%', '<0.1%')
    """
    if share is None or not math.isfinite(share):
        return NOTHING
    if share in (0.0, 1.0):
        return f"{share:.0%}"
    least = 10.0**-digits
    if 0 < share * 100 < least / 2:
        return f"<{least:.{digits}f}%"
    if 1 > share > 1 - least / 200:
        return f">{100 - least:.{digits}f}%"
    return _minus(f"{share * 100:.{digits}f}%", digits)


def signed_percent(share: float | None, digits: int = 2) -> str:
    """Return a share of the capital in percent, with its sign.

    >>> signed_percent(0.0123), signed_percent(0.0)
    ('+1.23%', '0.00%')
    """
    if share is None or not math.isfinite(share):
        return NOTHING
    return signed(share * 100, digits) + "%"


def needed_digits(values: Iterable[float]) -> int:
    """Return the number of decimals that these values need, at most 6.

    >>> needed_digits([-2.5, 0.0, 5.0]), needed_digits([10.0, 20.0])
    (1, 0)
    """
    numbers = list(values)
    return next((n for n in range(6) if all(abs(value - round(value, n)) < 1e-9 for value in numbers)), 6)


def count(value: int | None) -> str:
    """Return a count with thousands separators."""
    return NOTHING if value is None else f"{value:,}"


def clock(at_ns: int, *, seconds: bool = False) -> str:
    """Return a time in UTC.

    >>> clock(1_741_946_400_000_000_000)
    '2025-03-14 10:00'
    """
    moment = datetime.fromtimestamp(at_ns // NS, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}" if seconds else f"{moment:%Y-%m-%d %H:%M}"


def span(start_ns: int, stop_ns: int) -> str:
    """Return a time range; the second date is omitted if it equals the first."""
    start, stop = clock(start_ns), clock(stop_ns)
    return f"{start} to {stop[11:] if start[:10] == stop[:10] else stop}"


def length(duration_ns: int) -> str:
    """Return a duration by its two largest units.

    >>> length(3_900_000_000_000), length(900_000_000), length(0)
    ('1 h 5 min', '0.9 s', '0 s')
    """
    if duration_ns < 60 * NS:
        return f"{duration_ns / NS:.1f} s".replace(".0 s", " s")
    left, parts = duration_ns, []
    for unit_ns, name in ((DAY_NS, "d"), (3_600 * NS, "h"), (60 * NS, "min"), (NS, "s")):
        if left >= unit_ns:
            parts.append(f"{left // unit_ns} {name}")
            left %= unit_ns
    return " ".join(parts[:2])


def short_names(instruments: Sequence[str]) -> dict[str, str]:
    """Return each instrument's symbol, or its full id if venues or kinds differ."""
    prefixes = {name.rpartition("|")[0] for name in instruments}
    return {name: name.rpartition("|")[2] if len(prefixes) == 1 else name for name in instruments}


def join_names(names: Sequence[str], most: int = 8) -> str:
    """Return names joined by commas, cut to `most` with the number of the rest."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def leakage_checks(proof: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return each check of a passed leakage test (`proof.json`) with its number of values; empty if it failed."""
    if not proof["passed"]:
        return []
    found = [(check, count(proof["compared"][name])) for name, check in _CHECKS.items()]
    hidden = proof["hindsight"]
    return [
        *found,
        (f"later rows hidden in the lake, at {len(hidden['cuts'])} bars", count(hidden["compared"])),
        ("correlated with the returns that follow", count(hidden["foretold"])),
    ]


def _minus(text: str, digits: int) -> str:
    is_zero = not any(digit in text for digit in "123456789")
    return f"{0:.{digits}f}" + ("%" if text.endswith("%") else "") if is_zero else text.replace("-", MINUS)
