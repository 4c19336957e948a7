"""Walk-forward folds: train, validation and test windows on the calendar, with purge and embargo.

A fold has three right-open windows of time, in order: train `[a, b)`, valid `[b, c)`, test `[c, d)`. A row belongs to
the window that contains its decision. Tests tile the calendar: with windows of `n` units, they start at every `n`-th
hour, day or week from the UTC epoch (weeks: from Monday, 1970-01-05), whatever the range of the data. So another day of
data adds a fold at most, and moves no other. Two rules apply at every boundary:

- purge: a row of an earlier part is dropped if its label's span ends after the boundary;
- embargo: a row of a later part is dropped if it is decided within `embargo` of the boundary.

Both use the clock and never row counts, so missing rows, several instruments and different densities make no
difference. (M. Lopez de Prado, Advances in Financial Machine Learning, 2018, chapter 7.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

import numpy as np

from storage.clock import DAY_NS, HOUR_NS, NS, iso
from storage.errors import RangeError, SettingsError

CalendarUnit = Literal["hour", "day", "week"]
UNIT_NS: Final[dict[str, int]] = {"hour": HOUR_NS, "day": DAY_NS, "week": 7 * DAY_NS}
# 1970-01-01 was a Thursday.
_ANCHOR_NS: Final[dict[str, int]] = {"hour": 0, "day": 0, "week": 4 * DAY_NS}
_GLYPHS: Final = {"train": "█", "purge": "x", "valid": "▒", "embargo": "·", "test": "▓", "none": " "}


@dataclass(frozen=True, slots=True)
class FoldGeometry:
    """Calendar windows of the folds.

    Args:
        n_folds: the largest number of folds; the newest count, where the range holds more.
        embargo_bars: rows decided within this many bars of a boundary are dropped from the later part.
        unit: `hour`, `day` or `week`, in UTC; weeks start on Monday.
        test_units, valid_units: length of one test and one valid window.
        train_units: least length of an expanding train window, and the length of a rolling one.
        scheme: `expanding` trains on everything before valid; `rolling` on the last `train_units` of it.
    """

    n_folds: int
    embargo_bars: int
    unit: CalendarUnit = "day"
    test_units: int = 1
    valid_units: int = 1
    train_units: int = 1
    scheme: Literal["expanding", "rolling"] = "expanding"

    def __post_init__(self) -> None:
        lengths = (self.n_folds, self.test_units, self.valid_units, self.train_units)
        if min(lengths) < 1 or self.embargo_bars < 0 or self.unit not in UNIT_NS:
            raise SettingsError(
                f"fold geometry {self} is out of range",
                hint=f"n_folds and the units start at 1, embargo_bars at 0; unit is one of: {', '.join(UNIT_NS)}",
            )

    @property
    def unit_ns(self) -> int:
        """Length of the unit."""
        return UNIT_NS[self.unit]

    @property
    def test_ns(self) -> int:
        """Length of a test window."""
        return self.test_units * self.unit_ns

    @property
    def before_test_ns(self) -> int:
        """Time that a fold needs before its test: one valid window and the least train window."""
        return (self.valid_units + self.train_units) * self.unit_ns

    def test_start_ns(self, at_ns: int) -> int:
        """Return the start of the test window that contains a time."""
        return at_ns - (at_ns - _ANCHOR_NS[self.unit]) % self.test_ns


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """Time from `start_ns`, inclusive, to `stop_ns`, exclusive."""

    start_ns: int
    stop_ns: int


@dataclass(frozen=True, slots=True)
class Fold:
    """One train, valid and test triple on the clock; `index` is its place in a night, and its test names it."""

    index: int
    train: TimeSpan
    valid: TimeSpan
    test: TimeSpan
    embargo_ns: int


@dataclass(frozen=True, slots=True)
class SplitRows:
    """Rows of each part of a fold; each (N,) bool, disjoint.

    Args:
        train, valid, test: rows that stay.
        purged, embargoed: rows that a rule dropped, for drawing and counting.
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    purged: np.ndarray
    embargoed: np.ndarray


@dataclass(frozen=True, slots=True)
class Leaks:
    """Counts of leaked rows; all must be 0.

    Args:
        label: rows of an earlier part whose label span or decision reaches past the next part's start.
        embargo: rows of a later part decided within the embargo after its start, or before it.
        shared: rows in two parts.
    """

    label: int
    embargo: int
    shared: int

    @property
    def total(self) -> int:
        """Sum of the counts."""
        return self.label + self.embargo + self.shared


def walk_forward_folds(start_ns: int, stop_ns: int, *, width_ns: int, geometry: FoldGeometry) -> list[Fold]:
    """Return the folds of a range, oldest first: those of the newest `n_folds` tests that are complete.

    Args:
        start_ns: time of the first decision.
        stop_ns: all decisions before it are in the range, with their labels; a test that ends later is left out.
        width_ns: width of a bar, the unit of the embargo.
        geometry: the windows.

    Raises:
        RangeError: no fold fits, or a window is not longer than its embargo.
    """
    embargo_ns = geometry.embargo_bars * width_ns
    shortest_ns = min(geometry.test_units, geometry.valid_units) * geometry.unit_ns
    if shortest_ns <= embargo_ns:
        raise RangeError(
            f"an embargo of {geometry.embargo_bars} bars covers {embargo_ns / HOUR_NS:.1f} hours, and a test or valid "
            f"window has {shortest_ns / HOUR_NS:.1f}",
            hint="lower folds.embargo_bars in the recipe, or use more units or a longer unit",
        )
    last_ns = geometry.test_start_ns(stop_ns) - geometry.test_ns
    tests = [last_ns - back * geometry.test_ns for back in reversed(range(geometry.n_folds))]
    folds: list[Fold] = []
    for test_ns in (at for at in tests if at - geometry.before_test_ns >= start_ns):
        valid_ns = test_ns - geometry.valid_units * geometry.unit_ns
        is_rolling = geometry.scheme == "rolling"
        train_ns = valid_ns - geometry.train_units * geometry.unit_ns if is_rolling else start_ns
        folds.append(
            Fold(
                len(folds),
                TimeSpan(train_ns, valid_ns),
                TimeSpan(valid_ns, test_ns),
                TimeSpan(test_ns, test_ns + geometry.test_ns),
                embargo_ns,
            )
        )
    if not folds:
        raise _no_fold(start_ns, stop_ns, geometry)
    return folds


def _no_fold(start_ns: int, stop_ns: int, geometry: FoldGeometry) -> RangeError:
    least = geometry.train_units + geometry.valid_units + geometry.test_units
    first_ns = geometry.test_start_ns(start_ns + geometry.before_test_ns - 1) + geometry.test_ns
    return RangeError(
        f"{max(stop_ns - start_ns, 0) / HOUR_NS:.1f} hours from {iso(start_ns)} to {iso(stop_ns)} are too few for one "
        f"fold of {least} {geometry.unit}s ({geometry.train_units} train, {geometry.valid_units} valid, "
        f"{geometry.test_units} test); the first would end at {iso(first_ns + geometry.test_ns)}",
        hint="record or import more history, widen --since, or set fewer units or a shorter folds.unit in the recipe",
    )


def split_rows(fold: Fold, decided_ns: np.ndarray, span_end_ns: np.ndarray) -> SplitRows:
    """Assign rows to the parts of a fold.

    Args:
        fold: the windows.
        decided_ns: (N,) int64, time of each row's decision; any order.
        span_end_ns: (N,) int64, time of the last price of each row's label.
    """
    in_train = _within(fold.train, decided_ns)
    in_valid = _within(fold.valid, decided_ns)
    in_test = _within(fold.test, decided_ns)
    purged = (in_train & (span_end_ns > fold.valid.start_ns)) | (
        in_valid & (span_end_ns > fold.test.start_ns)
    )
    early_valid = in_valid & (decided_ns < fold.valid.start_ns + fold.embargo_ns)
    early_test = in_test & (decided_ns < fold.test.start_ns + fold.embargo_ns)
    embargoed = early_valid | early_test
    return SplitRows(
        train=in_train & ~purged,
        valid=in_valid & ~purged & ~embargoed,
        test=in_test & ~embargoed,
        purged=purged,
        embargoed=embargoed & ~purged,
    )


def count_leaks(
    fold: Fold,
    parts: SplitRows,
    decided_ns: np.ndarray,
    span_end_ns: np.ndarray,
    *,
    rows: np.ndarray | None = None,
) -> Leaks:
    """Count the leaked rows of a fold's parts, from the rows' own times and independently of the split.

    A row's features end at its decision and its label at the end of its span, so a row reaches to the later of both.

    Args:
        fold: the windows.
        parts: the rows, (N,) bool each, or the steps that have rows.
        decided_ns, span_end_ns: (N,) int64, as for `split_rows`.
        rows: (N,) int64, number of rows of each step (default: 1).
    """
    reach_ns = np.maximum(decided_ns, span_end_ns)
    at_valid, at_test = fold.valid.start_ns, fold.test.start_ns
    label = (parts.train & (reach_ns > at_valid)) | ((parts.train | parts.valid) & (reach_ns > at_test))
    embargo = (parts.valid & (decided_ns < at_valid + fold.embargo_ns)) | (
        parts.test & (decided_ns < at_test + fold.embargo_ns)
    )
    times_used = parts.train.astype(np.int8) + parts.valid + parts.test
    counts = np.ones(len(decided_ns), dtype=np.int64) if rows is None else rows
    return Leaks(*(int(counts[leaked].sum()) for leaked in (label, embargo, times_used > 1)))


def draw_folds(folds: Sequence[Fold], *, purge_ns: int, columns: int = 64) -> str:
    """Return the folds as text, one line each, with a legend and the dates of the tests.

    Args:
        folds: oldest first.
        purge_ns: the longest label span, which is the time that a purge removes before a boundary.
        columns: width of the time axis; a purge or embargo shorter than a column is drawn as one column.
    """
    start_ns, stop_ns = min(f.train.start_ns for f in folds), max(f.test.stop_ns for f in folds)
    column_ns = (stop_ns - start_ns) / columns
    middles = start_ns + (np.arange(columns) + 0.5) * column_ns
    lines = [f"fold  {_day(start_ns)}{_day(stop_ns):>{columns - 11}}  test"]
    for fold in folds:
        cells = np.full(columns, _GLYPHS["none"])
        for name in ("train", "valid", "test"):
            cells[_within(getattr(fold, name), middles)] = _GLYPHS[name]
        for boundary_ns in (fold.valid.start_ns, fold.test.start_ns):
            at = int((boundary_ns - start_ns) / column_ns)
            cells[at - max(1, int(purge_ns / column_ns)) : at] = _GLYPHS["purge"]
            if fold.embargo_ns:
                cells[at : at + max(1, int(fold.embargo_ns / column_ns))] = _GLYPHS["embargo"]
        dates = f"{_day(fold.test.start_ns)} to {_day(fold.test.stop_ns)}"
        lines.append(f"{fold.index:>4}  {''.join(cells)}  {dates}")
    legend = "  ".join(f"{glyph} {name}" for name, glyph in _GLYPHS.items() if name != "none")
    return "\n".join([*lines, f"      {legend}"])


def _within(span: TimeSpan, at_ns: np.ndarray) -> np.ndarray:
    is_within: np.ndarray = (at_ns >= span.start_ns) & (at_ns < span.stop_ns)
    return is_within


def _day(at_ns: int) -> str:
    return f"{datetime.fromtimestamp(at_ns // NS, UTC):%m-%d %H:%M}"
