"""Replay of captures and journals into the lake.

A capture is journalled first, under a name made from its content, so that its rows can be traced to frames like any
recording's. Replaying twice adds nothing: the lake stores each row once, by its key.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ingest.backfill.history import HistoryStamper
from ingest.backfill.rest.runner import replay_backfill
from ingest.journal.capture_order import CaptureFrame, CaptureItem, read_in_order
from ingest.journal.captures import content_id
from ingest.journal.format import SUFFIX, Damage, hold_recording, segments
from ingest.journal.reader import read_batches, read_journal
from ingest.journal.recording import BACKFILL, CAPTURE, COMMIT_FRAMES, read_header, settings_of_recording
from ingest.journal.records import RecordBatch, RecordKind
from ingest.journal.writer import JournalWriter
from ingest.pipeline.processor import Counts, Pipeline
from ingest.pipeline.registration import header_instruments
from ingest.pipeline.warm_start import resume, resume_listings
from storage.errors import CaptureError
from storage.lake.lake import Lake
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)

_CHUNK_FRAMES: Final = 4_096

Progress = Callable[[int], None]


@dataclass(slots=True)
class ReplayResult:
    """Outcome of one replay.

    Args:
        recording: that was replayed.
        counts: of the pipeline.
        channels: frames by channel.
        written: rows new to the lake, by table.
    """

    recording: str
    counts: Counts
    channels: Mapping[str, int]
    written: dict[str, int] = field(default_factory=dict)


def replay(
    path: Path,
    settings: Settings,
    lake: Lake,
    *,
    on_bytes: Progress | None = None,
    stamper: HistoryStamper | None = None,
) -> ReplayResult:
    """Replay a capture, or a recording of our own journal, into the lake.

    Args:
        path: a capture file, a recording's folder, or one of its segments.
        settings: bar widths and limits; its home receives the capture's journal.
        lake: receives the rows.
        on_bytes: called with the number of bytes read, for a progress bar.
        stamper: of a backfill's bars, see `replay_backfill`.

    Raises:
        CaptureError: the path is neither.
    """
    if not path.exists():
        raise CaptureError(f"{path} does not exist", hint="name a capture file, or a folder of the journal")
    if path.suffix == SUFFIX:
        path = path.parent
    if path.is_dir():
        return _replay_journal(path, settings, lake, on_bytes, stamper)
    recording = f"{CAPTURE}{content_id(path)}"
    folder = settings.journal_dir / recording
    if _is_complete(folder):
        return _replay_journal(folder, settings, lake, None)
    _discard_torn(folder)
    return _replay_capture(path, folder, settings, lake, on_bytes)


def _replay_capture(
    path: Path, folder: Path, settings: Settings, lake: Lake, on_bytes: Progress | None
) -> ReplayResult:
    items = read_in_order(path, on_bytes=on_bytes)
    # Read the first frame before the journal is made: a file that is no capture must leave nothing behind.
    first = next(items)
    pipeline = Pipeline(folder.name, settings, is_capture=True, home=lake.home)
    with JournalWriter(folder, segment_bytes=settings.record.segment_bytes) as journal:
        about = json.dumps({"source": "capture", "file": path.name}).encode()
        done = ReplayResult(folder.name, pipeline.counts, pipeline.state.channels)

        def batches() -> Iterator[RecordBatch]:
            yield journal.extend((first.recv_ns,), (RecordKind.STARTED,), (-1,), (about,))
            for chunk in _chunks(itertools.chain((first,), items)):
                stamps, kinds, bodies = zip(*(_record_of(item, path) for item in chunk), strict=True)
                yield journal.extend(stamps, kinds, (0,) * len(chunk), bodies)
            yield journal.extend((journal.last_recv_ns,), (RecordKind.STOPPED,), (-1,), (b"end of capture",))

        _drive(pipeline, batches(), lake, done, journal.sync)
    return done


def _record_of(item: CaptureItem, path: Path) -> tuple[int, RecordKind, bytes]:
    if isinstance(item, CaptureFrame):
        return item.recv_ns, RecordKind.FRAME, item.body
    source = f"{path.name}:{item.number}"
    about = {"source": source, "reason": item.reason, "until_ns": item.until_ns}
    return item.recv_ns, RecordKind.REFUSED, json.dumps(about).encode() + b"\n" + item.raw


def _replay_journal(
    folder: Path,
    settings: Settings,
    lake: Lake,
    on_bytes: Progress | None,
    stamper: HistoryStamper | None = None,
) -> ReplayResult:
    with hold_recording(folder):
        about, started_ns = read_header(folder)
        if about.get("source") == BACKFILL:
            return _replay_backfill(folder, settings, lake, stamper)
        return _replay_frames(folder, about, started_ns, settings, lake, on_bytes)


def _replay_frames(
    folder: Path,
    about: Mapping[str, Any],
    started_ns: int,
    settings: Settings,
    lake: Lake,
    on_bytes: Progress | None,
) -> ReplayResult:
    settings = settings_of_recording(about, settings)
    is_capture = about.get("source") == "capture"
    pipeline = Pipeline(folder.name, settings, is_capture=is_capture, home=lake.home)
    if about.get("source") == "socket":
        resume_listings(pipeline, lake, started_ns)
        resume(pipeline, lake, header_instruments(about, pipeline.state.registry), started_ns)
    damages: list[Damage] = []
    done = ReplayResult(folder.name, pipeline.counts, pipeline.state.channels)

    def before_commit() -> None:
        for damage in damages:
            pipeline.damage(damage)
        damages.clear()

    _drive(
        pipeline, read_batches(folder, on_damage=damages.append, on_bytes=on_bytes), lake, done, before_commit
    )
    return done


def _replay_backfill(
    folder: Path, settings: Settings, lake: Lake, stamper: HistoryStamper | None
) -> ReplayResult:
    done, answers = replay_backfill(folder, settings, lake, stamper=stamper)
    counts = Counts(frames=answers.answers, quarantined=done.refused, bars=done.rows.get("bars", 0))
    return ReplayResult(folder.name, counts, answers.kinds, done.rows)


def _drive(
    pipeline: Pipeline,
    batches: Iterator[RecordBatch],
    lake: Lake,
    done: ReplayResult,
    before_commit: Callable[[], None],
) -> None:
    first = last_ns = 0
    last = -1
    for batch in batches:
        if batch.first > last + 1 and last >= 0:
            pipeline.mark_unreadable(last_ns, int(batch.recv_ns[0]))
        pipeline.process_batch(batch)
        last, last_ns = batch.first + len(batch) - 1, int(batch.recv_ns[-1])
        if last - first >= COMMIT_FRAMES:
            before_commit()
            _commit(pipeline, lake, done, first, last)
            first = last + 1
    # A journal that just ends (kill -9) ends its spans where they were last proven.
    last = max(last, 0)
    pipeline.stop(last_ns, "recorder down")
    before_commit()
    _commit(pipeline, lake, done, first, last)


def _commit(pipeline: Pipeline, lake: Lake, done: ReplayResult, first: int, last: int) -> None:
    tables = pipeline.drain()
    commit = lake.commit(
        tables,
        batch_id=f"replay:{pipeline.recording}:{first}-{last}:{pipeline.fingerprint}",
        inputs={"recording": pipeline.recording, "frames": [first, last]},
    )
    for name, rows in commit.rows.items():
        done.written[name] = done.written.get(name, 0) + rows


def _chunks(items: Iterable[CaptureItem]) -> Iterator[list[CaptureItem]]:
    items = iter(items)
    while chunk := list(itertools.islice(items, _CHUNK_FRAMES)):
        yield chunk


def _is_complete(folder: Path) -> bool:
    if not segments(folder):
        return False
    damages: list[Damage] = []
    last = deque(read_journal(folder, on_damage=damages.append), maxlen=1)
    return bool(last) and last[0].kind is RecordKind.STOPPED and not damages


def _discard_torn(folder: Path) -> None:
    """Remove a capture's half-written journal; the capture itself is still there to be read again."""
    if folder.exists():
        shutil.rmtree(folder)
