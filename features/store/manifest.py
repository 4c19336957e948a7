"""What does a store of features hold, and which question does it answer?

A manifest names the day files (features/store/day_files.py) that answer one question, and says up to where the lake
was seen. It is written when an update has ended; while one goes on, what it has done stands in a second file, which
the next update begins with if this one is cut short.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from features.panel.panel import ORIGINS
from features.store.atomic_files import remove, write_text
from features.store.day_files import DayFiles, day_name, file_name
from features.store.eviction import named_files
from storage.clock import DAY_NS, width_ns
from storage.logs import get_logger

logger = get_logger(__name__)

_STARTED: Final = ".started.json"


@dataclass(frozen=True, slots=True)
class StoreKey:
    """Which bars features are built of, and which features.

    Args:
        feature_set: name in `features.sets.FEATURE_SETS`.
        width: width of the bars.
        grace_ns: as in `load_panel`.
        origins: likewise.
        instruments: ids, or `None` for every one that has bars.
    """

    feature_set: str
    width: str
    grace_ns: int
    origins: tuple[str, ...] = ORIGINS
    instruments: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """The name of its files; those that `features.store.eviction.MANIFESTS` finds."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"question-{digest[:12]}"

    def days(self, root: Path) -> DayFiles:
        """Return the days that it is answered from, below a home's folder of features."""
        return DayFiles.of(root, self.feature_set, width_ns(self.width))


@dataclass(slots=True)
class Manifest:
    """What a store says about itself.

    Args:
        asked: the bounds that were asked for.
        start_ns, stop_ns: open of the first day, and close of the last bar.
        mark_ns: when the newest row was ingested that was seen; -1: none was.
        batches: those seen that the lake stamped in the hour up to then.
        older: how many batches it had stamped before that hour; more of them later were stamped by a clock set back.
        snapshot: of the lake that was read last.
        instruments: the most that a day holds.
        days: by day, the hash of all that it was made from.
    """

    asked: list[int | None] = field(default_factory=lambda: [None, None])
    start_ns: int = 0
    stop_ns: int = 0
    mark_ns: int = -1
    batches: list[str] = field(default_factory=list)
    older: int = -1
    snapshot: int = -1
    instruments: int = 0
    days: dict[str, str] = field(default_factory=dict)

    @property
    def opens(self) -> list[int]:
        """When each of its days opens."""
        return list(range(self.start_ns, self.stop_ns, DAY_NS))

    def span(self, start_ns: int, stop_ns: int) -> tuple[int, int]:
        """Cut a span to what the store holds."""
        return max(start_ns, self.start_ns), min(stop_ns, self.stop_ns)

    def holds(self, day_ns: int) -> bool:
        """Say whether it names a file of a day."""
        return day_name(day_ns) in self.days

    def file(self, day_ns: int) -> str:
        """The name of a day's file."""
        return file_name(day_ns, self.days[day_name(day_ns)])

    def name_file(self, day_ns: int, file: str) -> None:
        """Remember a day's file."""
        self.days[day_name(day_ns)] = file.removesuffix(".safetensors").rpartition("-")[2]

    def files(self) -> set[str]:
        """The names of all its files."""
        return {f"{day}-{digest}.safetensors" for day, digest in self.days.items()}


def read_manifest(folder: Path, question: StoreKey) -> Manifest | None:
    """Return what a store holds; None where nothing was built yet."""
    return _read(folder / f"{question.name}.json")


def read_started(folder: Path, question: StoreKey) -> Manifest | None:
    """Return what an update had done that was cut short; None where none was."""
    return _read(folder / f"{question.name}{_STARTED}")


def write_started(folder: Path, question: StoreKey, manifest: Manifest) -> None:
    """Remember what an update has done so far."""
    write_text(folder / f"{question.name}{_STARTED}", json.dumps(asdict(manifest), sort_keys=True))


def write_manifest(folder: Path, question: StoreKey, manifest: Manifest) -> None:
    """Show the new days, then remove the files that this question named before and that none names any more."""
    before = [read_manifest(folder, question), read_started(folder, question)]
    write_text(folder / f"{question.name}.json", json.dumps(asdict(manifest), sort_keys=True))
    (folder / f"{question.name}{_STARTED}").unlink(missing_ok=True)
    gone = {file for old in before if old is not None for file in old.files()}
    for file in gone - named_files(folder):
        remove(folder / file)


def _read(path: Path) -> Manifest | None:
    """Return a manifest; a damaged one is as none, and days that are there are found again."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        logger.warning("manifest not read", path=str(path), reason=str(error))
        return None
