"""Rebuild of a lake from the sources in its home: the journal, archive objects and imported files.

The tables are a function of journal, code and repairs, so a lake that was damaged, or written by code with a bug that
has been fixed, can be rebuilt. The new lake is built in a folder of its own, from every source in the order of its
first commit. Rows whose source is gone are carried over from the old lake and reported. Then both lakes are compared,
and only then does the new one replace the old one, which is kept under a dated name.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ingest.replay.lineage import LineageSource, sources_of
from ingest.replay.source_replayer import Bytes, RebuiltSource, SourceReplayer
from storage.clock import NS, TimeSource, WallTime
from storage.errors import LakeError
from storage.lake.home_id import keep_home_id
from storage.lake.lake import Lake
from storage.lake.lake_diff import TableDiff, compare
from storage.lake.locks import lake_lock
from storage.lake.pin_transfer import PinTransfer, ReadsSame, repin
from storage.lake.snapshots import Pin, Step, no_step, pins
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)

_SCRATCH: Final = "rebuilding"
# Wait this long for readers, so that a long query does not undo the work of an hour.
_READERS_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class RebuildResult:
    """A rebuilt lake.

    Args:
        home: contains it, in the folder `lake`.
        made: outcome of each source.
        pins: outcome of each pin; `pins_lost` says why they could not be read.
        compared: each table compared with the old lake's.
        kept: path of the old lake, if the new one replaced it.
    """

    home: Path
    made: tuple[RebuiltSource, ...]
    pins: tuple[PinTransfer, ...]
    pins_lost: str
    compared: tuple[TableDiff, ...]
    kept: Path | None = None

    @property
    def missing(self) -> int:
        """Rows of the old lake that the new one lacks."""
        return sum(table.missing for table in self.compared)


def find_sources(settings: Settings, *, on_bytes: Bytes = lambda _: None) -> list[LineageSource]:
    """Return the sources of a home's lake, including those that cannot be replayed; nothing is written.

    Raises:
        LakeError: there is no lake.
    """
    with Lake.open(settings, read_only=True) as old:
        return sources_of(old, settings, on_bytes=on_bytes)


def rebuild(
    settings: Settings,
    sources: Sequence[LineageSource],
    *,
    to: Path | None = None,
    accepts_missing: bool = False,
    reads_same: ReadsSame = lambda *_: None,
    clock: TimeSource | None = None,
    on_bytes: Bytes = lambda _: None,
    on_step: Step = no_step,
) -> RebuildResult:
    """Rebuild a home's lake; the old one stays unchanged until the new one is complete.

    Args:
        settings: the home.
        sources: see `find_sources`.
        to: build the new lake in this folder, as a home of its own, and leave the old one in place.
        accepts_missing: replace the old lake even if the new one lacks some of its rows.
        reads_same: checks pins of nights.
        clock: stamps what is carried over.
        on_bytes: called with the number of source bytes read.
        on_step: called with each source and each table that is done.

    Raises:
        LakeError: a recorder is running, someone wrote to the old lake meanwhile, rows are missing, or the lake is
            not a folder of the home.
    """
    if using := [source.name for source in sources if source.is_in_use]:
        raise LakeError(f"recording {using[0]} is in use", hint="stop the recorder, and run this again")
    if to is None and (settings.lake.catalog or settings.lake.data):
        raise LakeError(
            "the lake's catalog or its data are not in the home, so they cannot be replaced",
            hint="build the new lake in a folder of its own: tickwalk lake rebuild --to FOLDER",
        )
    now_ns = (clock or WallTime()).now_ns()
    with _fresh(settings, to) as home, Lake.open(settings, read_only=True) as old:
        began = old.snapshot()
        place = dataclasses.replace(
            settings, home=home, lake=dataclasses.replace(settings.lake, catalog="", data="")
        )
        keep_home_id(settings.home, home)
        with Lake.open(place, clock=clock) as new:
            made = tuple(SourceReplayer(old, new, settings, place).make(sources, on_bytes, on_step))
            old_pins, pins_lost = _pins(old)
            repinned = tuple(repin(pin, new, old, now_ns=now_ns, reads_same=reads_same) for pin in old_pins)
            compared = tuple(compare(new, old, on_step=on_step))
        done = RebuildResult(home, made, repinned, pins_lost, compared)
        if to is None:
            if done.missing and not accepts_missing:
                raise LakeError(
                    f"the rebuilt lake lacks {done.missing:,} rows of the old one, which stays in place",
                    hint="inspect it with --to FOLDER, or accept it with --yes --accept-missing",
                    rebuilt=done,
                )
            done = dataclasses.replace(done, kept=_swap(settings, home, old, began, now_ns))
    logger.info("lake rebuilt", sources=len(made), missing=done.missing, kept=str(done.kept or ""))
    return done


def _pins(old: Lake) -> tuple[list[Pin], str]:
    try:
        return pins(old), ""
    except LakeError as error:
        return [], error.message


@contextmanager
def _fresh(settings: Settings, to: Path | None) -> Iterator[Path]:
    """Yield an empty folder to build in; remove it if the build fails."""
    home = to or settings.home / _SCRATCH
    with lake_lock(settings.lake_dir / "rebuild.lock", 0.0):
        if to is None and home.exists():
            shutil.rmtree(home)  # left by a rebuild that was killed
        if home.exists() and any(home.iterdir()):
            raise LakeError(f"{home} is not empty", hint="name a folder that is empty or does not exist yet")
        home.mkdir(parents=True, exist_ok=True)
        try:
            yield home
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise
        if to is None:
            shutil.rmtree(home)


def _swap(settings: Settings, home: Path, old: Lake, began: int, now_ns: int) -> Path:
    """Replace the old lake with the new one, and return the path under which the old one is kept.

    Raises:
        LakeError: someone has written to the old one since.
    """
    kept = settings.home / f"lake-before-{datetime.fromtimestamp(now_ns / NS, UTC):%Y%m%dT%H%M%SZ}"
    with old.alone(_READERS_S):
        if old.snapshot() != began:
            raise LakeError(
                "someone wrote to the lake while it was rebuilt, and the old one stays in place",
                hint="stop all writers, and run this again",
            )
        settings.lake_dir.rename(kept)
        try:
            (home / "lake").rename(settings.lake_dir)
        except BaseException:
            kept.rename(settings.lake_dir)
            raise
    return kept
