"""Stamps of history: arrival where a recording listed the instrument during the 24 h before the close, else the lag."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from storage.clock import DAY_NS
from storage.contracts.tables import BARS, RECORDINGS
from storage.lake.history_stamps import HistoryStamps, decide, merged
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.storage.rows import BTC, LAG_NS, bar

ETH = "hyperliquid|perp|ETH"
HOUR_NS = 3_600_000_000_000
NOW_NS = 30 * DAY_NS

hours = st.integers(0, 200)
spans = st.lists(st.tuples(hours, hours).map(sorted).map(tuple), max_size=6)


def history(instrument: str, hour: int) -> dict[str, Any]:
    """Return a bar of history that closes at an hour."""
    close_us = hour * HOUR_NS // 1_000
    stamp = hour * HOUR_NS + LAG_NS
    times = {"ts_open": close_us - 3_600_000_000, "ts_close": close_us, "width": "1h"}
    return bar(
        0, instrument=instrument, origin="candle", ts_knowable_ns=stamp, ts_available_ns=stamp, **times
    )


def bars_at(*hours: int, instrument: str = BTC) -> pa.Table:
    return BARS.rows([history(instrument, hour) for hour in hours])


def recording(name: str, started_h: int, last_h: int | None = None, **changes: Any) -> dict[str, Any]:
    """Return a row of `recordings`; hours count from the epoch."""
    row = {
        "recording": name,
        "home": "here",
        "venue": "hyperliquid",
        "instruments": json.dumps([BTC]),
        "ts_started_ns": started_h * HOUR_NS,
        "ts_last_ns": None if last_h is None else last_h * HOUR_NS,
        "ts_knowable_ns": (started_h if last_h is None else last_h) * HOUR_NS,
    }
    return row | changes


@given(spans, st.lists(hours.filter(bool), min_size=1, max_size=30), st.sampled_from([BTC, ETH]))
def test_a_bar_is_stamped_by_its_own_24_hours(
    listed: list[tuple[int, int]], closes: list[int], other: str
) -> None:
    """The rule by itself, span by span, for two instruments of which one may be listed."""
    stamps = HistoryStamps(NOW_NS, {BTC: merged([(a * HOUR_NS, b * HOUR_NS) for a, b in listed])})
    rows = BARS.rows([history(name, hour) for hour in sorted(set(closes)) for name in {BTC, other}])
    done = stamps.apply(rows)
    for row in done.to_pylist():
        hour = round(row["ts_close"].timestamp()) // 3_600
        is_listed = row["instrument"] == BTC and any(a < hour and b >= hour - 24 for a, b in listed)
        assert row["ts_knowable_ns"] == (NOW_NS if is_listed else hour * HOUR_NS + LAG_NS)
        assert row["ts_available_ns"] == hour * HOUR_NS + LAG_NS
    assert done.drop_columns(["ts_knowable_ns"]) == rows.drop_columns(["ts_knowable_ns"])


def test_a_decision_is_the_same_after_it_was_stored() -> None:
    stamps = HistoryStamps(NOW_NS, {BTC: ((5, 10), (3 * DAY_NS, 4 * DAY_NS))})
    stored = json.loads(json.dumps({"file": "a"} | stamps.to_inputs()))
    assert HistoryStamps.from_inputs(stored) == stamps
    assert HistoryStamps.from_inputs({"file": "a"}) is None


def test_history_arrives_no_earlier_than_its_bar_closes() -> None:
    """A venue's clock may run ahead of ours."""
    done = HistoryStamps(10 * HOUR_NS - 5, {BTC: ((0, 10 * HOUR_NS),)}).apply(bars_at(10))
    assert done["ts_knowable_ns"].to_pylist() == [10 * HOUR_NS]


def test_the_newest_row_of_each_recording_lists_until_its_end_or_until_now(settings: Settings) -> None:
    rows = [
        recording("ended", 100),
        recording("ended", 100, 110),
        recording("here too", 300, 301, home="there"),
        recording("grown", 400, instruments=json.dumps([ETH])),
        recording("grown", 400, ts_knowable_ns=401 * HOUR_NS, instruments=json.dumps([BTC, ETH])),
    ]
    closes = (50, 100, 101, 110, 134, 135, 300, 301, 325, 326, 400, 401, 450)
    with Lake.open(settings) as lake:
        empty = decide(lake.query, bars_at(*closes), NOW_NS)
        lake.commit({"recordings": RECORDINGS.rows(rows)}, batch_id="made")
        found = decide(lake.query, bars_at(*closes), NOW_NS)
        ours = decide(lake.query, bars_at(105), NOW_NS)
        none = decide(lake.query, bars_at(50, 299), NOW_NS)
    assert empty.listed == {}
    stamped = found.apply(bars_at(*closes))["ts_knowable_ns"].to_pylist()
    listed = [hour for hour, stamp in zip(closes, stamped, strict=True) if stamp == NOW_NS]
    assert listed == [101, 110, 134, 301, 325, 401, 450]
    assert ours.listed == {BTC: ((100 * HOUR_NS, 105 * HOUR_NS),)}, (
        "no more than concerns the batch is stored"
    )
    assert none.apply(bars_at(50, 299)) == bars_at(50, 299)
