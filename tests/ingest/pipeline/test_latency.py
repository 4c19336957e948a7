"""Latency rows: equal for one frame or many, with percentiles as of a full sort."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.pipeline.latency import MINUTE_NS, LatencyTracker
from storage.clock import NS
from storage.contracts.tables import LAGS
from storage.contracts.validation import validate
from tests.plugins.property_tests import examples

START_NS = 1_767_571_200 * NS
LAG = st.one_of(
    st.floats(-5_000, 60_000, allow_nan=False), st.sampled_from([0.0, 0.01, 0.0108, -0.0, 1e8, 250.0])
)
FRAMES = st.lists(st.tuples(LAG, st.integers(0, 4 * 60 * NS)), min_size=1, max_size=80)


def nearest_rank(values: list[float], share: float) -> float:
    """Return the percentile by its definition, with a full sort."""
    return sorted(values)[max(1, math.ceil(share * len(values))) - 1]


def one_by_one(frames: list[tuple[float, int]]) -> LatencyTracker:
    lags = LatencyTracker("made")
    for lag_ms, after_ns in frames:
        lags.note("trades", lag_ms, START_NS + after_ns)
    return lags


@settings(deadline=None, max_examples=examples(60))
@given(FRAMES, st.lists(st.integers(0, 80), max_size=4))
def test_many_frames_at_once_count_as_one_by_one(frames: list[tuple[float, int]], cuts: list[int]) -> None:
    """However they are cut into batches."""
    bulk = LatencyTracker("made")
    lag_ms = np.array([lag for lag, _ in frames])
    recv_ns = np.array([START_NS + after for _, after in frames], dtype=np.int64)
    for part in np.array_split(np.arange(len(frames)), sorted(cuts)):
        bulk.note_many("trades", lag_ms[part], recv_ns[part])
    single = one_by_one(frames)
    assert bulk.now() == single.now()
    assert bulk.settle(START_NS + 10 * MINUTE_NS) == single.settle(START_NS + 10 * MINUTE_NS)


@settings(deadline=None, max_examples=examples(60))
@given(st.lists(st.floats(0.01, 1e7), min_size=1, max_size=400))
def test_percentiles_are_within_five_percent_of_sorting(values: list[float]) -> None:
    (row,) = one_by_one([(value, 0) for value in values]).settle(START_NS + NS)
    for name, share in (("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99)):
        assert row[name] == pytest.approx(nearest_rank(values, share), rel=0.05)
    assert row["max_ms"] == max(values)


@settings(deadline=None, max_examples=examples(40))
@given(FRAMES)
def test_every_frame_is_in_exactly_one_row_and_the_rows_fit_the_contract(
    frames: list[tuple[float, int]],
) -> None:
    lags = one_by_one(frames)
    rows = lags.take_rows(START_NS + 2 * MINUTE_NS) + lags.settle(START_NS + 10 * MINUTE_NS)
    assert sum(row["frames"] for row in rows) == len(frames)
    assert sum(row["negative"] for row in rows) == sum(lag < 0 for lag, _ in frames)
    assert lags.settle(START_NS + 11 * MINUTE_NS) == []
    good, bad = validate(LAGS, LAGS.rows(rows))
    assert (good.num_rows, bad.num_rows) == (len(rows), 0)


def test_a_minute_is_given_when_it_is_over_and_not_before() -> None:
    lags = one_by_one([(5.0, 0), (7.0, MINUTE_NS)])
    assert lags.take_rows(START_NS + MINUTE_NS - 1) == []
    (row,) = lags.take_rows(START_NS + MINUTE_NS)
    assert row["ts_from"] * 1000 == START_NS
    assert row["ts_knowable_ns"] == START_NS + MINUTE_NS
    (rest,) = lags.settle(START_NS + MINUTE_NS + 5 * NS)
    assert rest["ts_knowable_ns"] == START_NS + MINUTE_NS + 5 * NS


def test_frames_from_the_future_are_counted_apart() -> None:
    lags = one_by_one([(-40.0, 0), (-1.0, 1), (100.0, 2)])
    assert lags.now()["trades"].least_ms == -40.0
    (row,) = lags.settle(START_NS + NS)
    assert (row["frames"], row["negative"], row["max_ms"]) == (3, 2, 100.0)
    (only,) = one_by_one([(-40.0, 0)]).settle(START_NS + NS)
    assert [only[name] for name in ("p50_ms", "p90_ms", "p99_ms", "max_ms")] == [None] * 4


def test_channels_do_not_mix() -> None:
    lags = LatencyTracker("made")
    lags.note("bbo", 10.0, START_NS)
    lags.note_many("trades", np.array([500.0]), np.array([START_NS]))
    rows: list[dict[str, Any]] = lags.take_rows(START_NS + MINUTE_NS)
    assert {row["channel"]: row["max_ms"] for row in rows} == {"bbo": 10.0, "trades": 500.0}
    assert set(lags.now()) == {"bbo", "trades"}, "the last whole minute is shown until the next has frames"
