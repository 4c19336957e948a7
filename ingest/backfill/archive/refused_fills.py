"""Fills of an archive that were refused: the bars from which a trade is missing.

A line that does not fit its layout, or fills that make no trade, are trades that the archive has and the bars lack.
Where a line cannot be read, its trades may be of any coin, at any time between those of the lines around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from storage.clock import MS_NS, parse_time_ns
from storage.errors import TickwalkError

Array = NDArray[Any]

FILLS_REFUSED: Final = "prints refused"
"""Cause of a bar that lacks a trade; the same as of a print that a recorder refused."""

_COIN: Final = re.compile(rb'"coin"\s*:\s*"([^"\\]*)"')
_TIME: Final = re.compile(rb'"time"\s*:\s*(?:"([^"]*)"|(\d{12,14})\b|)')


@dataclass(frozen=True, slots=True)
class RefusedSpan:
    """Times in which trades were refused, both included; of every coin if `coin` is None."""

    coin: str | None
    from_ms: int
    to_ms: int


def spans_of_line(raw: bytes, before_ms: int, after_ms: int) -> list[RefusedSpan]:
    """Return what a malformed line may have held.

    Args:
        raw: the line.
        before_ms, after_ms: times of the lines around it.
    """
    found = _TIME.findall(raw)
    times = [time_ms for text in found if (time_ms := _time_ms(*text)) is not None]
    coins = [name.decode(errors="replace") for name in _COIN.findall(raw)]
    is_whole = _is_json(raw)
    first, last = min([before_ms, *times]), max([after_ms, *times])
    if is_whole and len(times) == len(found) > 0 and before_ms <= min(times) and max(times) <= after_ms:
        first, last = min(times), max(times)
    if not is_whole or not coins or len(coins) < len(found):
        return [RefusedSpan(None, first, last)]
    return [RefusedSpan(coin, first, last) for coin in sorted(set(coins))]


def refused_bars(
    spans: Iterable[RefusedSpan], coins: Sequence[str], opens_ms: Array, step_ms: int
) -> NDArray[np.bool_]:
    """Return a mask (coins, n) of the bars from which a trade is missing.

    Args:
        spans: see `RefusedSpan`.
        coins: names, one a row.
        opens_ms: (n,) rising.
        step_ms: width of a bar.
    """
    refused = np.zeros((len(coins), len(opens_ms)), np.bool_)
    names = np.array(coins, dtype=object)
    for span in spans:
        touched = (opens_ms <= span.to_ms) & (opens_ms + step_ms > span.from_ms)
        rows = np.flatnonzero(names == span.coin) if span.coin is not None else np.arange(len(coins))
        refused[np.ix_(rows, np.flatnonzero(touched))] = True
    return refused


def without_refused(
    spans_ms: Iterable[Sequence[int]], refused: Iterable[RefusedSpan], coin: str
) -> list[tuple[int, int]]:
    """Return the parts of right-open spans in which no trade of a coin was refused."""
    parts = [(start, end) for start, end in spans_ms]
    for span in refused:
        if span.coin in (None, coin):
            cut = [((a, min(b, span.from_ms)), (max(a, span.to_ms + 1), b)) for a, b in parts]
            parts = [(a, b) for pair in cut for a, b in pair if a < b]
    return parts


def _is_json(raw: bytes) -> bool:
    try:
        msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _time_ms(text: bytes, digits: bytes) -> int | None:
    if digits:
        return int(digits)
    try:
        return parse_time_ns(text.decode()) // MS_NS
    except (TickwalkError, UnicodeDecodeError):
        return None
