"""Task loops of a recorder: flush, sync, commit, rotate and status.

Each loop runs until the recorder ends. Blocking work (syncing the journal, committing to the lake) runs in a thread,
and a loop that is in the middle of it ends it first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from ingest.concurrency import run_in_thread, wait_for
from ingest.recorder.commit_queue import CommitQueue
from ingest.recorder.frame_sink import FrameSink
from ingest.recorder.memory import release_starters, trim
from storage.clock import NS, TimeSource
from storage.errors import LakeError
from storage.lake.lake import Lake
from storage.settings import Settings

STATUS_S: Final = 1.0
"""How often the status is sampled."""
_FLUSH_S: Final = 0.02
_ROTATE_CHECK_S: Final = 30.0
# A large batch or a rotation runs much code that is not needed again for long: its memory is released this often.
_RELEASE_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What the task loops of one recorder share.

    Args:
        settings: intervals of the loops.
        lake: receives the rows.
        clock: the recorder's clock.
        intake: receives, journals and processes frames.
        commits: batches on their way to the lake.
        ending: set when the recorder ends.
        new_bars: set when bars should be committed at once.
    """

    settings: Settings
    lake: Lake
    clock: TimeSource
    intake: FrameSink
    commits: CommitQueue
    ending: asyncio.Event
    new_bars: asyncio.Event


async def flush_loop(context: TaskContext) -> None:
    """Journal and process what was received; close bars by the clock, so that they close on a silent feed too."""
    intake = context.intake
    while not context.ending.is_set():
        due_ns = intake.pipeline.next_tick_ns
        if due_ns and context.clock.now_ns() > due_ns and intake.waiting is None:
            intake.tick()
        intake.flush()
        await asyncio.sleep(_FLUSH_S)


async def sync_loop(context: TaskContext, before_sync: Callable[[FrameSink], None]) -> None:
    """Sync the journal every `record.block_ms`.

    Args:
        context: of the recorder.
        before_sync: called with the intake before each sync.
    """
    while not context.ending.is_set():
        await wait_for(context.ending, context.settings.record.block_ms / 1000)
        before_sync(context.intake)
        await run_in_thread(context.intake.journal.sync)


async def commit_loop(context: TaskContext) -> None:
    """Commit every `record.commit_s`, or at once when bars were published."""
    released_s = 0.0
    while not context.ending.is_set():
        await wait_for(context.new_bars, context.settings.record.commit_s)
        context.new_bars.clear()
        if context.ending.is_set():
            return  # the recorder's end commits what is left
        await context.commits.send()
        await asyncio.to_thread(trim)
        if context.commits.written and time.monotonic() > released_s + _RELEASE_S:
            await asyncio.to_thread(release_starters)
            released_s = time.monotonic()


async def rotate_loop(context: TaskContext, rotate: Callable[[], Awaitable[None]]) -> None:
    """Rotate the recording every `record.rotate_h`.

    Rotate early when the lake accepts rows again after batches were dropped: the rotation replays them.

    Args:
        context: of the recorder; its lake must accept rows, or the recording is not rotated.
        rotate: called when a rotation is due.
    """
    clock, commits = context.clock, context.commits
    period_ns = round(context.settings.record.rotate_h * 3_600 * NS)
    due_ns = clock.now_ns() + period_ns
    while not context.ending.is_set():
        rest_s = max(0.01, (due_ns - clock.now_ns()) / NS)
        await wait_for(context.ending, min(_ROTATE_CHECK_S, rest_s))
        is_due = clock.now_ns() >= due_ns or commits.is_behind
        if context.ending.is_set() or not is_due or context.intake.waiting is not None:
            continue
        if await _is_lake_available(context.lake, commits):
            await rotate()
            due_ns = clock.now_ns() + period_ns


async def status_loop(context: TaskContext, sample: Callable[[], None]) -> None:
    """Call `sample` once a second."""
    while not context.ending.is_set():
        sample()
        await wait_for(context.ending, STATUS_S)


async def _is_lake_available(lake: Lake, commits: CommitQueue) -> bool:
    """Return whether the lake has accepted every waiting batch and can be read."""
    await commits.send()
    if commits.has_unsent:
        return False
    try:
        await run_in_thread(lake.snapshot)
    except LakeError:
        return False
    return True
