"""How is a lake made anew from what its home still holds: the journal, objects of archives, imported files?

The tables are a function of journal, code and repairs, so a lake that was damaged, or made by code that has been
mended, can be made again. It is built in a folder of its own, from every source in the order in which it came in.
What cannot be made again is carried over from the old lake, row by row, and told. Then both are compared, and only
then does the new one take the old one's place, which is kept under a dated name.
"""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from ingest.history.archived_books import ArchivedBooks
from ingest.history.archived_contexts import ArchivedContexts
from ingest.history.archived_trades import ArchivedTrades
from ingest.history.backfill import committed
from ingest.history.candles import check_absent, import_candles
from ingest.history.objects import Objects
from ingest.history.steps import Step as Piece
from ingest.made_from import Batch, Source, sources_of
from ingest.replay import replay
from storage.clock import MS_NS, NS, TimeSource, WallTime
from storage.compare import Compared, compare
from storage.contract import STAMPS, Contract
from storage.contracts import CONTRACTS
from storage.errors import LakeError, TickwalkError, VenueError
from storage.history import Step, no_step, pins
from storage.lake import Lake
from storage.logs import get_logger
from storage.repin import ReadsSame, Repinned, repin
from storage.salvage import Readable, readable
from storage.settings import Settings

logger = get_logger(__name__)

_SCRATCH: Final = "rebuilding"
# Batches of a recording are small and many; carried over they become few.
_LOT_ROWS: Final = 500_000
_LIVE: Final = ("live:", "replay:", "carried:")
_CARRIED: Final = "carried"
_NEVER_S: Final = 1e9

Bytes = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Made:
    """What became of one source.

    Args:
        source: as it was found.
        carried: rows that came over from the old lake as they were, and `why`.
        lost: rows that were to come over, and that the old lake itself has lost.
    """

    source: Source
    carried: int = 0
    lost: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A lake that was made anew.

    Args:
        home: holds it, in its folder `lake`.
        made: what became of each source.
        pins: what became of each pin; `pins_lost` says why they could not be read.
        compared: each table against the old lake's.
        kept: where the old lake lies now, if the new one took its place.
    """

    home: Path
    made: tuple[Made, ...]
    pins: tuple[Repinned, ...]
    pins_lost: str
    compared: tuple[Compared, ...]
    kept: Path | None = None

    @property
    def missing(self) -> int:
        """Rows of the old lake that the new one lacks."""
        return sum(table.missing for table in self.compared)


def find_sources(settings: Settings, *, on_bytes: Bytes = lambda _: None) -> list[Source]:
    """Return what a home's lake is made from, and what cannot be made again; nothing is written.

    Raises:
        LakeError: there is no lake.
    """
    with Lake.open(settings, read_only=True) as old:
        return sources_of(old, settings, on_bytes=on_bytes)


def rebuild(
    settings: Settings,
    sources: Sequence[Source],
    *,
    to: Path | None = None,
    accepts_missing: bool = False,
    reads_same: ReadsSame = lambda *_: None,
    clock: TimeSource | None = None,
    on_bytes: Bytes = lambda _: None,
    on_step: Step = no_step,
) -> Rebuilt:
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
            made = tuple(_Maker(old, new, settings, place).make(sources, on_bytes, on_step))
            held, pins_lost = _pins(old)
            repinned = tuple(repin(it, new, old, now_ns=now_ns, reads_same=reads_same) for it in held)
            compared = tuple(compare(new, old, on_step=on_step))
        done = Rebuilt(home, made, repinned, pins_lost, compared)
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


@dataclass(slots=True)
class _Maker:
    """Makes a new lake's rows, source by source."""

    old: Lake
    new: Lake
    settings: Settings
    place: Settings
    _readable: dict[str, Readable] = dataclasses.field(default_factory=dict)

    def make(self, sources: Sequence[Source], on_bytes: Bytes, on_step: Step) -> Iterator[Made]:
        """Make all sources, in order."""
        for source in sources:
            told = 0

            def advance(size: int) -> None:
                nonlocal told
                told += size
                on_bytes(size)

            why = source.why_not or self._make_again(source, advance)
            on_bytes(source.size_bytes - told)
            has = committed(self.new, [batch.batch_id for batch in source.batches])
            left = [batch for batch in source.batches if batch.batch_id not in has]
            if not why:
                # Of a recording other batches come; of a step the same one.
                left = [batch for batch in left if not batch.batch_id.startswith(_LIVE)]
                why = "what it was made from does not give it again" if left else ""
            carried, lost = self._carry(left)
            on_step(source.name)
            yield Made(source, carried, lost, why)

    def _make_again(self, source: Source, on_bytes: Bytes) -> str:
        """Make a source's rows; return why that could not be done, or nothing."""
        try:
            if source.kind == "archive":
                self._take_archived(source)
            elif source.kind == "file":
                self._import(source)
            elif source.path is not None:
                replay(source.path, self.place, self.new, on_bytes=on_bytes)
        except TickwalkError as error:
            return error.message
        return ""

    def _take_archived(self, source: Source) -> None:
        """Take a step of an archive again, from the objects that are kept; one that is not ends it.

        Raises:
            VenueError: an object is no longer kept, or the archive is another one now.
            CaptureError: an object holds other bytes than were fetched.
        """
        (batch,) = source.batches
        kind, names = batch.batch_id.split(":")[1], list(batch.inputs["objects"])
        archive = self.settings.archive
        where = archive.node_data if kind == "trades" else archive.market_data
        store = _Kept(where.rstrip("/"))
        if not all(name.startswith(f"{store.where}/") for name in names):
            raise VenueError(f"its objects come from another archive than {store.where}")
        folder = self.settings.archive_dir / store.where.partition("://")[2]
        objects, settings, now = Objects(store, folder, retry_s=_NEVER_S), self.place, WallTime()
        taker: ArchivedTrades | ArchivedBooks | ArchivedContexts
        if kind == "trades":
            widths = tuple(batch.batch_id.rsplit(":", 1)[1].split(","))
            bars = dataclasses.replace(settings.bars, widths=widths)
            settings = dataclasses.replace(settings, bars=bars)
            taker = ArchivedTrades(objects, settings, now, query=self.new.query)
        else:
            taker = (ArchivedBooks if kind == "books" else ArchivedContexts)(objects, settings, now)
        taken = asyncio.run(taker.take(Piece(batch.batch_id, source.name)))
        if taken.absent or taken.inputs != batch.inputs:
            raise VenueError(taken.absent or "its objects are others than they were")
        self.new.commit(taken.tables, batch_id=batch.batch_id, inputs=taken.inputs)

    def _import(self, source: Source) -> None:
        """Import a file of candles again, as it was imported; what it was told stands in the batch's id."""
        (batch,) = source.batches
        assert source.path is not None
        _, width, ids, absent, lag_ns = batch.batch_id.rsplit(":", 4)
        venue, _, kind = ids.partition("|")
        bars = dataclasses.replace(self.place.bars, history_lag_ms=int(lag_ns) // MS_NS)
        settings = dataclasses.replace(self.place, bars=bars)
        absent = check_absent(absent)
        import_candles(source.path, settings, self.new, width=width, venue=venue, kind=kind, absent=absent)

    def _carry(self, batches: Sequence[Batch]) -> tuple[int, int]:
        """Carry batches over as they are; return how many rows came, and how many the old lake has lost."""
        carried = lost = 0
        for lot in _lots(batches):
            names = [batch.batch_id for batch in lot]
            tables = {
                name: self._rows(CONTRACTS[name], names)
                for name in CONTRACTS
                if any(batch.rows.get(name) for batch in lot)
            }
            inputs = dict(lot[0].inputs)
            if frames := [batch.inputs["frames"] for batch in lot if "frames" in batch.inputs]:
                inputs["frames"] = [min(pair[0] for pair in frames), max(pair[1] for pair in frames)]
            is_live = names[0].startswith(_LIVE)
            self.new.commit(
                tables,
                batch_id=f"carried:{names[0].removeprefix('carried:')}" if is_live else names[0],
                inputs=inputs | {_CARRIED: True},
            )
            came = sum(rows.num_rows for rows in tables.values())
            carried += came
            lost += sum(sum(batch.rows.values()) for batch in lot) - came
        return carried, lost

    def _rows(self, contract: Contract, batch_ids: list[str]) -> pa.Table:
        name = contract.name
        if name not in self._readable:
            self._readable[name] = readable(self.old, name)
        rows = self.old.query(
            f"SELECT * {self._readable[name].among('list_contains(?, batch)')}", [batch_ids]
        ).drop_columns([field.name for field in STAMPS])
        for field in contract.schema:
            if field.name not in rows.column_names:  # of an older layout
                rows = rows.append_column(field.name, pa.nulls(rows.num_rows, field.type))
        return rows


class _Kept:
    """A store that gives nothing: what an archive's step needs is kept, or it is not made again."""

    def __init__(self, where: str) -> None:
        self.where = where

    def sizes(self, prefix: str) -> dict[str, int] | None:  # noqa: ARG002 - the protocol's
        """Return None: it does not list."""
        return None

    def download(self, key: str, path: Path) -> bool:  # noqa: ARG002 - the protocol's
        """Give nothing.

        Raises:
            VenueError: always.
        """
        raise VenueError(f"{key} is not kept")


def _lots(batches: Sequence[Batch]) -> Iterator[list[Batch]]:
    """Yield what is carried over at once: some batches of a recording, or one of anything else."""
    lot: list[Batch] = []
    rows = 0
    for batch in batches:
        if not batch.batch_id.startswith(_LIVE):
            yield [batch]
            continue
        lot.append(batch)
        rows += sum(batch.rows.values())
        if rows >= _LOT_ROWS:
            yield lot
            lot, rows = [], 0
    if lot:
        yield lot


def _pins(old: Lake) -> tuple[list[Any], str]:
    try:
        return pins(old), ""
    except LakeError as error:
        return [], error.message


@contextmanager
def _fresh(settings: Settings, to: Path | None) -> Iterator[Path]:
    """Give an empty folder to build in; what was built there goes where it cannot be ended."""
    home = to or settings.home / _SCRATCH
    if to is None and home.exists():
        shutil.rmtree(home)  # one that was cut off left it
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
    with old.alone():
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
