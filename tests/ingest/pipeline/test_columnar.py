"""Columnar processing: the same rows however records are cut into batches."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import Phase, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from ingest.journal.captures import read_capture
from ingest.journal.records import Record, RecordKind
from ingest.pipeline.processor import Pipeline
from storage.settings import Settings, load_settings
from tests.conftest import recorded
from tests.ingest.pipeline.random_records import Wild, in_capture
from tests.ingest.pipeline.scripts import Script, assert_same, take_batches

WIDTHS = load_settings(overrides={"bars.widths": "1m,5s"}, environ={})
# A seed does not shrink to a shorter recording.
LAW = examples(deadline=None, max_examples=10, phases=(Phase.explicit, Phase.reuse, Phase.generate))


def one_by_one(records: Sequence[Record], settings: Settings, *, is_capture: bool) -> Pipeline:
    pipeline = Pipeline("made", settings, is_capture=is_capture)
    for record in records:
        pipeline.process(record)
    return pipeline


def in_batches(
    records: Sequence[Record], settings: Settings, *, is_capture: bool, cuts: Iterable[int] = ()
) -> Pipeline:
    pipeline = Pipeline("made", settings, is_capture=is_capture)
    take_batches(pipeline, records, cuts)
    return pipeline


def assert_equal(one: Pipeline, other: Pipeline) -> None:
    """Check all output of a pipeline: rows, counts, channels, and the streams for the watchdogs."""
    assert one.counts == other.counts
    assert one.state.channels == other.state.channels
    assert one.state.take_streams() == other.state.take_streams()
    assert one.state.watermark_ns == other.state.watermark_ns
    assert one.state.newest_print_ns == other.state.newest_print_ns
    assert one.state.last_quote == other.state.last_quote
    assert one.state.touches == other.state.touches
    assert_same(one.drain(), other.drain())


def check(seed: int, *, is_capture: bool) -> None:
    wild, chance = Wild(seed, events=150, is_capture=is_capture), random.Random(seed)
    records = (in_capture(wild) if is_capture else wild.script).sorted()
    cuts = chance.choices(range(len(records)), k=chance.choice((0, 3, 40)))
    one = one_by_one(records, WIDTHS, is_capture=is_capture)
    assert one.counts.trades > 0
    assert_equal(one, in_batches(records, WIDTHS, is_capture=is_capture, cuts=cuts))


@LAW
@given(st.integers(0, 1 << 40))
def test_any_recording_gives_the_same_rows_however_it_is_cut(seed: int) -> None:
    check(seed, is_capture=False)


@LAW
@given(st.integers(0, 1 << 40))
def test_any_capture_gives_the_same_rows_however_it_is_cut(seed: int) -> None:
    """Its control records are missing: gaps and subscriptions are inferred."""
    check(seed, is_capture=True)


@pytest.mark.parametrize("size", [1, 5])
def test_a_lag_of_years_is_the_same_number_alone_and_among_many(size: int) -> None:
    """A double cannot hold each nanosecond: for the longest lag here, integer division gives another value."""
    script = Script().open(0)
    for n in range(10):
        level = {"px": "1", "sz": str(n + 1), "n": 1}
        data = {"coin": "BTC", "time": 1, "bbo": [level, level]}
        body = json.dumps({"channel": "bbo", "data": data}, separators=(",", ":")).encode()
        script.frame(1 + n / 14, body)
    records = script.stop(5).sorted()
    one = one_by_one(records, WIDTHS, is_capture=False)
    assert_equal(one, in_batches(records, WIDTHS, is_capture=False, cuts=range(0, len(records), size)))


def test_of_two_sockets_heard_at_one_instant_the_first_frame_ends_the_silence() -> None:
    """The ledger names the connection that ended a gap."""
    script = Script().open(0, 0).open(0, 1).bbo(1, connection=0).bbo(1, connection=1)
    level = {"px": "1", "sz": "1", "n": 1}
    data = {"coin": "BTC", "time": script.venue_ms(44), "bbo": [level, level]}
    body = json.dumps({"channel": "bbo", "data": data}, separators=(",", ":")).encode()
    records = script.frame(44.5, body, 1).frame(44.5, body, 0).stop(45).sorted()
    one = one_by_one(records, WIDTHS, is_capture=False)
    assert_equal(one, in_batches(records, WIDTHS, is_capture=False))


def test_wild_recordings_hold_what_may_go_wrong() -> None:
    """The test above would prove little if nothing happened in its recordings."""
    counts = [one_by_one(Wild(seed).script.sorted(), WIDTHS, is_capture=False).counts for seed in range(5)]
    for name in ("seen", "conflicts", "late", "quarantined", "reconnects", "bars"):
        assert any(getattr(count, name) for count in counts), name


TAPES = (
    "hyperliquid/ws_20250904_4coins.ndjson.gz",
    "binance/ws_20240808_btc_eth_as_hyperliquid.ndjson.gz",
)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        *(pytest.param(name, 6_000, id=f"the beginning of {name}") for name in TAPES),
        *(pytest.param(name, 20_000, id=name, marks=pytest.mark.drill) for name in TAPES),
    ],
)
def test_a_real_tape_gives_the_same_rows_however_it_is_cut(name: str, most: int) -> None:
    frames = itertools.islice(read_capture(recorded(name)), most)
    records = [
        Record(number, recv_ns, RecordKind.FRAME, 0, body) for number, (recv_ns, body) in enumerate(frames)
    ]
    settings = load_settings(environ={})
    whole = one_by_one(records, settings, is_capture=True)
    whole.stop(records[-1].recv_ns, "end of capture")
    tables = whole.drain()
    for size in (most, 4_096, 777):
        other = in_batches(records, settings, is_capture=True, cuts=range(0, len(records), size))
        other.stop(records[-1].recv_ns, "end of capture")
        assert other.counts == whole.counts
        assert other.state.channels == whole.state.channels
        assert_same(tables, other.drain())
