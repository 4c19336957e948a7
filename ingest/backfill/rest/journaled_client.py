"""How is an answer about the past on disk before anyone reads it?

A backfill has a recording of its own, `backfill-...`: each REST answer is journalled and synced, and only then made
rows of, so that the tables can be made again from the journal. `JournaledRestClient` asks the venue; `RecordedAnswers`
gives the same answers from such a recording, to the same code.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

import zstandard

from ingest.feed.rest_client import RestAnswer, RestClient
from ingest.journal.reader import read_journal
from ingest.journal.recording import BACKFILL, SEALED
from ingest.journal.records import RecordKind
from ingest.journal.writer import JournalWriter
from storage.errors import VenueError

PREFIX: Final = "backfill-"


@dataclass(frozen=True, slots=True)
class JournaledAnswer(RestAnswer):
    """An answer, and where it stands in the journal."""

    recording: str
    frame: int

    @property
    def source(self) -> str:
        """What a row made of it calls its source."""
        return f"{self.recording}:{self.frame}"


class JournaledClient(Protocol):
    """Who answers questions to `POST /info`."""

    async def ask(self, request: Mapping[str, Any]) -> JournaledAnswer:
        """Return the answer to a request.

        Raises:
            VenueError: there is none.
        """


class JournaledRestClient:
    """Asks the venue and journals each answer before it is returned; a context manager."""

    def __init__(
        self,
        rest: RestClient,
        folder: Path,
        about: Mapping[str, Any],
        *,
        keeps: bool = True,
        segment_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        """Prepare to ask.

        Args:
            rest: asks, within its budget.
            folder: of the recording; it is made with the first answer.
            about: what the recording says of itself, enough for `rebuild` to ask the same again.
            keeps: false for a look beforehand, which leaves no recording.
            segment_bytes: a segment is sealed at this size.
        """
        self._rest = rest
        self._folder = folder
        self._about = {"source": BACKFILL} | dict(about)
        self._keeps = keeps
        self._segment_bytes = segment_bytes
        self._journal: JournalWriter | None = None

    @property
    def recording(self) -> str:
        """The recording's name."""
        return self._folder.name

    @property
    def last_frame(self) -> int:
        """Number of the newest record; -1 where there is none."""
        return self._journal.frames - 1 if self._journal else -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._journal is not None:
            self._journal.close()

    async def ask(self, request: Mapping[str, Any]) -> JournaledAnswer:
        """Return the venue's answer, which is on disk by then.

        Raises:
            VenueError: the venue refused, or did not answer.
            JournalError: the disk refused.
        """
        answer = await self._rest.ask(request)
        return self._note(request, answer)

    def stop(self, cause: str, *, discard: bool = False) -> None:
        """Write the recording's last record, and close it.

        Args:
            cause: why it ends.
            discard: no row was made of it: it need not be kept.
        """
        if self._journal is None:
            return
        self._journal.append(self._journal.last_recv_ns, RecordKind.STOPPED, -1, cause.encode())
        self._journal.close()
        if discard:
            shutil.rmtree(self._folder)
            self._journal = None

    def seal(self) -> None:
        """Mark the recording as wholly in the tables, so that no start of a recorder replays it."""
        if self._journal is not None:
            (self._folder / SEALED).touch()

    def _note(self, request: Mapping[str, Any], answer: RestAnswer) -> JournaledAnswer:
        if not self._keeps:
            return JournaledAnswer(answer.body, answer.asked_ns, answer.received_ns, self.recording, -1)
        if self._journal is None:
            self._journal = JournalWriter(self._folder, segment_bytes=self._segment_bytes)
            self._journal.append(answer.asked_ns, RecordKind.STARTED, -1, json.dumps(self._about).encode())
        body = b'{"request":%s,"asked_ns":%d,"response":%s}'
        record = self._journal.append(
            answer.received_ns,
            RecordKind.ANSWER,
            -1,
            body % (json.dumps(dict(request)).encode(), answer.asked_ns, answer.body),
        )
        self._journal.sync()
        return JournaledAnswer(answer.body, answer.asked_ns, record.recv_ns, self.recording, record.frame)


class RecordedAnswers:
    """Gives the answers of a recording again, each to the question that it was the answer to."""

    def __init__(self, folder: Path) -> None:
        """Read a recording.

        Raises:
            JournalError: it is none.
        """
        self.recording = folder.name
        self.answers = 0
        self.kinds: Counter[str] = Counter()
        """Answers by the type of their question."""
        self.last_frame = -1
        self._packer, self._unpacker = zstandard.ZstdCompressor(level=1), zstandard.ZstdDecompressor()
        self._held: defaultdict[str, deque[tuple[int, int, int, bytes]]] = defaultdict(deque)
        for record in read_journal(folder):
            self.last_frame = record.frame
            if record.kind is not RecordKind.ANSWER:
                continue
            said = _split(record.body)
            self.answers += 1
            self.kinds[said.kind] += 1
            self._held[said.question].append(
                (record.frame, said.asked_ns, record.recv_ns, self._packer.compress(said.response))
            )

    async def ask(self, request: Mapping[str, Any]) -> JournaledAnswer:
        """Return the answer that was given to a request; the next one where it was asked more than once.

        Raises:
            VenueError: it was not asked in this recording.
        """
        held = self._held.get(_question(request))
        if not held:
            raise VenueError(
                f"{self.recording} holds no answer to {json.dumps(dict(request))}",
                hint="it ended before; replay the recordings of one backfill in the order of their names",
            )
        frame, asked_ns, received_ns, packed = held[0] if len(held) == 1 else held.popleft()
        return JournaledAnswer(
            self._unpacker.decompress(packed), asked_ns, received_ns, self.recording, frame
        )


@dataclass(frozen=True, slots=True)
class _Said:
    kind: str
    question: str
    asked_ns: int
    response: bytes


def _split(body: bytes) -> _Said:
    exchange = json.loads(body)
    # The response's own bytes, since numbers must not be written anew.
    response = body[body.index(b',"response":') + len(b',"response":') : -1]
    request = exchange["request"]
    return _Said(str(request.get("type")), _question(request), int(exchange["asked_ns"]), response)


def _question(request: Mapping[str, Any]) -> str:
    return json.dumps(dict(request), sort_keys=True)
