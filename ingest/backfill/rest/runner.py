"""How does a backfill over REST run, and run again from its own journal?

The recording's first record holds what was wished for and the settings in force; so a replay has the same driver and
the same source take the same steps, and only the answers come from the journal instead of the venue.
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

from ingest.backfill.rate_budget import allowance
from ingest.backfill.rest.candles import RestCandleSource
from ingest.backfill.rest.funding import RestFundingSource
from ingest.backfill.rest.journaled_client import (
    PREFIX,
    JournaledClient,
    JournaledRestClient,
    RecordedAnswers,
)
from ingest.backfill.runner import NOTHING, BackfillPlan, BackfillResult, check_wish, run_backfill
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
    """What is asked for: candles of a width, or funding; `absent` says what a candle means that is not there."""

    what: Literal["candles", "funding"]
    width: str = "1m"
    absent: Absent = "unknown"

    def source(
        self, asks: JournaledClient, lake: Lake, settings: Settings
    ) -> RestCandleSource | RestFundingSource:
        """Return where it comes from.

        Raises:
            SettingsError: the venue has no candles of that width.
        """
        if self.what == "funding":
            return RestFundingSource(asks, lake, settings)
        return RestCandleSource(asks, lake, settings, width=self.width, absent=self.absent)


async def backfill_over_rest(
    wanted: RestRequest,
    wish: BackfillRequest,
    lake: Lake,
    settings: Settings,
    *,
    clock: TimeSource | None = None,
    dry_run: bool = False,
    stop: asyncio.Event | None = None,
    on_plan: Callable[[BackfillPlan], None] | None = None,
    on_step: Callable[[BackfillStep, BackfillResult], None] | None = None,
) -> BackfillResult:
    """Fill in history from `record.info_url`, each answer journalled first; see `run_backfill`.

    Args:
        wanted: what.
        wish: when, and of which coins; names and patterns, by default those of `record.coins`.
        lake: takes the rows, and knows which steps were taken before.
        settings: the venue, its budget, and the home whose journal takes the answers.
        clock: tells what is in the future, and stamps answers; the wall's by default.
        dry_run: make the plan only; no recording is made.
        stop: ends it in order between two steps.
        on_plan: is told what is left.
        on_step: is told of each step.

    Raises:
        RangeError: the range cannot be meant, or the venue has nothing of it.
        InstrumentError: the venue does not know a coin.
        VenueError: the venue cannot be reached or refuses; the same call goes on from there.
        JournalError: another backfill of this home is asking.
    """
    clock = clock or WallTime()
    check_wish(wish, clock.now_ns())
    about = {
        "url": settings.record.info_url,
        "wanted": msgspec.to_builtins(wanted),
        "wish": msgspec.to_builtins(wish),
        "settings": settings_for_header(settings),
    }
    name = f"{PREFIX}{wanted.what}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{os.getpid()}"
    bytes_most, plans = settings.record.segment_bytes, list[BackfillPlan]()

    def planned(plan: BackfillPlan) -> None:
        plans.append(plan)
        if on_plan is not None:
            on_plan(plan)

    async with contextlib.AsyncExitStack() as held:
        budget = held.enter_context(allowance(settings, clock, is_noted=not dry_run))
        rest = await held.enter_async_context(RestClient(settings, budget, clock=clock))
        asks = held.enter_context(
            JournaledRestClient(
                rest, settings.journal_dir / name, about, keeps=not dry_run, segment_bytes=bytes_most
            )
        )
        source = wanted.source(asks, lake, settings)
        try:
            done = await run_backfill(
                [source], wish, lake, settings, dry_run=dry_run, stop=stop, on_plan=planned, on_step=on_step
            )
        except TickwalkError as error:
            # What the lake refused is made again by a replay; what the venue refused is not in the journal.
            _end(asks, lake, error.message, is_used=bool(plans), is_whole=isinstance(error, VenueError))
            raise
        cause = "stopped" if done.is_stopped else "end of backfill"
        _end(asks, lake, cause, is_used=bool(done.taken or done.absent), is_whole=True)
    return done


def _end(asks: JournaledRestClient, lake: Lake, cause: str, *, is_used: bool, is_whole: bool) -> None:
    """End a recording; one of which nothing was made is not kept, one that the lake has is sealed."""
    asks.stop(cause, discard=not is_used)
    if is_used and is_whole and asks.last_frame >= 0:
        _note_end(lake, asks.recording, asks.last_frame)
        asks.seal()


def replay_backfill(folder: Path, settings: Settings, lake: Lake) -> tuple[BackfillResult, RecordedAnswers]:
    """Make the tables' rows again from a backfill's recording; steps that are in the lake are left out.

    Steps that were not asked for in this recording are absent: one that was killed holds the first ones only.

    Args:
        folder: the recording; nobody else reads or writes it meanwhile.
        settings: today's home and lake; all that decides rows is as it was.
        lake: takes the rows.

    Raises:
        JournalError: it is no recording of a backfill.
    """
    about, _ = read_header(folder)
    try:
        wanted = msgspec.convert(about["wanted"], RestRequest)
        wish = msgspec.convert(about["wish"], BackfillRequest)
    except (KeyError, msgspec.ValidationError) as error:
        raise JournalError(
            f"{folder} does not say what was asked for: {error}",
            hint="name a folder that a backfill has made",
        ) from error
    settings = settings_of_recording(about, settings)
    asks = RecordedAnswers(folder)
    source = wanted.source(asks, lake, settings)
    done = BackfillResult(NOTHING)
    # One that was killed while it asked what the venue lists holds nothing.
    with contextlib.suppress(VenueError, InstrumentError, RangeError):
        done = at_once(run_backfill([source], wish, lake, settings, goes_on=True))
    _note_end(lake, asks.recording, asks.last_frame)
    return done, asks


def _note_end(lake: Lake, recording: str, last_frame: int) -> None:
    """Record that the lake holds all rows of a recording, so that retention may remove its segments."""
    lake.commit(
        {}, batch_id=f"{recording}:{last_frame}", inputs={"recording": recording, "frames": [0, last_frame]}
    )


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns that waits for nothing, from within a running loop or without one."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise AssertionError("it waited for something")
