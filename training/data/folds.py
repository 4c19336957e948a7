"""Walk-forward folds: train, validation and test windows on the clock, with purge and embargo.

A fold has three right-open windows of time, in order: train `[a, b)`, valid `[b, c)`, test `[c, d)`. A row belongs to
the window that contains its decision. Two rules apply at every boundary:

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

from storage.clock import NS, floor_ns, iso
from storage.errors import RangeError, SettingsError

_GLYPHS: Final = {"train": "█", "purge": "x", "valid": "▒", "embargo": "·", "test": "▓", "none": " "}


@dataclass(frozen=True, slots=True)
class FoldGeometry:
    """Number and lengths of the folds of a range of time.

    Args:
        n_folds: number of folds; their tests are contiguous and end with the range.
        test_share, valid_share: length of one test and one valid window, as shares of the whole range.
        embargo_bars: rows decided within this many bars of a boundary are dropped from the later part.
        scheme: `expanding` trains on everything before valid; `rolling` on the last `train_share` of the range.
        train_share: length of a rolling train window; expanding folds start with at least this much.
    """

    n_folds: int
    test_share: float
    valid_share: float
    embargo_bars: int
    scheme: Literal["expanding", "rolling"] = "expanding"
    train_share: float = 0.2

    def __post_init__(self) -> None:
        if self.n_folds < 1 or self.embargo_bars < 0 or min(self.test_share, self.valid_share) <= 0:
            raise SettingsError(f"fold geometry {self} is out of range", hint="see docs/glossary.md: fold")
        taken = self.n_folds * self.test_share + self.valid_share + self.train_share
        if taken > 1 + 1e-9:
            raise SettingsError(
                f"folds take {taken:.0%} of the range: {self.n_folds} tests, one valid, the least train",
                hint="lower n_folds, test_share, valid_share or train_share until they fit in 100%",
            )


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """Time from `start_ns`, inclusive, to `stop_ns`, exclusive."""

    start_ns: int
    stop_ns: int


@dataclass(frozen=True, slots=True)
class Fold:
    """One train, valid and test triple on the clock."""

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
    """Return the folds of a range, oldest first, with every boundary on the bars' grid.

    Raises:
        RangeError: a window would not be longer than its embargo.
    """
    length_ns = stop_ns - start_ns
    embargo_ns = geometry.embargo_bars * width_ns
    test_ns = floor_ns(int(length_ns * geometry.test_share), width_ns)
    valid_ns = floor_ns(int(length_ns * geometry.valid_share), width_ns)
    if length_ns <= 0 or min(test_ns, valid_ns) <= embargo_ns:
        raise RangeError(
            f"{max(length_ns, 0) / NS / 3600:.1f} hours from {iso(start_ns)} are too few for "
            f"{geometry.n_folds} folds with an embargo of {embargo_ns / NS / 60:.0f} minutes",
            hint="record or import more history, widen --since, or lower folds.embargo_bars in the recipe",
        )
    folds = []
    for index in range(geometry.n_folds):
        test_start = stop_ns - (geometry.n_folds - index) * test_ns
        valid_start = test_start - valid_ns
        train_ns = floor_ns(int(length_ns * geometry.train_share), width_ns)
        train_start = max(start_ns, valid_start - train_ns) if geometry.scheme == "rolling" else start_ns
        folds.append(
            Fold(
                index,
                TimeSpan(train_start, valid_start),
                TimeSpan(valid_start, test_start),
                TimeSpan(test_start, test_start + test_ns),
                embargo_ns,
            )
        )
    return folds


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


def count_leaks(fold: Fold, parts: SplitRows, decided_ns: np.ndarray, span_end_ns: np.ndarray) -> Leaks:
    """Count the leaked rows of a fold's parts, from the rows' own times and independently of the split.

    A row's features end at its decision and its label at the end of its span, so a row reaches to the later of both.
    """
    reach_ns = np.maximum(decided_ns, span_end_ns)
    at_valid, at_test = fold.valid.start_ns, fold.test.start_ns
    label = (parts.train & (reach_ns > at_valid)) | ((parts.train | parts.valid) & (reach_ns > at_test))
    embargo = (parts.valid & (decided_ns < at_valid + fold.embargo_ns)) | (
        parts.test & (decided_ns < at_test + fold.embargo_ns)
    )
    times_used = parts.train.astype(np.int8) + parts.valid + parts.test
    return Leaks(int(label.sum()), int(embargo.sum()), int((times_used > 1).sum()))


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
