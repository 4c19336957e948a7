"""Law of deleted trades: a silence that is longer than the rhythm allows leaves no quiet bar."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import pytest

from ingest.journal.captures import read_capture
from ingest.journal.records import Record, RecordBatch, RecordKind
from ingest.pipeline.processor import Pipeline
from storage.clock import MS_NS, NS
from storage.settings import load_settings
from tests.conftest import recorded
from tests.ingest.pipeline.scripts import START_NS, Script

FOUR_COINS: Final = "hyperliquid/ws_20250904_4coins.ndjson.gz"
SETTINGS: Final = load_settings(environ={})
MINUTE_NS: Final = 60 * NS
_REACH: Final = 60

Span = tuple[int, int]
"""Receipt times of deleted frames, right-open, in ns."""


def without_trades(records: Iterable[Record], coin: str, span: Span) -> list[Record]:
    """Return records without the trades of a coin within a span."""
    named = f'"coin":"{coin}"'.encode()

    def is_deleted(record: Record) -> bool:
        head = record.body[:60].replace(b" ", b"")
        is_trades = record.kind is RecordKind.FRAME and b'"channel":"trades"' in head
        return is_trades and span[0] <= record.recv_ns < span[1] and named in record.body.replace(b" ", b"")

    return [record for record in records if not is_deleted(record)]


def last_bars(records: Sequence[Record], *, is_capture: bool) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the last revision of each bar, by coin and open in ns."""
    pipeline = Pipeline("made", SETTINGS, is_capture=is_capture)
    pipeline.process_batch(RecordBatch.of(records))
    if is_capture:
        pipeline.stop(records[-1].recv_ns, "end of capture")
    rows = sorted(pipeline.drain()["bars"].to_pylist(), key=lambda row: row["revision"])
    return {(row["instrument"].split("|")[2], _ns(row["ts_open"])): row for row in rows}


def prints_of(records: Iterable[Record], coin: str) -> list[tuple[int, int]]:
    """Return (receipt, venue time) of each print of a coin, in order of receipt."""
    found = []
    for record in records:
        if record.kind is RecordKind.FRAME and b"trades" in record.body[:60]:
            items = json.loads(record.body).get("data", [])
            found += [(record.recv_ns, item["time"] * MS_NS) for item in items if item["coin"] == coin]
    return found


def allowed_ns(prints: Sequence[tuple[int, int]], at_ns: int) -> int | None:
    """Return the silence that the rhythm before an instant allows, by the rule as it is written; None for unknown."""
    times = np.maximum.accumulate([event_ns for recv_ns, event_ns in prints if recv_ns < at_ns] or [0])
    gaps = np.diff(times)
    if len(gaps) < 20:
        return None
    return int(max(60 * NS, 3 * gaps.max(), 14 * gaps.sum() / len(gaps)))


def check(records: Sequence[Record], coin: str, span: Span, *, is_capture: bool = True) -> int:
    """Check that no bar that lies in a deletion is quiet; return how many bars lie in it."""
    kept = without_trades(records, coin, span)
    prints = prints_of(kept, coin)
    before = [event_ns for recv_ns, event_ns in prints if recv_ns < span[0]]
    allowed = allowed_ns(prints, span[0])
    assert allowed is not None
    last_ns = max(before)
    ends_ns = min(span[1], records[-1].recv_ns)
    assert ends_ns - last_ns > allowed, "the deletion is longer than what is allowed"
    inside = {
        open_ns: row
        for (name, open_ns), row in last_bars(kept, is_capture=is_capture).items()
        if name == coin and last_ns < open_ns + MINUTE_NS and open_ns < ends_ns
    }
    assert "quiet" not in {row["status"] for row in inside.values()}, (coin, span, allowed / NS)
    return len(inside)


def _ns(moment: Any) -> int:
    return round(moment.timestamp()) * NS


@pytest.fixture(scope="module")
def capture() -> list[Record]:
    frames = itertools.islice(read_capture(recorded(FOUR_COINS)), 26_000)
    return [Record(n, recv_ns, RecordKind.FRAME, 0, body) for n, (recv_ns, body) in enumerate(frames)]


@pytest.mark.parametrize(
    ("coin", "from_s", "for_s"),
    [
        ("BTC", 300, 1e6),
        pytest.param("ETH", 130, 200, marks=pytest.mark.drill),
        ("SOL", 301, 95),
        pytest.param("WLFI", 200, 400, marks=pytest.mark.drill),
    ],
)
def test_no_bar_of_a_real_capture_is_quiet_where_trades_are_deleted(
    capture: list[Record], coin: str, from_s: float, for_s: float
) -> None:
    """The recorded disconnect of 18 s lies within some of them."""
    begin_ns = capture[0].recv_ns
    span = (begin_ns + round(from_s * NS), begin_ns + round(min(from_s + for_s, 1e6) * NS))
    assert check(capture, coin, span) >= 2


@pytest.mark.drill
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("coin", ["BTC", "ETH", "SOL", "WLFI"])
def test_no_bar_of_the_whole_capture_is_quiet_wherever_trades_are_deleted(coin: str) -> None:
    frames = list(read_capture(recorded(FOUR_COINS)))
    records = [Record(n, recv_ns, RecordKind.FRAME, 0, body) for n, (recv_ns, body) in enumerate(frames)]
    begin_ns, seconds = records[0].recv_ns, (records[-1].recv_ns - records[0].recv_ns) / NS
    chance = np.random.default_rng(7)
    for _ in range(25):
        from_s = chance.uniform(120, seconds - 200)
        for_s = chance.choice([90.0, 150.0, 300.0, 1e6])
        check(records, coin, (begin_ns + round(from_s * NS), begin_ns + round((from_s + for_s) * NS)))


def made(seed: int, *, minutes: int, is_capture: bool) -> list[Record]:
    """Return a recording of one coin that prints at its own rhythm (one in two comes in clusters), with quotes."""
    chance = np.random.default_rng(seed)
    mean_s = float(chance.choice([2.0, 8.0, 25.0, 90.0]))
    script = Script(("BTC",))
    script.open(0.0).known(0.05, every_s=mean_s).alive(0.5, 60 * minutes, every_s=4.0)
    at_s = 1.0
    while (at_s := at_s + _gap_s(chance, mean_s, seed)) < 60 * minutes:
        script.print(round(at_s, 3))
    script.stop(60 * minutes + 1)
    if is_capture:
        script.records = [record for record in script.records if record.kind is RecordKind.FRAME]
        script.records = [item for item in script.records if b"subscriptionResponse" not in item.body]
    return script.sorted()


def _gap_s(chance: np.random.Generator, mean_s: float, seed: int) -> float:
    if seed % 2 and chance.random() < 0.8:
        return float(chance.exponential(1.0))
    return float(chance.exponential(mean_s * (5 if seed % 2 else 1)))


def check_made(seed: int, *, is_capture: bool) -> None:
    chance = np.random.default_rng(seed + 1_000)
    records = made(seed, minutes=90, is_capture=is_capture)
    from_ns = START_NS + round(chance.uniform(5, 30) * 60) * NS
    allowed = allowed_ns(prints_of(records, "BTC"), from_ns)
    assert allowed is not None
    # The last print before the deletion is older than its start; the next after it is younger than its end.
    for_ns = round(allowed * chance.choice([1.02, 1.5, 3.0]))
    if from_ns + for_ns < records[-1].recv_ns:
        check(records, "BTC", (from_ns, from_ns + for_ns), is_capture=is_capture)


@pytest.mark.parametrize("is_capture", [False, True])
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_no_bar_of_a_made_recording_is_quiet_where_trades_are_deleted(seed: int, is_capture: bool) -> None:
    check_made(seed, is_capture=is_capture)


@pytest.mark.drill
@pytest.mark.timeout(3_600)
def test_no_bar_of_many_made_recordings_is_quiet_where_trades_are_deleted() -> None:
    for seed in range(300):
        check_made(seed, is_capture=bool(seed % 3))
