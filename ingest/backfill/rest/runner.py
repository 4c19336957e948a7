"""Backfill over REST, and its replay from its own journal.

The header of the recording holds the request and the settings in force. A replay therefore runs the same driver and
source over the same steps, with answers from the journal instead of the venue.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from ingest.backfill.history import HistoryStamper
from ingest.backfill.rate_budget import shared_rate_limit
from ingest.backfill.rest.candles import RestCandleSource
from ingest.backfill.rest.funding import RestFundingSource
from ingest.backfill.rest.journaled_client import (
    PREFIX,
    JournaledClient,
    JournaledRestClient,
    RecordedAnswers,
)
from ingest.backfill.runner import EMPTY_PLAN, BackfillPlan, BackfillResult, check_range, run_backfill
from ingest.backfill.source import BackfillRequest, BackfillStep
from ingest.bars.from_candles import Absent
from ingest.feed.rest_client import RestClient
from ingest.journal.recording import read_header, settings_for_header, settings_of_recording
from storage.clock import TimeSource, WallTime
from storage.errors import InstrumentError, JournalError, RangeError, TickwalkError, VenueError
from storage.lake.lake import Lake
from storage.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RestRequest:
    """Candles of a width, or funding; `absent` states the meaning of a missing candle."""

    what: Literal["candles", "funding"]
    width: str = "1m"
    absent: Absent = "unknown"

    def source(
        self, client: JournaledClient, lake: Lake, settings: Settings
    ) -> RestCandleSource | RestFundingSource:
        """Return the source.

        Raises:
            SettingsError: the venue has no candles of that width.
        """
        if self.what == "funding":
            return RestFundingSource(client, lake, settings)
        return RestCandleSource(client, lake, settings, width=self.width, absent=self.absent)


async def backfill_over_rest(
    wanted: RestRequest,
    request: BackfillRequest,
    lake: Lake,
    settings: Settings,
    *,
    clock: TimeSource | None = None,
    dry_run: bool = False,
    stop: asyncio.Event | None = None,
    on_plan: Callable[[BackfillPlan], None] | None = None,
    on_step: Callable[[BackfillStep, BackfillResult], None] | None = None,
) -> BackfillResult:
    """Backfill from `record.info_url`, with each answer journalled first; see `run_backfill`.

    Args:
        wanted: candles or funding.
        request: time range, and names or patterns of coins (default: those of `record.coins`).
        lake: stores the rows; its batches mark completed steps.
        settings: venue, rate limit, and home of the journal.
        clock: stamps answers and bounds the range (default: wall clock).
        dry_run: only make the plan, without a recording.
        stop: stops between two steps.
        on_plan: called with the plan.
        on_step: called after each step.

    Raises:
        RangeError: the range is invalid, or the venue has no data in it.
        InstrumentError: the venue does not know a coin.
        VenueError: the venue cannot be reached or refuses; the same call resumes.
        JournalError: another backfill of this home is running.
    """
    clock = clock or WallTime()
    check_range(request, clock.now_ns())
    about = {
        "url": settings.record.info_url,
        "wanted": msgspec.to_builtins(wanted),
        "wish": msgspec.to_builtins(request),
        "settings": settings_for_header(settings),
    }
    name = f"{PREFIX}{wanted.what}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{os.getpid()}"
    bytes_most, plans = settings.record.segment_bytes, list[BackfillPlan]()

    def note_plan(plan: BackfillPlan) -> None:
        plans.append(plan)
        if on_plan is not None:
            on_plan(plan)

    async with contextlib.AsyncExitStack() as stack:
        budget = stack.enter_context(shared_rate_limit(settings, clock, is_recorded=not dry_run))
        rest = await stack.enter_async_context(RestClient(settings, budget, clock=clock))
        client = stack.enter_context(
            JournaledRestClient(
                rest, settings.journal_dir / name, about, keeps=not dry_run, segment_bytes=bytes_most
            )
        )
        source = wanted.source(client, lake, settings)
        try:
            result = await run_backfill(
                [source],
                request,
                lake,
                settings,
                dry_run=dry_run,
                stop=stop,
                on_plan=note_plan,
                on_step=on_step,
            )
        except TickwalkError as error:
            # A replay repeats what the lake refused; what the venue refused is not in the journal.
            _end(client, lake, error.message, is_used=bool(plans), is_whole=isinstance(error, VenueError))
            raise
        cause = "stopped" if result.is_stopped else "end of backfill"
        _end(client, lake, cause, is_used=bool(result.taken or result.absent), is_whole=True)
    return result


def _end(client: JournaledRestClient, lake: Lake, cause: str, *, is_used: bool, is_whole: bool) -> None:
    """End a recording: discard it if no rows were made of it, seal it if the lake has all of them."""
    client.stop(cause, discard=not is_used)
    if is_used and is_whole and client.last_frame >= 0:
        _note_end(lake, client.recording, client.last_frame)
        client.seal()


def replay_backfill(
    folder: Path, settings: Settings, lake: Lake, *, stamper: HistoryStamper | None = None
) -> tuple[BackfillResult, RecordedAnswers]:
    """Make the rows again from the recording of a backfill; steps that are in the lake are skipped.

    Steps without an answer in this recording are absent: that of a killed backfill holds only the first ones.

    Args:
        folder: the recording, locked by the caller.
        settings: today's home and lake; the header decides the rest.
        lake: stores the rows.
        stamper: of the bars (default: by what the lake knows now, and the receipts).

    Raises:
        JournalError: it is not the recording of a backfill.
    """
    about, _ = read_header(folder)
    try:
        wanted = msgspec.convert(about["wanted"], RestRequest)
        request = msgspec.convert(about["wish"], BackfillRequest)
    except (KeyError, msgspec.ValidationError) as error:
        raise JournalError(
            f"{folder} does not say what was asked for: {error}",
            hint="name a folder that a backfill has made",
        ) from error
    settings = settings_of_recording(about, settings)
    client = RecordedAnswers(folder)
    source = wanted.source(client, lake, settings)
    result = BackfillResult(EMPTY_PLAN)
    # A backfill killed while it requested the listings left no answers about the past.
    with contextlib.suppress(VenueError, InstrumentError, RangeError):
        result = run_without_waiting(
            run_backfill([source], request, lake, settings, goes_on=True, stamper=stamper)
        )
    _note_end(lake, client.recording, client.last_frame)
    return result, client


def _note_end(lake: Lake, recording: str, last_frame: int) -> None:
    """Record that the lake holds all rows of a recording, so that retention may remove its segments."""
    lake.commit(
        {}, batch_id=f"{recording}:{last_frame}", inputs={"recording": recording, "frames": [0, last_frame]}
    )


def run_without_waiting(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that never waits, with or without a running loop."""
    try:
        work.send(None)
    except StopIteration as finished:
        result: T = finished.value
        return result
    work.close()
    raise AssertionError("it waited for something")
