"""Walk-forward folds: purge, embargo, and the counter of leaked rows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.clock import iso
from storage.errors import RangeError, SettingsError
from tests.plugins.property_tests import examples
from training.data.folds import (
    Fold,
    FoldGeometry,
    SplitRows,
    count_leaks,
    draw_folds,
    split_rows,
    walk_forward_folds,
)

MINUTE_NS = 60 * 10**9
DAY_NS = 1440 * MINUTE_NS
HOUR_NS = 60 * MINUTE_NS
GEOMETRY = FoldGeometry(n_folds=3, embargo_bars=20, unit="hour", test_units=4, valid_units=3, train_units=5)
MONDAY_NS = 4 * DAY_NS


def brute_force_leaks(fold: Fold, parts: SplitRows, decided_ns: np.ndarray, span_end_ns: np.ndarray) -> int:
    """Count leaked rows one at a time, without the code under test."""
    leaking = set()
    for i in range(len(decided_ns)):
        decided, end = int(decided_ns[i]), int(span_end_ns[i])
        if int(parts.train[i]) + int(parts.valid[i]) + int(parts.test[i]) > 1:
            leaking.add(("shared", i))
        for is_in, later_starts in (
            (parts.train[i], [fold.valid.start_ns, fold.test.start_ns]),
            (parts.valid[i], [fold.test.start_ns]),
        ):
            if is_in and any(max(decided, end) > start for start in later_starts):
                leaking.add(("label", i))
        for is_in, start in ((parts.valid[i], fold.valid.start_ns), (parts.test[i], fold.test.start_ns)):
            if is_in and decided < start + fold.embargo_ns:
                leaking.add(("embargo", i))
    return len(leaking)


@st.composite
def rows_and_folds(draw_from: st.DrawFn) -> tuple[list[Fold], np.ndarray, np.ndarray]:
    """Draw rows at irregular times with labels of unequal length, and folds over their range."""
    geometry = FoldGeometry(
        n_folds=draw_from(st.integers(1, 4)),
        embargo_bars=draw_from(st.integers(0, 40)),
        unit="hour",
        test_units=draw_from(st.integers(1, 4)),
        valid_units=draw_from(st.integers(1, 4)),
        train_units=draw_from(st.integers(1, 4)),
        scheme=draw_from(st.sampled_from(["expanding", "rolling"])),
    )
    folds = walk_forward_folds(0, DAY_NS, width_ns=MINUTE_NS, geometry=geometry)
    n = draw_from(st.integers(1, 120))
    minutes = draw_from(st.lists(st.floats(0, 1440), min_size=n, max_size=n))
    spans = draw_from(st.lists(st.floats(0.1, 120), min_size=n, max_size=n))
    decided = (np.array(minutes) * MINUTE_NS).astype(np.int64)
    return folds, decided, decided + (np.array(spans) * MINUTE_NS).astype(np.int64)


@settings(max_examples=examples(60), deadline=None)
@given(rows_and_folds())
def test_no_row_leaks_whatever_the_rows(case: tuple[list[Fold], np.ndarray, np.ndarray]) -> None:
    folds, decided, end = case
    for fold in folds:
        parts = split_rows(fold, decided, end)
        assert brute_force_leaks(fold, parts, decided, end) == 0
        assert count_leaks(fold, parts, decided, end).total == 0


@settings(max_examples=examples(60), deadline=None)
@given(rows_and_folds())
def test_every_row_in_a_window_stays_or_has_a_reason(case: tuple[list[Fold], np.ndarray, np.ndarray]) -> None:
    folds, decided, end = case
    for fold in folds:
        parts = split_rows(fold, decided, end)
        inside = (decided >= fold.train.start_ns) & (decided < fold.test.stop_ns)
        assigned = parts.train.astype(int) + parts.valid + parts.test + parts.purged + parts.embargoed
        assert np.array_equal(assigned, inside.astype(int))
        # A row that breaks no rule is not dropped.
        reaches = np.where(decided < fold.valid.start_ns, end > fold.valid.start_ns, end > fold.test.start_ns)
        assert not (parts.purged & ~reaches).any()


@settings(max_examples=examples(60), deadline=None)
@given(rows_and_folds(), st.integers(0, 2**32))
def test_counter_agrees_with_brute_force_on_broken_splits(
    case: tuple[list[Fold], np.ndarray, np.ndarray], seed: int
) -> None:
    folds, decided, end = case
    rng = np.random.default_rng(seed)
    for fold in folds:
        n = len(decided)
        broken = SplitRows(
            *(rng.random(n) < 0.5 for _ in range(3)), purged=np.zeros(n, bool), embargoed=np.zeros(n, bool)
        )
        assert count_leaks(fold, broken, decided, end).total == brute_force_leaks(fold, broken, decided, end)


def one_fold() -> tuple[Fold, np.ndarray, np.ndarray, SplitRows]:
    fold = walk_forward_folds(0, DAY_NS, width_ns=MINUTE_NS, geometry=GEOMETRY)[-1]
    decided = np.arange(0, DAY_NS, MINUTE_NS, dtype=np.int64) + 2 * 10**9
    end = decided + 6 * MINUTE_NS
    return fold, decided, end, split_rows(fold, decided, end)


def test_planted_label_leak_is_found() -> None:
    fold, decided, end, parts = one_fold()
    last = np.flatnonzero(decided < fold.valid.start_ns)[-1]
    assert parts.purged[last]
    parts.train[last] = True
    assert count_leaks(fold, parts, decided, end).label == 1
    assert brute_force_leaks(fold, parts, decided, end) == 1


def test_planted_embargo_leak_is_found() -> None:
    fold, decided, end, parts = one_fold()
    first = np.flatnonzero(decided >= fold.test.start_ns)[0]
    assert parts.embargoed[first]
    parts.test[first] = True
    assert count_leaks(fold, parts, decided, end).embargo == 1
    assert brute_force_leaks(fold, parts, decided, end) == 1


def test_planted_shared_row_is_found() -> None:
    fold, decided, end, parts = one_fold()
    row = np.flatnonzero(parts.valid)[0]
    parts.train[row] = True
    leaks = count_leaks(fold, parts, decided, end)
    assert leaks.shared == 1
    assert leaks.label == 1
    assert brute_force_leaks(fold, parts, decided, end) == 2


def test_purge_follows_the_clock_when_rows_are_missing() -> None:
    fold, decided, end, parts = one_fold()
    kept = np.random.default_rng(0).random(len(decided)) < 0.2
    thin = split_rows(fold, decided[kept], end[kept])
    for name in ("train", "valid", "test"):
        assert np.array_equal(getattr(thin, name), getattr(parts, name)[kept])


@st.composite
def geometries(draw_from: st.DrawFn) -> FoldGeometry:
    return FoldGeometry(
        n_folds=draw_from(st.integers(1, 6)),
        embargo_bars=draw_from(st.integers(0, 59)),
        unit=draw_from(st.sampled_from(["hour", "day", "week"])),
        test_units=draw_from(st.integers(1, 5)),
        valid_units=draw_from(st.integers(1, 3)),
        train_units=draw_from(st.integers(1, 4)),
        scheme=draw_from(st.sampled_from(["expanding", "rolling"])),
    )


ranges = st.tuples(st.integers(-(10**6), 3 * 10**7), st.integers(0, 2_000), st.integers(0, 10**5))
"""Start in minutes, hours beyond one fold, and minutes of further data."""


def folds_of(geometry: FoldGeometry, start: int, hours: int, more: int = 0) -> list[Fold]:
    """Return the folds of a range that has room for at least one, wherever the calendar's windows begin."""
    start_ns = start * MINUTE_NS
    stop_ns = start_ns + geometry.before_test_ns + 2 * geometry.test_ns + hours * HOUR_NS
    return walk_forward_folds(start_ns, stop_ns + more * MINUTE_NS, width_ns=MINUTE_NS, geometry=geometry)


def windows(fold: Fold) -> tuple[object, ...]:
    return fold.train, fold.valid, fold.test, fold.embargo_ns


@settings(max_examples=examples(100), deadline=None)
@given(geometries(), ranges)
def test_more_data_moves_no_window_and_only_adds_newer_folds(
    geometry: FoldGeometry, span: tuple[int, int, int]
) -> None:
    start, hours, more = span
    before, after = folds_of(geometry, start, hours), folds_of(geometry, start, hours, more)
    both = {fold.test for fold in before} & {fold.test for fold in after}
    assert [windows(f) for f in before if f.test in both] == [windows(f) for f in after if f.test in both]
    if new := [fold for fold in after if fold.test not in both]:
        assert min(fold.test.start_ns for fold in new) >= before[-1].test.stop_ns
    assert len(after) >= len(before)


@settings(max_examples=examples(100), deadline=None)
@given(geometries(), ranges)
def test_windows_have_whole_units_of_the_calendar_within_the_range(
    geometry: FoldGeometry, span: tuple[int, int, int]
) -> None:
    start, hours, _ = span
    folds = folds_of(geometry, start, hours)
    unit_ns = {"hour": HOUR_NS, "day": DAY_NS, "week": 7 * DAY_NS}[geometry.unit]
    first_ns = MONDAY_NS if geometry.unit == "week" else 0
    stop_ns = start * MINUTE_NS + geometry.before_test_ns + 2 * geometry.test_ns + hours * HOUR_NS
    assert [fold.index for fold in folds] == list(range(len(folds)))
    assert 1 <= len(folds) <= geometry.n_folds
    for fold in folds:
        assert (fold.test.start_ns - first_ns) % (geometry.test_units * unit_ns) == 0
        assert fold.test.stop_ns - fold.test.start_ns == geometry.test_units * unit_ns
        assert fold.valid.stop_ns - fold.valid.start_ns == geometry.valid_units * unit_ns
        assert start * MINUTE_NS <= fold.train.start_ns
        assert fold.train.stop_ns - fold.train.start_ns >= geometry.train_units * unit_ns
        assert fold.train.stop_ns == fold.valid.start_ns
        assert fold.valid.stop_ns == fold.test.start_ns
        assert fold.test.stop_ns <= stop_ns
        if geometry.scheme == "rolling":
            assert fold.train.stop_ns - fold.train.start_ns == geometry.train_units * unit_ns
        else:
            assert fold.train.start_ns == start * MINUTE_NS
    assert all(a.test.stop_ns == b.test.start_ns for a, b in pairwise(folds))
    # Nothing that fits is left out: neither a newer test, nor an older one while there is room for more folds.
    assert folds[-1].test.stop_ns + geometry.test_ns > stop_ns
    older_ns = folds[0].test.start_ns - geometry.test_ns - geometry.before_test_ns
    assert len(folds) == geometry.n_folds or older_ns < start * MINUTE_NS


@settings(max_examples=examples(60), deadline=None)
@given(geometries(), ranges)
def test_range_without_a_fold_names_the_time_at_which_the_first_ends(
    geometry: FoldGeometry, span: tuple[int, int, int]
) -> None:
    start_ns = span[0] * MINUTE_NS
    fold = folds_of(replace(geometry, n_folds=10_000), span[0], span[1])[0]
    with pytest.raises(RangeError, match="are too few for one fold of") as caught:
        walk_forward_folds(start_ns, fold.test.stop_ns - 1, width_ns=MINUTE_NS, geometry=geometry)
    assert f"the first would end at {iso(fold.test.stop_ns)}" in caught.value.message
    exact = walk_forward_folds(start_ns, fold.test.stop_ns, width_ns=MINUTE_NS, geometry=geometry)
    assert [windows(found) for found in exact] == [windows(fold)]


def test_weeks_start_on_monday_and_days_at_midnight_utc() -> None:
    for unit, weekday in (("week", 0), ("day", None)):
        geometry = FoldGeometry(n_folds=3, embargo_bars=1, unit=unit, test_units=1)  # type: ignore[arg-type]
        for fold in folds_of(geometry, start=29_000_123, hours=500):
            begins = datetime.fromtimestamp(fold.test.start_ns / 1e9, UTC)
            assert (begins.hour, begins.minute) == (0, 0)
            assert weekday in (None, begins.weekday())


def test_one_more_day_of_258_moves_no_test() -> None:
    """As shares of the range, the five tests moved by 14, 16, 18, 20 and 22 hours."""
    geometry = FoldGeometry(n_folds=5, embargo_bars=6, unit="week", train_units=2)
    nights = [
        walk_forward_folds(0, days * DAY_NS, width_ns=HOUR_NS, geometry=geometry) for days in (258, 259)
    ]
    assert [windows(fold) for fold in nights[0]] == [windows(fold) for fold in nights[1]]


def test_rolling_train_has_one_length() -> None:
    folds = walk_forward_folds(0, DAY_NS, width_ns=MINUTE_NS, geometry=replace(GEOMETRY, scheme="rolling"))
    assert {fold.train.stop_ns - fold.train.start_ns for fold in folds} == {5 * HOUR_NS}


def test_drawing_shows_every_part() -> None:
    folds = walk_forward_folds(0, DAY_NS, width_ns=MINUTE_NS, geometry=GEOMETRY)
    assert draw_folds(folds, purge_ns=6 * MINUTE_NS, columns=40).splitlines() == [
        "fold  01-01 00:00                  01-02 00:00  test",
        "   0  ██████████████x·▒▒▒x·▓▓▓▓▓▓               01-01 12:00 to 01-01 16:00",
        "   1  ████████████████████x·▒▒▒x·▓▓▓▓▓▓         01-01 16:00 to 01-01 20:00",
        "   2  ███████████████████████████x·▒▒▒x·▓▓▓▓▓▓  01-01 20:00 to 01-02 00:00",
        "      █ train  x purge  ▒ valid  · embargo  ▓ test",
    ]


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"n_folds": 0}, "is out of range"), ({"unit": "month"}, "unit is one of: hour, day, week")],
)
def test_geometry_out_of_range_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        replace(GEOMETRY, **changes)


def test_embargo_longer_than_a_window_is_refused() -> None:
    with pytest.raises(
        RangeError, match=r"embargo of 200 bars covers 3\.3 hours, and a test or valid window has 3\.0"
    ):
        walk_forward_folds(0, DAY_NS, width_ns=MINUTE_NS, geometry=replace(GEOMETRY, embargo_bars=200))
