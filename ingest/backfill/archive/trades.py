"""Trades and bars from the venue's node archive.

A step is an hour. It reads the objects of the hour and both neighbours, since events spill over; each layout for the
hours in which it exists, the newest first. Trades get origin `archive`; their `ts_recv_ns` is the time at which a live
system would have had them (the trade's time and `bars.history_lag_ms`), so that two runs write the same rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from ingest.backfill.archive.bars import EXISTING_BARS, make_bars, proven_spans, select_improved, span_us
from ingest.backfill.archive.fill_pairing import RejectedFills
from ingest.backfill.archive.fill_parser import Hour, HourReader
from ingest.backfill.archive.ndjson import MalformedLine
from ingest.backfill.archive.object_cache import ObjectCache
from ingest.backfill.archive.object_keys import (
    HOUR_NS,
    LAYOUTS,
    TRADES,
    Layout,
    check_archive_range,
    hours_of,
    with_neighbours,
)
from ingest.backfill.archive.refused_fills import without_refused
from ingest.backfill.source import BackfillRequest, BackfillStep, StepResult
from ingest.venues.hyperliquid.protocol import instrument_id
from storage.clock import DAY_NS, MS_NS, TimeSource, iso, parse_time_ns, width_ns
from storage.contracts import tables as contracts
from storage.settings import Settings

Query = Callable[[str, Sequence[object]], pa.Table]
"""Queries the lake."""

_SIDES: Final = np.array(["sell", "unknown", "buy"], dtype=object)


@dataclass(frozen=True, slots=True)
class _Piece:
    """One object with events of an hour."""

    layout: Layout
    key: str
    sha256: str


class ArchiveTradeSource:
    """Trades and bars from the venue's node archive."""

    def __init__(
        self, objects: ObjectCache, settings: Settings, clock: TimeSource, *, query: Query | None = None
    ) -> None:
        """Prepare a source.

        Args:
            objects: of `archive.node_data`.
            settings: sections `archive` and `bars`.
            clock: bounds the range, and stamps fetches of objects.
            query: queries the lake for existing bars (default: none are considered).
        """
        self._objects, self._settings, self._clock, self._query = objects, settings, clock, query
        self.widths = tuple(width for width in settings.bars.widths if HOUR_NS % width_ns(width) == 0)
        """Widths of the bars: a step covers one hour, so no wider ones."""

    async def steps(self, request: BackfillRequest) -> Sequence[BackfillStep]:
        """Return one step an hour, with the bytes that no earlier step fetches.

        Raises:
            RangeError: outside the archive, see `check_archive_range`.
            VenueError: the archive cannot be reached.
        """
        check_archive_range(request, "trades", TRADES.from_ns, self._clock.now_ns())
        return await asyncio.to_thread(self._steps, request)

    def _steps(self, request: BackfillRequest) -> list[BackfillStep]:
        seen: set[str] = set()
        coins = ",".join(sorted(request.coins)) or "*"
        steps = []
        for hour_ns in hours_of(request):
            keys = [
                key for _, key in self._keys(hour_ns) if key not in seen and not self._objects.is_held(key)
            ]
            seen.update(keys)
            sizes = [self._size(key) for key in keys]
            size = None if None in sizes else sum(size or 0 for size in sizes)
            key = f"archive:trades:{iso(hour_ns)[:13]}:{coins}:{','.join(self.widths)}"
            steps.append(BackfillStep(key, f"trades of {iso(hour_ns)[:16]}", size_bytes=size))
        return steps

    async def fetch(self, step: BackfillStep) -> StepResult:
        """Fetch the objects of an hour, and make rows of trades, bars and coverage; see `BackfillSource`."""
        _, _, rest = step.key.partition("archive:trades:")
        hour, coins, _ = rest[:13], *rest[14:].rsplit(":", 1)
        hour_ns = parse_time_ns(f"{hour}:00:00Z")
        wanted = () if coins == "*" else tuple(coins.split(","))
        fetched = await asyncio.to_thread(self._fetch_hour, hour_ns, wanted)
        # The lake is queried here, not in that thread: one connection serves one thread.
        bars = [self._improved_bars(table, hour_ns) for table in fetched[1]]
        if not bars:
            return fetched[0]
        return StepResult(
            {**fetched[0].tables, "bars": pa.concat_tables(bars)}, fetched[0].inputs, fetched[0].absent
        )

    def _fetch_hour(self, hour_ns: int, wanted: tuple[str, ...]) -> tuple[StepResult, list[pa.Table]]:
        pieces, absent = self._fetch_objects(hour_ns)
        if absent:
            return StepResult({}, absent=absent), []
        from_ms, to_ms = hour_ns // MS_NS, (hour_ns + HOUR_NS) // MS_NS
        spill_ms = round(self._settings.archive.spill_s * 1_000)
        reader = HourReader(from_ms, to_ms, spill_ms=spill_ms, coins=wanted)
        for number, piece in enumerate(pieces):
            reader.add(self._objects.pieces(piece.key), piece.layout.form, number)
        hour = reader.finish()
        names = [f"{self._objects.where}/{piece.key}" for piece in pieces]
        inputs = {"objects": {name: piece.sha256 for name, piece in zip(names, pieces, strict=True)}}
        if wanted and not len(hour.prints) and not hour.odd:
            return StepResult(
                {}, inputs, absent=f"nobody traded {', '.join(wanted)} in that hour, as it is written"
            ), []
        lag_ms = self._settings.bars.history_lag_ms
        instruments = [instrument_id(coin) for coin in hour.coins]
        parts = proven_spans(hour.beats_ms, round(self._settings.archive.silence_s * 1_000))
        bars = [
            make_bars(
                *(hour.prints, instruments, parts, width),
                from_ms=from_ms,
                to_ms=to_ms,
                lag_ms=lag_ms,
                coins=hour.coins,
                refused=hour.refused,
            )
            for width in self.widths
        ]
        tables = {
            "trades": trade_rows(hour, instruments, names, lag_ms),
            "coverage": self._coverage(hour, instruments, parts, hour_ns, names[-1]),
            "quarantine": quarantine_rows(hour.bad, hour.odd, names, (to_ms + lag_ms) * MS_NS),
        }
        return StepResult({name: rows for name, rows in tables.items() if rows.num_rows}, inputs), bars

    def _improved_bars(self, bars: pa.Table, hour_ns: int) -> pa.Table:
        """Leave out bars that do not improve on those in the lake."""
        if self._query is None or not bars.num_rows:
            return bars
        width = bars["width"][0].as_py()
        from_us, to_us = span_us(hour_ns // MS_NS, (hour_ns + HOUR_NS) // MS_NS)
        return select_improved(bars, self._query(EXISTING_BARS, [width, from_us, to_us]))

    # Objects.

    def _keys(self, hour_ns: int) -> list[tuple[Layout, str]]:
        """Return the objects of an hour and its neighbours, by time; `_fetch_objects` states which are read."""
        return [
            (layout, layout.key(at_ns))
            for at_ns in with_neighbours(hour_ns)
            for layout in self._layouts(hour_ns)
            if layout.has(at_ns)
        ]

    def _layouts(self, hour_ns: int) -> list[Layout]:
        """Return the layouts that may hold an hour; trades without ids are never mixed with fills, which have them."""
        found = [layout for layout in LAYOUTS if layout.has(hour_ns)]
        forms = {layout.form for layout in found}
        return [layout for layout in LAYOUTS if layout.form != "trades"] if forms != {"trades"} else [TRADES]

    def _fetch_objects(self, hour_ns: int) -> tuple[list[_Piece], str]:
        """Return the objects of an hour and its neighbours, or why the hour is incomplete."""
        pieces, missing = self._fetch_keys(hour_ns, self._keys(hour_ns))
        if missing and TRADES.has(hour_ns) and self._layouts(hour_ns) != [TRADES]:
            older = [(TRADES, TRADES.key(at_ns)) for at_ns in with_neighbours(hour_ns) if TRADES.has(at_ns)]
            earlier, still_missing = self._fetch_keys(hour_ns, older)
            return (earlier, "") if not still_missing else (pieces, missing)
        return pieces, missing

    def _fetch_keys(self, hour_ns: int, keys: list[tuple[Layout, str]]) -> tuple[list[_Piece], str]:
        now_ns = self._clock.now_ns()
        late_ns = round(self._settings.archive.late_days * DAY_NS)
        by_hour: dict[int, dict[str, str]] = {}
        pieces = []
        for at_ns in with_neighbours(hour_ns):
            for layout, key in keys:
                if key != layout.key(at_ns):
                    continue
                entry = self._objects.fetch(key, now_ns)
                if entry.state == "held":
                    pieces.append(_Piece(layout, key, entry.sha256))
                by_hour.setdefault(at_ns, {})[key] = "" if entry.state == "held" else entry.reason
        own, after = by_hour.get(hour_ns, {}), by_hour.get(hour_ns + HOUR_NS, {})
        if own and all(own.values()):
            return [], "; ".join(f"{key}: {reason}" for key, reason in own.items())
        if after and all(after.values()) and now_ns < hour_ns + 2 * HOUR_NS + late_ns:
            key, reason = next(iter(after.items()))
            return [], f"the next hour's object, which may hold its end, is not there yet ({key}: {reason})"
        return pieces, ""

    def _size(self, key: str) -> int | None:
        folder, day, _ = key.rsplit("/", 2)
        listed = self._objects.listed(f"{folder}/{day}/")
        return None if listed is None else listed.get(key, 0)

    def _coverage(
        self, hour: Hour, instruments: list[str], parts_ms: Any, hour_ns: int, journal: str
    ) -> pa.Table:
        """Return the proven coverage of each coin that traded in the hour."""
        to_ms = (hour_ns + HOUR_NS) // MS_NS
        row = {"journal": journal, "connection": -1, "channel": "trades", "kind": "watched", "cause": ""}
        row |= {"evidence": "venue_statement", "bridged": False, "revision": 0}
        row["ts_knowable_ns"] = to_ms * MS_NS + self._settings.bars.history_lag_ms * MS_NS
        from_ms = hour_ns // MS_NS
        spans = np.clip(parts_ms, from_ms, to_ms)
        return contracts.COVERAGE.rows(
            [
                row | {"instrument": instruments[code], "ts_from": start * 1_000, "ts_to": end * 1_000}
                for code in np.unique(hour.prints["coin"]).tolist()
                for start, end in without_refused(spans.tolist(), hour.refused, hour.coins[code])
                if end > start
            ]
        )


def trade_rows(hour: Hour, instruments: Sequence[str], names: Sequence[str], lag_ms: int) -> pa.Table:
    """Return rows of `trades`, ordered by time.

    Args:
        hour: the parsed hour.
        instruments: ids by code of the coin.
        names: of the objects, by number.
        lag_ms: time from a trade until it is knowable.
    """
    prints = hour.prints
    if (np.diff(prints["time_ms"]) < 0).any():  # rare: gathering all columns costs as much as pairing
        prints = prints.at(np.argsort(prints["time_ms"], kind="stable"))
    count = len(prints)
    knowable_ns = (prints["time_ms"] + lag_ms) * MS_NS
    columns: dict[str, Any] = {
        "instrument": _pick(instruments, prints["coin"]),
        "ts_event": pa.array(prints["time_ms"] * 1_000),
        "tid": prints["tid"],
        "side": _pick(_SIDES, prints["side"] + 1),
        "price": prints["price"],
        "size": prints["size"],
        "is_twap": prints["twap"],
        "origin": pa.repeat(pa.scalar("archive"), count),
        "ts_recv_ns": knowable_ns,
        "ts_knowable_ns": knowable_ns,
        "journal": _pick(names, prints["object"]),
        "frame": prints["line"],
    }
    schema = contracts.TRADES.schema
    arrays = [pa.array(columns[item.name]).cast(item.type) for item in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def quarantine_rows(
    bad: Sequence[MalformedLine],
    odd: Sequence[RejectedFills],
    names: Sequence[str],
    knowable_ns: int,
    table: str = "trades",
) -> pa.Table:
    """Return rows of `quarantine`: malformed lines, and fills that make no trade."""
    rows = [(item.reason, item.raw, f"{names[item.object]}:{item.line}") for item in bad]
    for item in odd:
        coin, time_ms, tid = item.unpaired.key
        raw = msgspec.json.encode(item.unpaired.fills)
        source = f"{names[item.object]}:{item.line}:{coin}:{time_ms}:{tid}"
        rows.append((item.unpaired.reason, raw, source))
    return contracts.QUARANTINE.rows(
        [
            {"table_name": table, "reason": why, "raw": raw, "source": source, "ts_knowable_ns": knowable_ns}
            for why, raw, source in dict.fromkeys(rows)
        ]
    )


def _pick(texts: Iterable[str], codes: Any) -> Any:
    """Return a dictionary-encoded column of texts by their codes."""
    return pa.DictionaryArray.from_arrays(
        pa.array(np.asarray(codes).astype(np.int32), pa.int32()), pa.array(list(texts), pa.string())
    )
