"""Queue of batches on their way to the lake: each is committed once, in order.

A batch is sent only after the journal that it was made from is synced, so the tables never hold what the journal
does not. Batches wait while the lake refuses them. When it refuses for too long, rows are dropped and the recording is
left unsealed: the next start replays them from the journal.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from ingest.concurrency import run_in_thread
from ingest.journal.recording import COMMIT_FRAMES
from ingest.journal.writer import JournalWriter
from ingest.recorder.frame_sink import FrameSink
from storage.clock import TimeSource
from storage.contracts.tables import RECORDINGS
from storage.errors import LakeError
from storage.lake.lake import Lake
from storage.logs import get_logger

logger = get_logger(__name__)

# At a batch every `record.commit_s` these are five minutes.
_MOST_UNSENT: Final = 60
# A batch can wait here instead of at the lake's lock, and a recorder that is ending must not wait for other writers.
_PATIENCE_S: Final = 1.0


@dataclass(slots=True)
class _PendingBatch:
    batch_id: str
    inputs: dict[str, object]
    tables: dict[str, pa.Table]


@dataclass(slots=True)
class CommitQueue:
    """Batches of one recorder on their way to the lake.

    Args:
        lake: receives the batches.
        intake: whose pipeline makes their rows.
        clock: stamps the last commit.
        is_counted: cut batches by the number of frames instead of by time, so that every run has the same batches.
    """

    lake: Lake
    intake: FrameSink
    clock: TimeSource
    is_counted: bool
    written: dict[str, int] = field(default_factory=dict)
    committed_ns: int = 0
    dropped: int = 0
    """Batches whose rows were dropped, or may be incomplete: the recording must be replayed."""
    _unsent: deque[_PendingBatch] = field(default_factory=deque)
    _first: int = 0
    sending: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while batches are committed, and by whoever else writes to the lake meanwhile."""

    @property
    def is_behind(self) -> bool:
        """Whether the tables lack rows that only a replay can restore."""
        return self.dropped > 0

    @property
    def waiting(self) -> int:
        """Batches that the lake has not received, including dropped ones."""
        return len(self._unsent) + self.dropped

    @property
    def has_unsent(self) -> bool:
        """Whether batches are still waiting to be committed."""
        return bool(self._unsent)

    def mark_incomplete(self) -> None:
        """Leave the recording unsealed: a batch may lack rows."""
        self.dropped += 1

    def begin(self) -> None:
        """Begin a recording, whose frames are numbered from zero."""
        self._first, self.dropped = 0, 0
        self.committed_ns = self.clock.now_ns()

    def register(self, recording: str, row: dict[str, object]) -> None:
        """Queue the row of `recordings` that announces a recording, before any of its frames is committed.

        A recovery may delay the first batch for minutes, and history that arrives meanwhile must know of the recording.
        """
        inputs: dict[str, object] = {"recording": recording}
        tables = {RECORDINGS.name: RECORDINGS.rows([row])}
        self._unsent.append(_PendingBatch(f"live:{recording}:start", inputs, tables))

    def cut_if_due(self) -> None:
        """Make a batch if batches are cut by the number of frames and there are enough."""
        if self.is_counted and self.intake.journal.frames - self._first >= COMMIT_FRAMES:
            self.cut()

    def cut(self) -> None:
        """Make a batch of the rows made since the last one."""
        if self.intake.waiting is not None:
            return
        name, first, last = self.intake.journal.recording, self._first, self.intake.journal.frames - 1
        tables = self.intake.pipeline.drain()
        self._first = last + 1
        if not tables:
            return
        if self.is_behind:
            self.dropped += 1
            return
        inputs: dict[str, object] = {"recording": name, "frames": [first, last]}
        self._unsent.append(_PendingBatch(f"live:{name}:{first}-{last}", inputs, tables))
        if len(self._unsent) > _MOST_UNSENT:
            logger.warning("tables behind", recording=name, batches=len(self._unsent))
            self.dropped = len(self._unsent)
            self._unsent.clear()

    async def send(self, journal: JournalWriter | None = None) -> None:
        """Sync the journal, then commit what waits.

        Args:
            journal: of a recording that has ended (default: the intake's).

        Raises:
            JournalError: the disk refuses frames.
        """
        async with self.sending:
            if not self.is_counted and journal is None:
                self.intake.flush()
                self.cut()
            await run_in_thread((journal or self.intake.journal).sync)
            while self._unsent:
                batch = self._unsent[0]
                try:
                    commit = await run_in_thread(
                        self.lake.commit,
                        batch.tables,
                        batch_id=batch.batch_id,
                        inputs=batch.inputs,
                        patience_s=_PATIENCE_S,
                    )
                except LakeError as error:
                    logger.warning(
                        "commit postponed", batch=batch.batch_id, waiting=len(self._unsent), reason=str(error)
                    )
                    return
                if self._unsent and self._unsent[0] is batch:
                    self._unsent.popleft()
                self.committed_ns = self.clock.now_ns()
                for name, rows in commit.rows.items():
                    self.written[name] = self.written.get(name, 0) + rows
