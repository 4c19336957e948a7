"""Seals a UTC day: repairs its gaps, certifies its bars, writes its coverage, and validates it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from ingest.backfill.certify import certify
from ingest.coverage.day_coverage import DayCoverage, day_name, format_causes
from ingest.replay.recovery import recover
from ingest.venues.hyperliquid.protocol import coin_of
from serving.day_jobs.coverage_table import count_states, update_coverage
from serving.day_jobs.days import check_is_over, clock_of, parse_day_ns
from serving.day_jobs.repair import repair_range
from serving.day_jobs.validation import validate_day
from storage.clock import DAY_NS, TimeSource
from storage.errors import ContractError, JournalError, VenueError
from storage.lake.lake import Lake
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)

_SHOWN: Final = 20


def seal_day(
    settings: Settings, day: str, *, accept: bool = False, clock: TimeSource | None = None
) -> dict[str, Any]:
    """Seal a day, and return what is known of it as plain values; sealing it again adds nothing.

    A venue that cannot be reached does not keep a day from being sealed: `repair_gaps` fills it within the hour.

    Args:
        settings: the home.
        day: its name, such as `2026-11-22`.
        accept: log what the validation finds, and go on.
        clock: the present (default: see `clock_of`).

    Raises:
        RangeError: the day has not ended.
        NotReadyError: bars of it may still come.
        ContractError: the validation found bars that break a rule; the day's coverage is written nevertheless.
    """
    clock = clock or clock_of(settings)
    day_ns = parse_day_ns(day)
    with Lake.open(settings, clock=clock) as lake:
        recover(settings, lake)
        check_is_over(day, lake, settings, clock.now_ns())
        result: dict[str, Any] = {"day": day}
        work = repair_range(lake, settings, day_ns, day_ns + DAY_NS, clock=clock)
        try:
            result["repair"] = asyncio.run(work).to_dict()
        except (VenueError, JournalError) as error:
            logger.warning("day sealed without repair", day=day, reason=str(error))
            result["repair"] = {"failed": str(error)}
        compared = certify(lake, settings, from_ns=day_ns, to_ns=day_ns + DAY_NS, clock=clock)
        shares = [row for row in compared.shares.to_pylist() if row["width"] == settings.bars.width]
        result["certified"] = sum(row["certified"] for row in shares)
        result["differ"] = sum(row["differ"] for row in shares)
        found = update_coverage(lake, settings, [day_ns], now_ns=clock.now_ns())
        result["coverage"] = count_states(found)
        result["lacking"] = describe_missing(found)
        result["archive"] = archive_command(found, settings)
        try:
            result["bars"] = validate_day(lake, day, day_ns, width=settings.bars.width)
        except ContractError as error:
            if not accept:
                raise
            logger.warning("day accepted although its validation failed", day=day, reason=error.message)
            result["accepted"] = error.message
    logger.info("day sealed", **result["coverage"], day=day)
    return result


def describe_missing(found: Sequence[DayCoverage]) -> list[str]:
    """Return a line for each instrument with missing hours, the longest first, at most 20."""
    lacking = sorted((item for item in found if item.missing_h), key=lambda item: -item.missing_h)
    return [
        f"{item.instrument}: {item.missing_h:.2f} h missing ({format_causes(item.causes)})"
        for item in lacking[:_SHOWN]
    ]


def archive_command(found: Sequence[DayCoverage], settings: Settings) -> str:
    """Return the command that prices what only the archive of `record.venue` may have of a day; empty: nothing."""
    lacking = [
        item
        for item in found
        if item.instrument.startswith(f"{settings.record.venue}|") and item.missing_h > item.repairable_h
    ]
    if not lacking:
        return ""
    day_ns = parse_day_ns(lacking[0].day)
    coins = " ".join(f"--coin {coin_of(item.instrument)}" for item in lacking) if len(lacking) < 9 else ""
    next_day = day_name(day_ns + DAY_NS)
    return f"tickwalk backfill trades --from {lacking[0].day} --to {next_day} {coins} --dry-run".replace(
        "  ", " "
    )
