"""Order books from the venue's archive.

A step is one object: the snapshots of a coin for an hour, about two a second. The archiver's time of receipt is kept
in place of ours; a live system knows a book at that time, or `bars.history_lag_ms` after the venue's own time where
that is later. Hour 0 begins with books of the day before: each snapshot is complete and lies in one object, so
neighbouring hours are not read.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import pyarrow as pa

from ingest.backfill.archive.ndjson import MalformedLine, NdjsonReader
from ingest.backfill.archive.object_cache import ObjectCache
from ingest.backfill.archive.object_keys import (
    BOOKS,
    BOOKS_FROM_NS,
    book_key,
    check_archive_range,
    day_text,
    hours_of,
)
from ingest.backfill.archive.trades import quarantine_rows
from ingest.backfill.source import BackfillRequest, BackfillStep, StepResult
from ingest.pipeline.order_books import unusable_book
from ingest.pipeline.rows import is_time
from ingest.venues.hyperliquid.messages import BookData
from ingest.venues.hyperliquid.protocol import instrument_id
from storage.clock import MS_NS, NS, TimeSource, iso, parse_time_ns
from storage.contracts import tables as contracts
from storage.errors import InstrumentError, VenueError
from storage.settings import Settings

_KEY: Final = "archive:books:"


class _Raw(msgspec.Struct, gc=False):
    data: BookData


class _Line(msgspec.Struct, gc=False):
    time: datetime
    raw: _Raw


class ArchiveBookSource:
    """Books from the venue's archive of market data."""

    def __init__(self, objects: ObjectCache, settings: Settings, clock: TimeSource) -> None:
        """Prepare a source.

        Args:
            objects: of `archive.market_data`.
            settings: sections `archive` and `bars`.
            clock: bounds the range, and stamps fetches of objects.
        """
        self._objects, self._settings, self._clock = objects, settings, clock

    async def steps(self, request: BackfillRequest) -> Sequence[BackfillStep]:
        """Return one step a coin and hour.

        Raises:
            RangeError: outside the archive, see `check_archive_range`.
            InstrumentError: the archive has books of those days, but none of a coin.
            VenueError: the archive cannot be reached, or no coin is named and it has no listing.
        """
        check_archive_range(request, "books", BOOKS_FROM_NS, self._clock.now_ns())
        return await asyncio.to_thread(self._steps, request)

    def _steps(self, request: BackfillRequest) -> list[BackfillStep]:
        sizes: dict[str, int] = {}
        is_listed = True
        for prefix in dict.fromkeys(f"{BOOKS}/{day_text(at_ns)}/" for at_ns in hours_of(request)):
            listed = self._objects.listed(prefix)
            is_listed = is_listed and listed is not None
            sizes |= listed or {}
        coins = self._coins(request, sizes, is_listed)
        steps = []
        for hour_ns in hours_of(request):
            for coin in coins:
                key = book_key(hour_ns, coin)
                size = 0 if self._objects.is_held(key) else sizes.get(key, 0) if is_listed else None
                text = f"books of {coin}, {iso(hour_ns)[:16]}"
                if request.coins or not is_listed or key in sizes:
                    steps.append(BackfillStep(f"{_KEY}{iso(hour_ns)[:13]}:{coin}", text, size_bytes=size))
        return steps

    def _coins(self, request: BackfillRequest, sizes: dict[str, int], is_listed: bool) -> list[str]:
        listed_coins = sorted(
            {key.rsplit("/", 1)[1].removesuffix(".lz4") for key in sizes if "/l2Book/" in key}
        )
        if not request.coins:
            if not is_listed:
                raise VenueError(
                    f"{self._objects.where} does not list its coins", hint="name them: --coin BTC --coin ETH"
                )
            return listed_coins
        for coin in request.coins if listed_coins else ():
            if coin not in listed_coins:
                near = difflib.get_close_matches(coin, listed_coins, n=1, cutoff=0.0)[0]
                raise InstrumentError(
                    f"{self._objects.where} has no book of {coin!r} in those days",
                    hint=f"names are byte-exact; the nearest is {near}",
                )
        return sorted(request.coins)

    async def fetch(self, step: BackfillStep) -> StepResult:
        """Fetch the books of a coin for an hour; see `BackfillSource`."""
        hour, coin = step.key.removeprefix(_KEY).split(":", 1)
        return await asyncio.to_thread(self._fetch, parse_time_ns(f"{hour}:00:00Z"), coin)

    def _fetch(self, hour_ns: int, coin: str) -> StepResult:
        key = book_key(hour_ns, coin)
        entry = self._objects.fetch(key, self._clock.now_ns())
        if entry.state != "held":
            return StepResult({}, absent=f"{key}: {entry.reason}")
        name = f"{self._objects.where}/{key}"
        lag_ns = self._settings.bars.history_lag_ms * MS_NS
        reader: NdjsonReader[_Line] = NdjsonReader(_Line)
        parts: list[pa.Table] = []
        bad: list[MalformedLine] = []
        number = 0
        for piece in self._objects.pieces(key):
            lines, numbers, broken, number = reader.read(piece, 0, number)
            rows, odd = book_rows(lines, numbers.tolist(), coin, name, lag_ns)
            parts.append(rows)
            bad += [*broken, *odd]
        tables = {
            "books": pa.concat_tables(parts),
            "quarantine": quarantine_rows(bad, [], [name], hour_ns + lag_ns, "books"),
        }
        return StepResult(
            {table: rows for table, rows in tables.items() if rows.num_rows},
            {"objects": {name: entry.sha256}},
        )


def book_rows(
    lines: Sequence[_Line], numbers: Sequence[int], coin: str, journal: str, lag_ns: int
) -> tuple[pa.Table, list[MalformedLine]]:
    """Return rows of `books`, and the lines with an invalid book."""
    columns: dict[str, list[Any]] = {name: [] for name in _OWN}
    bad: list[MalformedLine] = []
    for line, number in zip(lines, numbers, strict=True):
        book, recv_ns = line.raw.data, _ns(line.time)
        reason = unusable_book(book)
        if book.coin != coin:
            reason = f"a book of {book.coin!r} among those of {coin!r}"
        elif not is_time(book.time, recv_ns):
            reason = f"time {book.time} is no time in milliseconds up to its receipt at {iso(recv_ns)}"
        if reason:
            bad.append(MalformedLine(0, number, msgspec.json.encode(line), reason))
            continue
        bids, asks = book.levels
        event_ns = book.time * MS_NS
        values = (
            book.time * 1_000,
            [level.px for level in bids],
            [level.sz for level in bids],
            [level.px for level in asks],
            [level.sz for level in asks],
            recv_ns,
            max(recv_ns, event_ns + lag_ns),
            number,
        )
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    count = len(columns["frame"])
    constants: dict[str, object] = {
        "instrument": instrument_id(coin),
        "mode": "slow",
        "is_stale": False,
        "origin": "archive",
        "journal": journal,
    }
    schema = contracts.BOOKS.schema
    arrays = [
        pa.array(columns[item.name], item.type)
        if item.name in columns
        else pa.repeat(pa.scalar(constants[item.name], item.type), count)
        for item in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema), bad


_OWN: Final = ("ts_event", "bid_px", "bid_sz", "ask_px", "ask_sz", "ts_recv_ns", "ts_knowable_ns", "frame")


def _ns(time: datetime) -> int:
    """Return a time of the archive in nanoseconds; it is UTC with or without a zone."""
    moment = time.replace(tzinfo=UTC)
    return int(moment.replace(microsecond=0).timestamp()) * NS + moment.microsecond * 1_000
