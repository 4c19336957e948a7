"""REST clients of a backfill: one that journals each answer, and one that reads them back.

A backfill has a recording of its own, `backfill-...`: each REST answer is journalled and synced before rows are made
of it, so that the tables can be made again from the journal. `JournaledRestClient` queries the venue;
`RecordedAnswers` returns the same answers from such a recording, to the same code.
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
    """An answer and its position in the journal."""

    recording: str
    frame: int

    @property
    def source(self) -> str:
        """Value of the column `source` in rows made of it."""
        return f"{self.recording}:{self.frame}"


class JournaledClient(Protocol):
    """A client of `POST /info` with journalled answers."""

    received_ns: int
    """Receipt of the last answer that was returned; 0 before the first."""

    async def ask(self, request: Mapping[str, Any]) -> JournaledAnswer:
        """Return the answer to a request.

        Raises:
            VenueError: there is no answer.
        """


class JournaledRestClient:
    """Query the venue and journal each answer before it is returned; a context manager."""

    def __init__(
        self,
        rest: RestClient,
        folder: Path,
        header: Mapping[str, Any],
        *,
        keeps: bool = True,
        segment_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        """Prepare a client.

        Args:
            rest: client with the rate limit.
            folder: of the recording; created with the first answer.
            header: of the recording, enough for `rebuild` to repeat the requests.
            keeps: false for a dry run, which leaves no recording.
            segment_bytes: size of a sealed segment.
        """
        self._rest = rest
        self._folder = folder
        self._header = {"source": BACKFILL} | dict(header)
        self._keeps = keeps
        self._segment_bytes = segment_bytes
        self._journal: JournalWriter | None = None
        self.received_ns = 0

    @property
    def recording(self) -> str:
        """Name of the recording."""
        return self._folder.name

    @property
    def last_frame(self) -> int:
        """Number of the newest record; -1 if there is none."""
        return self._journal.frames - 1 if self._journal else -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._journal is not None:
            self._journal.close()

    async def ask(self, request: Mapping[str, Any]) -> JournaledAnswer:
        """Return the venue's answer after it was synced to disk.

        Raises:
            VenueError: the venue refused, or did not answer.
            JournalError: the disk refused.
        """
        answer = self._append(request, await self._rest.ask(request))
        self.received_ns = answer.received_ns
        return answer

    def stop(self, cause: str, *, discard: bool = False) -> None:
        """Write the last record of the recording, and close it.

        Args:
            cause: why it ends.
            discard: delete the recording, since no row was made of it.
        """
        if self._journal is None:
            return
        self._journal.append(self._journal.last_recv_ns, RecordKind.STOPPED, -1, cause.encode())
        self._journal.close()
        if discard:
            shutil.rmtree(self._folder)
            self._journal = None

    def seal(self) -> None:
        """Mark that all rows are in the lake, so that no start of a recorder replays the recording."""
        if self._journal is not None:
            (self._folder / SEALED).touch()

    def _append(self, request: Mapping[str, Any], answer: RestAnswer) -> JournaledAnswer:
        if not self._keeps:
            return JournaledAnswer(answer.body, answer.asked_ns, answer.received_ns, self.recording, -1)
        if self._journal is None:
            self._journal = JournalWriter(self._folder, segment_bytes=self._segment_bytes)
            self._journal.append(answer.asked_ns, RecordKind.STARTED, -1, json.dumps(self._header).encode())
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
    """Answers of a recording, by request."""

    def __init__(self, folder: Path) -> None:
        """Read a recording.

        Raises:
            JournalError: the folder holds no recording.
        """
        self.recording = folder.name
        self.answers = 0
        self.kinds: Counter[str] = Counter()
        """Number of answers by type of request."""
        self.last_frame = -1
        self.received_ns = 0
        self._packer, self._unpacker = zstandard.ZstdCompressor(level=1), zstandard.ZstdDecompressor()
        self._answers_by_request: defaultdict[str, deque[tuple[int, int, int, bytes]]] = defaultdict(deque)
        for record in read_journal(folder):
            self.last_frame = record.frame
            if record.kind is not RecordKind.ANSWER:
                continue
            exchange = _parse_exchange(record.body)
            self.answers += 1
            self.kinds[exchange.kind] += 1
            self._answers_by_request[exchange.request_key].append(
                (record.frame, exchange.asked_ns, record.recv_ns, self._packer.compress(exchange.response))
            )

    async def ask(self, request: Mapping[str, Any]) -> JournaledAnswer:
        """Return the recorded answer to a request; the next one if it was sent more than once.

        Raises:
            VenueError: the recording holds no answer to it.
        """
        answers = self._answers_by_request.get(_request_key(request))
        if not answers:
            raise VenueError(
                f"{self.recording} holds no answer to {json.dumps(dict(request))}",
                hint="it ended before; replay the recordings of one backfill in the order of their names",
            )
        frame, asked_ns, received_ns, packed = answers[0] if len(answers) == 1 else answers.popleft()
        self.received_ns = received_ns
        return JournaledAnswer(
            self._unpacker.decompress(packed), asked_ns, received_ns, self.recording, frame
        )


@dataclass(frozen=True, slots=True)
class _Exchange:
    kind: str
    request_key: str
    asked_ns: int
    response: bytes


def _parse_exchange(body: bytes) -> _Exchange:
    fields = json.loads(body)
    # The original bytes of the response, since numbers must not be formatted again.
    response = body[body.index(b',"response":') + len(b',"response":') : -1]
    request = fields["request"]
    return _Exchange(str(request.get("type")), _request_key(request), int(fields["asked_ns"]), response)


def _request_key(request: Mapping[str, Any]) -> str:
    return json.dumps(dict(request), sort_keys=True)
