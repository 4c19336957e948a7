"""Recordings for tests, written record by record."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import pyarrow as pa

from ingest.coverage.rhythm import LEAST_GAPS
from ingest.journal.records import Record, RecordBatch, RecordKind
from ingest.journal.writer import JournalWriter
from ingest.pipeline import processor as pipelines
from ingest.pipeline.processor import Pipeline
from storage.clock import MS_NS, NS, parse_time_ns
from storage.settings import Settings, load_settings

START_NS = parse_time_ns("2026-01-05T00:00:00Z")
LAG_S = 0.5


class Script:
    """Builds records; seconds count from `START_NS`."""

    def __init__(self, coins: tuple[str, ...] = ("BTC",)) -> None:
        self.records: list[Record] = []
        self._tid = 0
        self._add(
            0.0, RecordKind.STARTED, -1, json.dumps({"source": "socket", "coins": list(coins)}).encode()
        )

    def open(self, at_s: float, connection: int = 0, *coins: str) -> Self:
        """Open a connection and have every channel of the coins acknowledged."""
        self._add(at_s, RecordKind.OPENED, connection, b"ws://made")
        for coin in coins or ("BTC",):
            for channel in ("trades", "bbo"):
                data = {"method": "subscribe", "subscription": {"type": channel, "coin": coin}}
                self.frame(at_s, {"channel": "subscriptionResponse", "data": data}, connection)
        return self

    def opened(self, at_s: float, connection: int, **about: str) -> Self:
        """Open a connection and say what it is for: `venue`, `socket`, and a relay's `symbol`."""
        return self._add(
            at_s, RecordKind.OPENED, connection, json.dumps({"url": "ws://made"} | about).encode()
        )

    def answer(self, at_s: float, request: dict[str, Any], response: Any) -> Self:
        """Have an answer over REST arrive, asked for half a second before."""
        asked_ns = START_NS + round((at_s - LAG_S) * NS)
        body = {"request": request, "response": response, "asked_ns": asked_ns}
        return self._add(at_s, RecordKind.ANSWER, -1, json.dumps(body).encode())

    def subscribe(
        self, at_s: float, connection: int = 0, *, coin: str = "BTC", method: str = "subscribe"
    ) -> Self:
        """Have the trades of a coin acknowledged."""
        data = {"method": method, "subscription": {"type": "trades", "coin": coin}}
        return self.frame(at_s, {"channel": "subscriptionResponse", "data": data}, connection)

    def unsubscribe(self, at_s: float, connection: int = 0, *, coin: str = "BTC") -> Self:
        """Have the end of a coin's trades acknowledged."""
        return self.subscribe(at_s, connection, coin=coin, method="unsubscribe")

    def close(self, at_s: float, connection: int = 0, cause: str = "connection lost") -> Self:
        """Lose a connection."""
        return self._add(at_s, RecordKind.CLOSED, connection, cause.encode())

    def stop(self, at_s: float) -> Self:
        """End the recording."""
        return self._add(at_s, RecordKind.STOPPED, -1, b"recorder stopped")

    def clock(self, at_s: float) -> Self:
        """Let the wall say that it is later, with nothing arriving."""
        return self._add(at_s, RecordKind.CLOCK, -1, b"")

    def alive(
        self, from_s: float, to_s: float, *, every_s: float = 1.0, coin: str = "BTC", connection: int = 0
    ) -> Self:
        """Have a coin's quote change at a steady pace; `from_s` and `to_s` are receipt times."""
        at_s = from_s
        while at_s < to_s:
            self.bbo(at_s, coin=coin, connection=connection)
            at_s += every_s
        return self

    def bbo(self, at_s: float, bid: float | None = 99.5, *, coin: str = "BTC", connection: int = 0) -> Self:
        """Have a quote arrive, of an event `LAG_S` earlier."""
        level = [None if bid is None else {"px": str(bid), "sz": str(1 + at_s % 7), "n": 1}] * 2
        data = {"coin": coin, "time": self.venue_ms(at_s - LAG_S), "bbo": level}
        return self.frame(at_s, {"channel": "bbo", "data": data}, connection)

    def print(
        self, at_s: float, *, event_s: float | None = None, connection: int = 0, **changes: Any
    ) -> Self:
        """Have one print arrive."""
        return self.prints(
            at_s, [self.a_print(at_s - LAG_S if event_s is None else event_s, **changes)], connection
        )

    def known(self, at_s: float, connection: int = 0, *, coin: str = "BTC", every_s: float = 60.0) -> Self:
        """Have the venue resend so many prints after a subscription that the rhythm of a coin's trades is known."""
        events = [at_s - every_s * (n + 0.5) for n in range(LEAST_GAPS + 1)]
        return self.prints(
            at_s, [self.a_print(event_s, coin=coin) for event_s in reversed(events)], connection
        )

    def prints(self, at_s: float, items: list[dict[str, Any]], connection: int = 0) -> Self:
        """Have one trades message arrive."""
        return self.frame(at_s, {"channel": "trades", "data": items}, connection)

    def a_print(self, event_s: float, **changes: Any) -> dict[str, Any]:
        """Return a print; its tid is new unless given."""
        self._tid += 1
        made = {"coin": "BTC", "side": "B", "px": "100.0", "sz": "1.0", "tid": self._tid, "hash": "0x1"}
        return made | {"time": self.venue_ms(event_s)} | changes

    def pong(self, at_s: float, connection: int = 0) -> Self:
        """Have a pong arrive."""
        return self.frame(at_s, {"channel": "pong"}, connection)

    def frame(self, at_s: float, message: dict[str, Any] | bytes, connection: int = 0) -> Self:
        """Have any frame arrive."""
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        return self._add(at_s, RecordKind.FRAME, connection, body)

    @staticmethod
    def venue_ms(event_s: float) -> int:
        """Return venue time as it stands in a frame."""
        return START_NS // MS_NS + round(event_s * 1000)

    def sorted(self) -> list[Record]:
        """Return the records in order of receipt, numbered."""
        order = sorted(self.records, key=lambda record: record.recv_ns)
        return [dataclasses.replace(record, frame=number) for number, record in enumerate(order)]

    def write(self, folder: Path) -> Path:
        """Write the records as a recording."""
        with JournalWriter(folder) as journal:
            for record in self.sorted():
                journal.append(record.recv_ns, record.kind, record.connection, record.body)
        return folder

    def _add(self, at_s: float, kind: RecordKind, connection: int, body: bytes) -> Self:
        self.records.append(Record(len(self.records), START_NS + round(at_s * NS), kind, connection, body))
        return self


def run(
    script: Script, settings: Settings | None = None, *, is_capture: bool = False
) -> tuple[Pipeline, dict[str, Any]]:
    """Process a script with a pipeline; return the pipeline and its rows, as lists by table.

    It goes through a second one as one batch, and both must say the same.
    """
    settings = settings or load_settings(environ={})
    records = script.sorted()
    pipeline, in_bulk = (Pipeline("made", settings, is_capture=is_capture) for _ in range(2))
    for record in records:
        pipeline.process(record)
    take_batches(in_bulk, records)
    tables = pipeline.drain()
    assert_same(tables, in_bulk.drain())
    assert pipeline.counts == in_bulk.counts
    return pipeline, {name: table.to_pylist() for name, table in tables.items()}


def take_batches(pipeline: Pipeline, records: Sequence[Record], cuts: Iterable[int] = ()) -> None:
    """Process records with a pipeline in batches, by column wherever two frames follow each other.

    Args:
        pipeline: takes them.
        records: in order of receipt.
        cuts: where a new batch begins.
    """
    with patch.object(pipelines, "LEAST_FRAMES", 2):
        for start, stop in pairwise(sorted({0, len(records), *cuts})):
            pipeline.process_batch(RecordBatch.of(records[start:stop]))


def assert_same(one: dict[str, pa.Table], other: dict[str, pa.Table]) -> None:
    """Check that two sets of drained rows are equal, in any order where a reader sorts."""
    assert one.keys() == other.keys()
    for name, table in one.items():
        if table.equals(other[name]):
            continue
        rows, others = table.to_pylist(), other[name].to_pylist()
        if name in ("quarantine", "coverage"):
            rows, others = sorted(rows, key=repr), sorted(others, key=repr)
        assert len(rows) == len(others), name
        for row, counterpart in zip(rows, others, strict=True):
            assert row == counterpart, name


def latest(bars: list[dict[str, Any]], instrument: str = "hyperliquid|perp|BTC") -> dict[int, dict[str, Any]]:
    """Return the last revision of each bar, by the minute of its open since `START_NS`."""
    found: dict[int, dict[str, Any]] = {}
    for row in sorted(bars, key=lambda row: row["revision"]):
        if row["instrument"] == instrument:
            found[minute_of(row)] = row
    return found


def minute_of(row: dict[str, Any]) -> int:
    """Return the minute since `START_NS` at which a bar opens."""
    return int((row["ts_open"].timestamp() - START_NS / NS) // 60)


def plain(table: pa.Table, *without: str) -> list[dict[str, Any]]:
    """Return rows without some columns, for comparison."""
    return table.drop([name for name in without if name in table.column_names]).to_pylist()
