"""Status of a bar: printed, quiet, halted, blind, unlisted or unknown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from ingest.coverage.intervals import BarCoverage, Part

NO_BOOK_YET: Final = "no book yet"
"""Cause of a bar of books alone whose stream was alive and had not delivered one, or none since its last was void."""


def bar_status(watch: BarCoverage, row: Mapping[str, Any]) -> tuple[str, str]:
    """Return the status and cause of a listed instrument's bar; the first rule that holds (docs/tables.md)."""
    if not (watch.is_complete or watch.is_repaired):
        return "blind", watch.cause
    if row["trades"]:
        return "printed", ""
    if row["quote_age_ms"] is not None and row["bid"] is None and row["ask"] is None:
        return "halted", ""
    if not row["trades_applicable"] and row["quote_age_ms"] is None:
        return "unknown", NO_BOOK_YET
    return "quiet", ""


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
