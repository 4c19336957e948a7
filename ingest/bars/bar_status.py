"""Status of a bar: the one rule for bars of live, replayed, archived and candle data.

A bar is quiet only if every other status is excluded: nothing may stand for the missing evidence that nothing printed.
Each source of bars states its evidence as flags; `RULES` decides, for one bar (`status_of`), for columns
(`statuses_of`) and in SQL (`status_sql`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ingest.coverage.intervals import BarCoverage, Part

RULES: Final = (
    ("is_unlisted", "unlisted"),
    ("is_missing", "blind"),
    ("is_printed", "printed"),
    ("is_halted", "halted"),
    ("is_doubtful", "unknown"),
)
"""Flags of a bar and their status; the first that is set decides.

- `is_unlisted`: the instrument was not listed.
- `is_missing`: part of the bar was not watched, or prints of it are missing, or refused.
- `is_printed`: there is a print.
- `is_halted`: nobody could trade.
- `is_doubtful`: nothing of the stream itself proves that nothing printed.
"""
QUIET: Final = "quiet"
"""Status of a bar without a flag."""

NO_BOOK_YET: Final = "no book yet"
"""Cause of a bar of books alone whose stream was alive and had not delivered one, or none since its last was void."""


def status_of(**flags: bool) -> str:
    """Return the status of one bar.

    >>> status_of(is_printed=False, is_doubtful=True), status_of(is_printed=True, is_doubtful=True), status_of()
    ('unknown', 'printed', 'quiet')
    """
    return next((status for flag, status in RULES if flags.get(flag)), QUIET)


def statuses_of(bars: int, **flags: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the status of each bar, (bars,) of texts; flags are (bars,) and may be left out."""
    chosen = [(flags[flag], status) for flag, status in RULES if flag in flags]
    found: NDArray[Any] = np.full(bars, QUIET, object)
    for flag, status in reversed(chosen):
        found[flag] = status
    return found


def status_sql(**flags: str) -> str:
    """Return an SQL expression of the status; flags are boolean SQL expressions, and a null counts as not set."""
    rules = [f"WHEN {flags[flag]} THEN '{status}'" for flag, status in RULES if flag in flags]
    return f"CASE {' '.join(rules)} ELSE '{QUIET}' END"


def bar_status(watch: BarCoverage, row: Mapping[str, Any], doubt: str) -> tuple[str, str]:
    """Return the status and cause of a listed instrument's recorded bar (docs/tables.md).

    Args:
        watch: its coverage.
        row: its columns.
        doubt: why silence would not be known, see `SilenceJudge.reason_unknown`.
    """
    if not row["trades_applicable"] and row["quote_age_ms"] is None:
        doubt = NO_BOOK_YET
    status = status_of(
        is_missing=not (watch.is_complete or watch.is_repaired),
        is_printed=bool(row["trades"]),
        is_halted=row["quote_age_ms"] is not None and row["bid"] is None and row["ask"] is None,
        is_doubtful=bool(doubt),
    )
    return status, {"blind": watch.cause, "unknown": doubt}.get(status, "")


def is_unlisted(delisted_ns: int | None, absences: Iterable[Part], open_ns: int, close_ns: int) -> bool:
    """Return whether an instrument was delisted before a bar's close, even if it was listed again later.

    Args:
        delisted_ns: when it was delisted; None while it is listed.
        absences: earlier stretches in which it was delisted.
        open_ns, close_ns: of the bar.
    """
    if delisted_ns is not None and delisted_ns < close_ns:
        return True
    return any(gone_ns < close_ns and open_ns < back_ns for gone_ns, back_ns in absences)


def is_certifiable(bar: Mapping[str, Any]) -> bool:
    """Return whether a bar claims to be complete and no candle has confirmed it yet."""
    return bar["trades_applicable"] and bar["status"] in ("printed", "quiet") and not bar["certified"]


def is_incomplete(bar: Mapping[str, Any]) -> bool:
    """Return whether a candle may complete a bar: it does not claim to be complete."""
    return bar["status"] in ("blind", "unknown")
