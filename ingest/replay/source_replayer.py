"""Replay of a lake's sources into a new lake, and carry-over of rows that cannot be replayed.

A recording is replayed, an archive step is repeated from the objects in the cache, and a file is imported again. All
other rows, and rows that their source no longer yields, are carried over unchanged from the old lake under the ids of
their batches, by which a backfill recognises what it has.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa

from ingest.backfill.archive.books import ArchiveBookSource
from ingest.backfill.archive.contexts import ArchiveContextSource
from ingest.backfill.archive.object_cache import ObjectCache
from ingest.backfill.archive.trades import ArchiveTradeSource
from ingest.backfill.candle_files import check_absent, check_opens, import_candles
from ingest.backfill.funding_files import FUNDING_FILE, import_funding
from ingest.backfill.history import HistoryStamper
from ingest.backfill.runner import committed_keys
from ingest.backfill.source import BackfillStep
from ingest.replay.lineage import BatchLineage, LineageSource
from ingest.replay.replay import replay
from storage.clock import MS_NS, ManualTime, WallTime
from storage.contracts.availability import with_available
from storage.contracts.contract import AVAILABLE, Contract
from storage.contracts.tables import BARS, CONTRACTS
from storage.errors import TickwalkError, VenueError
from storage.lake.history_stamps import HistoryStamps, decide
from storage.lake.lake import Lake
from storage.lake.readable_files import ReadableTable, readable
from storage.lake.snapshots import Step
from storage.settings import Settings

# A recording has many small batches; they are carried over in few large ones.
_LOT_ROWS: Final = 500_000
_LIVE: Final = ("live:", "replay:", "carried:")
_CARRIED: Final = "carried"
_NEVER_S: Final = 1e9

Bytes = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class RebuiltSource:
    """Outcome of one source.

    Args:
        source: as it was found.
        carried: rows carried over from the old lake.
        lost: rows that should have been carried over, but that the old lake itself has lost.
        why: why rows were carried over.
    """

    source: LineageSource
    carried: int = 0
    lost: int = 0
    why: str = ""


@dataclass(slots=True)
class SourceReplayer:
    """Replays or carries over the rows of a lake, source by source."""

    old: Lake
    new: Lake
    settings: Settings
    place: Settings
    _readable: dict[str, ReadableTable] = dataclasses.field(default_factory=dict)
    _batches: dict[str, BatchLineage] = dataclasses.field(default_factory=dict)
    _stamper: HistoryStamper = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """Prepare the stamps of history, which repeat what the old lake decided."""
        self._stamper = HistoryStamper(self.new, self.place, decided=self._decided)

    def make(
        self, sources: Sequence[LineageSource], on_bytes: Bytes, on_step: Step
    ) -> Iterator[RebuiltSource]:
        """Replay all sources, in order."""
        self._batches = {batch.batch_id: batch for source in sources for batch in source.batches}
        for source in sources:
            read_bytes = 0

            def advance(size: int) -> None:
                nonlocal read_bytes
                read_bytes += size
                on_bytes(size)

            why = source.why_not or self._replay(source, advance)
            on_bytes(source.size_bytes - read_bytes)
            existing = committed_keys(self.new, [batch.batch_id for batch in source.batches])
            left = [batch for batch in source.batches if batch.batch_id not in existing]
            if not why:
                # The replay of a recording has batches of its own; a backfill step has the same one.
                left = [batch for batch in left if not batch.batch_id.startswith(_LIVE)]
                why = "its source no longer yields these rows" if left else ""
            carried, lost = self._carry(left)
            on_step(source.name)
            yield RebuiltSource(source, carried, lost, why)

    def _replay(self, source: LineageSource, on_bytes: Bytes) -> str:
        """Replay a source; return why that failed, or an empty text."""
        try:
            if source.kind == "archive":
                self._repeat_archive_step(source)
            elif source.kind == "file" and source.name.startswith(FUNDING_FILE):
                self._import_funding(source)
            elif source.kind == "file":
                self._import(source)
            elif source.path is not None:
                replay(source.path, self.place, self.new, on_bytes=on_bytes, stamper=self._stamper)
        except TickwalkError as error:
            return error.message
        return ""

    def _decided(self, batch_id: str, bars: pa.Table) -> HistoryStamps | None:
        """Return how the old lake stamped a batch; None if it does not have it."""
        batch = self._batches.get(batch_id)
        if batch is None:
            return None
        # A batch of an older release has no decision: its stamps are those of the migration.
        return HistoryStamps.from_inputs(batch.inputs) or decide(self.old.query, bars, batch.ingested_ns)

    def _repeat_archive_step(self, source: LineageSource) -> None:
        """Repeat an archive step from the cached objects.

        Raises:
            VenueError: an object is no longer in the cache, or the archive is another one now.
            CaptureError: an object has other bytes than were fetched.
        """
        (batch,) = source.batches
        kind, names = batch.batch_id.split(":")[1], list(batch.inputs["objects"])
        archive = self.settings.archive
        where = archive.node_data if kind == "trades" else archive.market_data
        store = _CacheOnly(where.rstrip("/"))
        if not all(name.startswith(f"{store.where}/") for name in names):
            raise VenueError(f"its objects come from another archive than {store.where}")
        folder = self.settings.archive_dir / store.where.partition("://")[2]
        objects, settings, now = ObjectCache(store, folder, retry_s=_NEVER_S), self.place, WallTime()
        backfill: ArchiveTradeSource | ArchiveBookSource | ArchiveContextSource
        if kind == "trades":
            widths = tuple(batch.batch_id.rsplit(":", 1)[1].split(","))
            bars = dataclasses.replace(settings.bars, widths=widths)
            settings = dataclasses.replace(settings, bars=bars)
            backfill = ArchiveTradeSource(objects, settings, now, query=self.new.query)
        else:
            backfill = (ArchiveBookSource if kind == "books" else ArchiveContextSource)(
                objects, settings, now
            )
        taken = asyncio.run(backfill.fetch(BackfillStep(batch.batch_id, source.name)))
        if taken.absent or taken.inputs["objects"] != batch.inputs["objects"]:
            raise VenueError(taken.absent or "its objects have changed")
        tables, inputs = self._stamper.stamp(batch.batch_id, taken.tables, taken.inputs)
        self.new.commit(tables, batch_id=batch.batch_id, inputs=inputs)

    def _import(self, source: LineageSource) -> None:
        """Import a file of candles again with the options in the batch's id."""
        (batch,) = source.batches
        assert source.path is not None
        _, width, ids, choices, lag_ns = batch.batch_id.rsplit(":", 4)
        absent, *more = choices.split(",")
        options = dict(option.split("=", 1) for option in more)
        venue, _, kind = ids.partition("|")
        bars = dataclasses.replace(self.place.bars, history_lag_ms=int(lag_ns) // MS_NS)
        settings = dataclasses.replace(self.place, bars=bars)
        import_candles(
            source.path,
            settings,
            self.new,
            width=width,
            venue=venue,
            kind=kind,
            absent=check_absent(absent),
            opens=check_opens(options.get("open", "first-trade")),
            timezone=options.get("timezone"),
            clock=ManualTime(int(batch.inputs.get("now_ns", batch.ingested_ns))),
            stamper=self._stamper,
        )

    def _import_funding(self, source: LineageSource) -> None:
        """Import a file of funding again with its options."""
        (batch,) = source.batches
        assert source.path is not None
        options = batch.inputs["options"]
        bars = dataclasses.replace(self.place.bars, history_lag_ms=int(options["history_lag_ms"]))
        import_funding(
            source.path,
            dataclasses.replace(self.place, bars=bars),
            self.new,
            venue=options["venue"],
            kind=options["kind"],
            timezone=options["timezone"],
            clock=ManualTime(int(batch.inputs["now_ns"])),
        )

    def _carry(self, batches: Sequence[BatchLineage]) -> tuple[int, int]:
        """Carry batches over unchanged; return the numbers of rows carried, and of rows the old lake has lost."""
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
            copied = sum(rows.num_rows for rows in tables.values())
            carried += copied
            lost += sum(sum(batch.rows.values()) for batch in lot) - copied
        return carried, lost

    def _rows(self, contract: Contract, batch_ids: list[str]) -> pa.Table:
        name = contract.name
        if name not in self._readable:
            self._readable[name] = readable(self.old, name)
        rows = self.old.query(
            f"SELECT * {self._readable[name].among('list_contains(?, batch)')}", [batch_ids], as_stored=True
        )
        rows = rows.drop_columns([field.name for field in contract.stamps if field.name in rows.column_names])
        if contract is BARS and AVAILABLE.name not in rows.column_names:
            rows = with_available(rows, self.settings.bars.history_lag_ms * MS_NS)
        for field in contract.schema:
            if field.name not in rows.column_names:  # of an older layout
                rows = rows.append_column(field.name, pa.nulls(rows.num_rows, field.type))
        return rows


class _CacheOnly:
    """An object store without objects: a step is repeated from the cache, or not at all."""

    def __init__(self, where: str) -> None:
        self.where = where

    def sizes(self, prefix: str) -> dict[str, int] | None:  # noqa: ARG002 - the protocol's
        """Return None: it does not list."""
        return None

    def download(self, key: str, path: Path) -> bool:  # noqa: ARG002 - the protocol's
        """Refuse to download.

        Raises:
            VenueError: always.
        """
        raise VenueError(f"{key} is not in the cache")


def _lots(batches: Sequence[BatchLineage]) -> Iterator[list[BatchLineage]]:
    """Yield the batches to carry over in one commit: some of a recording, or one of any other source."""
    lot: list[BatchLineage] = []
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
