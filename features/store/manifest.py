"""Manifests of feature stores, and the keys that identify them.

A manifest lists the day files (features/store/day_files.py) of one key, and records up to where the lake was read. It
is written at the end of an update; while one runs, its progress is in a second file, from which the next update
continues if this one is interrupted.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from features.store.atomic_files import remove
from features.store.day_files import DayFiles, day_name, file_name
from features.store.eviction import named_files
from storage.atomic_write import write_atomic
from storage.clock import DAY_NS, width_ns
from storage.contracts.contract import ORIGINS
from storage.lake.point_in_time import Basis
from storage.logs import get_logger

logger = get_logger(__name__)

_STARTED: Final = ".started.json"


@dataclass(frozen=True, slots=True)
class StoreKey:
    """Identity of a store: which features, of which bars.

    Args:
        feature_set: name in `features.sets.feature_sets`.
        width: width of the bars.
        grace_ns: as in `load_panel`.
        origins: likewise.
        instruments: ids, or `None` for every instrument that has bars.
        rows: as in `load_panel`.
    """

    feature_set: str
    width: str
    grace_ns: int
    origins: tuple[str, ...] = ORIGINS
    instruments: tuple[str, ...] | None = None
    rows: Basis = "served"

    @property
    def name(self) -> str:
        """Stem of its files, which `features.store.eviction.MANIFESTS` matches."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"question-{digest[:12]}"

    def days(self, root: Path) -> DayFiles:
        """Return its day files in a home's folder of features."""
        return DayFiles.of(root, self.feature_set, width_ns(self.width))


@dataclass(slots=True)
class Manifest:
    """Contents of a store.

    Args:
        asked: the requested bounds.
        start_ns, stop_ns: open of the first day, and close of the last bar.
        mark_ns: ingestion time of the newest row seen; -1 if none was.
        batches: batches seen that the lake stamped in the hour before `mark_ns`.
        older: number of batches stamped before that hour; a later increase means that a clock was set back.
        snapshot: snapshot of the lake that was read last.
        instruments: maximum number of instruments on a day.
        days: by day, the hash of everything that it was built from.
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
        """Open of each of its days."""
        return list(range(self.start_ns, self.stop_ns, DAY_NS))

    def span(self, start_ns: int, stop_ns: int) -> tuple[int, int]:
        """Clip a span to the range of the store."""
        return max(start_ns, self.start_ns), min(stop_ns, self.stop_ns)

    def holds(self, day_ns: int) -> bool:
        """Return whether it lists a file for a day."""
        return day_name(day_ns) in self.days

    def file(self, day_ns: int) -> str:
        """Return the name of a day's file."""
        return file_name(day_ns, self.days[day_name(day_ns)])

    def name_file(self, day_ns: int, file: str) -> None:
        """Record a day's file."""
        self.days[day_name(day_ns)] = file.removesuffix(".safetensors").rpartition("-")[2]

    def files(self) -> set[str]:
        """Return the names of all its files."""
        return {f"{day}-{digest}.safetensors" for day, digest in self.days.items()}


def read_manifest(folder: Path, key: StoreKey) -> Manifest | None:
    """Return the manifest of a store, or None if nothing was built yet."""
    return _read(folder / f"{key.name}.json")


def read_started(folder: Path, key: StoreKey) -> Manifest | None:
    """Return the progress of an interrupted update, or None if there is none."""
    return _read(folder / f"{key.name}{_STARTED}")


def write_started(folder: Path, key: StoreKey, manifest: Manifest) -> None:
    """Record the progress of an update."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{key.name}{_STARTED}", json.dumps(asdict(manifest), sort_keys=True))


def write_manifest(folder: Path, key: StoreKey, manifest: Manifest) -> None:
    """Publish the new days, then remove the key's earlier files that no manifest lists any more."""
    before = [read_manifest(folder, key), read_started(folder, key)]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{key.name}.json", json.dumps(asdict(manifest), sort_keys=True))
    (folder / f"{key.name}{_STARTED}").unlink(missing_ok=True)
    obsolete = {file for old in before if old is not None for file in old.files()}
    for file in obsolete - named_files(folder):
        remove(folder / file)


def _read(path: Path) -> Manifest | None:
    """Return a manifest, or None if it is missing or damaged; its day files will be found again by their hashes."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        logger.warning("manifest not read", path=str(path), reason=str(error))
        return None
