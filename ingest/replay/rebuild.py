"""How is a lake made anew from what its home still holds: the journal, objects of archives, imported files?

The tables are a function of journal, code and repairs, so a lake that was damaged, or made by code that has been
mended, can be made again. It is built in a folder of its own, from every source in the order in which it came in.
What cannot be made again is carried over from the old lake, row by row, and told. Then both are compared, and only
then does the new one take the old one's place, which is kept under a dated name.
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
from storage.lake.connection import locked
from storage.lake.lake import Lake
from storage.lake.lake_diff import TableDiff, compare
from storage.lake.pin_transfer import PinTransfer, ReadsSame, repin
from storage.lake.snapshots import Pin, Step, no_step, pins
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)

_SCRATCH: Final = "rebuilding"
# A query that runs for long should not undo the work of an hour.
_READERS_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class RebuildResult:
    """A lake that was made anew.

    Args:
        home: holds it, in its folder `lake`.
        made: what became of each source.
        pins: what became of each pin; `pins_lost` says why they could not be read.
        compared: each table against the old lake's.
        kept: where the old lake lies now, if the new one took its place.
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
    """Return what a home's lake is made from, and what cannot be made again; nothing is written.

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
    """Make a home's lake anew; the old one stays as it is until the new one is whole.

    Args:
        settings: the home.
        sources: see `find_sources`.
        to: build it in this folder, as a home of its own, and leave the old one where it is.
        accepts_missing: the new lake takes the old one's place also where it lacks rows of it.
        reads_same: judges pins of nights.
        clock: stamps what is carried over.
        on_bytes: is told of bytes of sources that were read.
        on_step: is told each source and each table that is done.

    Raises:
        LakeError: a recorder is at work, someone wrote to the old lake meanwhile, rows are missing, or its place is
            not a folder of the home.
    """
    if using := [source.name for source in sources if source.is_in_use]:
        raise LakeError(f"recording {using[0]} is in use", hint="stop the recorder, and run this again")
    if to is None and (settings.lake.catalog or settings.lake.data):
        raise LakeError(
            "the lake's catalog or its data do not lie in the home, so another cannot take their place",
            hint="build it in a folder of its own: tickwalk lake rebuild --to FOLDER",
        )
    now_ns = (clock or WallTime()).now_ns()
    with _fresh(settings, to) as home, Lake.open(settings, read_only=True) as old:
        began = old.snapshot()
        place = dataclasses.replace(
            settings, home=home, lake=dataclasses.replace(settings.lake, catalog="", data="")
        )
        with Lake.open(place, clock=clock) as new:
            made = tuple(SourceReplayer(old, new, settings, place).make(sources, on_bytes, on_step))
            held, pins_lost = _pins(old)
            repinned = tuple(repin(it, new, old, now_ns=now_ns, reads_same=reads_same) for it in held)
            compared = tuple(compare(new, old, on_step=on_step))
        done = RebuildResult(home, made, repinned, pins_lost, compared)
        if to is None:
            if done.missing and not accepts_missing:
                raise LakeError(
                    f"the lake that was made anew lacks {done.missing:,} rows of the old one, which stays",
                    hint="look at it with --to FOLDER; or take it all the same, with --yes --accept-missing",
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
    """Give an empty folder to build in; what was built there goes where it cannot be ended."""
    home = to or settings.home / _SCRATCH
    with locked(settings.lake_dir / "rebuild.lock", 0.0):
        if to is None and home.exists():
            shutil.rmtree(home)  # one that was killed left it
        if home.exists() and any(home.iterdir()):
            raise LakeError(f"{home} is not empty", hint="name a folder that is empty, or not there yet")
        home.mkdir(parents=True, exist_ok=True)
        try:
            yield home
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise
        if to is None:
            shutil.rmtree(home)


def _swap(settings: Settings, home: Path, old: Lake, began: int, now_ns: int) -> Path:
    """Put the new lake where the old one is, and return where that is kept.

    Raises:
        LakeError: someone wrote to the old one since.
    """
    kept = settings.home / f"lake-before-{datetime.fromtimestamp(now_ns / NS, UTC):%Y%m%dT%H%M%SZ}"
    with old.alone(_READERS_S):
        if old.snapshot() != began:
            raise LakeError(
                "someone wrote to the lake while it was made anew, and the old one stays",
                hint="stop what writes, and run this again",
            )
        settings.lake_dir.rename(kept)
        try:
            (home / "lake").rename(settings.lake_dir)
        except BaseException:
            kept.rename(settings.lake_dir)
            raise
    return kept
