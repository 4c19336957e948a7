"""Walk-forward folds: purge, embargo, and the counter of leaked rows."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
GEOMETRY = FoldGeometry(n_folds=3, test_share=0.15, valid_share=0.15, embargo_bars=20)


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
        test_share=draw_from(st.floats(0.05, 0.15)),
        valid_share=draw_from(st.floats(0.05, 0.15)),
        embargo_bars=draw_from(st.integers(0, 40)),
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


def test_tests_are_contiguous_and_expanding_trains_start_at_the_beginning() -> None:
    folds = walk_forward_folds(0, DAY_NS, width_ns=MINUTE_NS, geometry=GEOMETRY)
    assert [fold.train.start_ns for fold in folds] == [0, 0, 0]
    assert folds[-1].test.stop_ns == DAY_NS
    assert all(a.test.stop_ns == b.test.start_ns for a, b in pairwise(folds))
    assert all(f.train.stop_ns == f.valid.start_ns and f.valid.stop_ns == f.test.start_ns for f in folds)


def test_rolling_train_has_one_length() -> None:
    folds = walk_forward_folds(0, DAY_NS, width_ns=MINUTE_NS, geometry=replace(GEOMETRY, scheme="rolling"))
    assert {fold.train.stop_ns - fold.train.start_ns for fold in folds} == {288 * MINUTE_NS}


def test_drawing_shows_every_part() -> None:
    folds = walk_forward_folds(0, DAY_NS, width_ns=MINUTE_NS, geometry=GEOMETRY)
    assert draw_folds(folds, purge_ns=6 * MINUTE_NS, columns=40).splitlines() == [
        "fold  01-01 00:00                  01-02 00:00  test",
        "   0  ███████████████x·▒▒▒▒x·▓▓▓▓▓              01-01 13:12 to 01-01 16:48",
        "   1  █████████████████████x·▒▒▒▒x·▓▓▓▓▓        01-01 16:48 to 01-01 20:24",
        "   2  ███████████████████████████x·▒▒▒▒x·▓▓▓▓▓  01-01 20:24 to 01-02 00:00",
        "      █ train  x purge  ▒ valid  · embargo  ▓ test",
    ]


def test_short_range_is_refused_with_the_length_it_has() -> None:
    with pytest.raises(RangeError, match=r"1\.0 hours .* too few for 3 folds"):
        walk_forward_folds(0, 60 * MINUTE_NS, width_ns=MINUTE_NS, geometry=GEOMETRY)


def test_geometry_that_does_not_fit_is_refused() -> None:
    with pytest.raises(SettingsError, match="folds take 125% of the range"):
        FoldGeometry(n_folds=9, test_share=0.1, valid_share=0.15, embargo_bars=1)
