"""Predictions that were made elsewhere: the rows of a file, and the rows of a night that they belong to.

A file is checked before anything is built. Rows that cannot be meant (an unknown instrument, a time between bars, a
value that is not finite, two values for one row) are errors. Rows on which no model of the night decides, such as those
of train windows, are counted and left out; the counts are part of the result. A row that is missing, or has null, is no
opinion, and no opinion opens no position.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors
import safetensors.numpy

from features.panel.panel import Panel
from storage.atomic_write import write_atomic
from storage.clock import iso
from storage.errors import CaptureError, InstrumentError, RangeError
from training.data.folds import Fold, split_rows
from training.night.artifacts import NightData, Predictions
from training.night.fold_training import fold_rows
from training.recipe import Recipe

LEAST_COVERED: Final = 0.5
"""Share of the test rows, from the first fold with an opinion to the last, that must have one."""
OUTSIDE: Final = "outside.safetensors"
"""File of the rows in the folder of a judgement."""
NO_FOLD: Final = -1
"""Fold of a row of a file that has no such column: its time says which test it belongs to."""


@dataclass(frozen=True, slots=True)
class OutsidePredictions:
    """Rows of predictions, in the order of fold, instrument and time.

    Args:
        name: of the predictions; all of one name are one lineage.
        instruments: ids, or names as the venue has them.
        instrument: (N,) int32, place in `instruments`.
        ts_ns: (N,) int64, open of the bar, or time of the decision.
        fold: (N,) int32, index of the fold whose model predicted the row, or `NO_FOLD`.
        value: (N,) float64, NaN: no opinion.
        is_open: times are opens.
        is_return: values are log returns from entry to exit; else they are in units of the recipe's label.
    """

    name: str
    instruments: tuple[str, ...]
    instrument: np.ndarray
    ts_ns: np.ndarray
    fold: np.ndarray
    value: np.ndarray
    is_open: bool
    is_return: bool

    @property
    def content(self) -> str:
        """A hash of the rows; the order and the format of the file do not matter."""
        return hashlib.sha256(self._to_bytes()).hexdigest()

    def sorted(self) -> OutsidePredictions:
        """Return the rows in order, with the instruments sorted."""
        names = sorted(set(self.instruments))
        place = np.array([names.index(name) for name in self.instruments], dtype=np.int32)[self.instrument]
        order = np.lexsort((self.value, self.ts_ns, place, self.fold))
        return replace(
            self,
            instruments=tuple(names),
            instrument=place[order],
            **{name: getattr(self, name)[order] for name in ("ts_ns", "fold", "value")},
        )

    def write(self, path: Path) -> None:
        """Write the rows to a file of the night, whose folder is made where it is missing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, self._to_bytes())

    @classmethod
    def read(cls, path: Path) -> OutsidePredictions:
        """Return the rows that `write` wrote."""
        with safetensors.safe_open(path, framework="numpy") as opened:
            facts = json.loads(opened.metadata()["facts"])
            arrays = {name: opened.get_tensor(name) for name in ("instrument", "ts_ns", "fold", "value")}
        return cls(**facts | {"instruments": tuple(facts["instruments"])}, **arrays)

    def _to_bytes(self) -> bytes:
        facts = {name: getattr(self, name) for name in ("name", "instruments", "is_open", "is_return")}
        arrays = {name: getattr(self, name) for name in ("instrument", "ts_ns", "fold", "value")}
        return safetensors.numpy.save(arrays, metadata={"facts": json.dumps(facts, sort_keys=True)})

    def describe(self, row: int) -> str:
        """Return instrument and time of a row as text."""
        return f"{self.instruments[self.instrument[row]]} at {iso(int(self.ts_ns[row]))}"


@dataclass(frozen=True, slots=True)
class BarGrid:
    """The bars of a night, to which predictions belong.

    Args:
        instruments: (S,) ids.
        since_ns: open of the first bar.
        n_steps: T.
        width_ns: width of a bar.
        grace_ns: from a bar's close to the decision about it.
    """

    instruments: tuple[str, ...]
    since_ns: int
    n_steps: int
    width_ns: int
    grace_ns: int

    @classmethod
    def of(cls, panel: Panel, *, grace_ns: int) -> BarGrid:
        """Return the bars of a panel."""
        return cls(
            panel.instruments, int(panel.ts_open_ns[0]), panel.n_steps, panel.width_ns, grace_ns=grace_ns
        )


@dataclass(frozen=True, slots=True)
class PlacedRows:
    """Rows of predictions on the bars of a night, one per fold, instrument and step.

    Args:
        instrument, step: (N,) int64; a step outside of `[0, T)` lies outside of the night.
        fold: (N,) int32.
        value: (N,) float64, as in the file; NaN: no opinion.
        repeated: rows of the file that repeated an equal one.
    """

    instrument: np.ndarray
    step: np.ndarray
    fold: np.ndarray
    value: np.ndarray
    repeated: int


@dataclass(frozen=True, slots=True)
class FoldPredictions:
    """Predictions of one fold, in units of the label.

    Args:
        fold: the fold.
        test, valid: rows with an opinion.
        test_rows: rows on which the night's models decide.
        steps: (M,) steps of these rows, ascending.
        train_rows, valid_rows: labelled rows that choose and train its models.
    """

    fold: Fold
    test: Predictions
    valid: Predictions
    test_rows: int
    steps: np.ndarray
    train_rows: int
    valid_rows: int


def place_rows(outside: OutsidePredictions, grid: BarGrid) -> PlacedRows:
    """Return the rows on the bars of a night.

    Raises:
        InstrumentError: the night has no such instrument, or a name stands for several of its instruments.
        CaptureError: a time is not that of a bar, or one row has two values.
    """
    instrument = np.array(_places(outside.instruments, grid.instruments))[outside.instrument]
    since_open = outside.ts_ns - grid.since_ns
    step = since_open // grid.width_ns
    if outside.is_open:
        wrong, rule = since_open % grid.width_ns != 0, "the open of a bar"
    else:
        # A decision is taken between the close of its bar and the grace; the bar closed at the last boundary.
        step -= 1
        wrong = since_open % grid.width_ns > min(grid.grace_ns, grid.width_ns - 1)
        rule = f"between the close of a bar and {grid.grace_ns / 1e9:g} s later, when a live system decides"
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise CaptureError(
            f"{int(wrong.sum())} of {len(step)} predictions have a time that is not {rule}; the first: "
            f"{outside.describe(first)}",
            hint=f"bars are {grid.width_ns / 1e9:g} s wide, from the UTC epoch; name the column ts_open for opens and "
            "ts_decided for decisions",
        )
    order = np.lexsort((step, instrument, outside.fold))
    key = np.stack([outside.fold[order], instrument[order], step[order]])
    again = np.concatenate([[False], (np.diff(key, axis=1) == 0).all(axis=0)])
    value = outside.value[order]
    differ = again & ~(np.isclose(value, np.roll(value, 1), rtol=0, atol=0, equal_nan=True))
    if differ.any():
        first = int(order[np.flatnonzero(differ)[0]])
        raise CaptureError(
            f"{int(differ.sum())} rows have more than one prediction; the first: {outside.describe(first)}",
            hint="write one row per instrument and time, or name the fold of each in column fold",
        )
    kept = order[~again]
    return PlacedRows(
        instrument[kept], step[kept], outside.fold[kept], outside.value[kept], repeated=int(again.sum())
    )


def _places(names: Sequence[str], ids: Sequence[str]) -> list[int]:
    """Return the place of each name among the ids; a name is an id, or an id's last part where one id has it."""
    by_symbol: dict[str, list[int]] = {}
    for place, identity in enumerate(ids):
        by_symbol.setdefault(identity.split("|")[-1], []).append(place)
    found, unknown = [], []
    for name in names:
        places = [ids.index(name)] if name in ids else by_symbol.get(name, [])
        if len(places) > 1:
            raise InstrumentError(
                f"{name!r} is {len(places)} instruments: {', '.join(ids[place] for place in places)}",
                hint="write the id in full",
            )
        if places:
            found.append(places[0])
        else:
            unknown.append(name)
    if unknown:
        near = difflib.get_close_matches(unknown[0], [*by_symbol, *ids], n=1, cutoff=0.0)
        raise InstrumentError(
            f"{len(unknown)} instruments of the predictions have no bars in this range and recipe: "
            f"{', '.join(map(repr, unknown[:3]))}",
            hint=f"the nearest is {near[0]}; leave the others out, or change --since, --until or the recipe's "
            "instruments",
        )
    return found


def match_folds(
    outside: OutsidePredictions, data: NightData, folds: Sequence[Fold], recipe: Recipe, *, grace_ns: int
) -> tuple[list[FoldPredictions], dict[str, int]]:
    """Return the predictions of each fold from the first with an opinion on its test to the last, and counts.

    Counts: `rows` of the file, `repeated`, `no_opinion` (null), `outside` (in no test; or with column `fold` in neither
    the test nor the valid window of that fold), `undecided` (in a window, on a row on which the night's models do not
    decide: in an embargo, purged, not observed in time, or without any feature), `valid`, `test` (opinions that are
    judged), `test_rows` (all of these folds) and `missing` (without an opinion).

    Raises:
        CaptureError: column `fold` names a fold that the night does not have.
        RangeError: no opinion is on a test row, or fewer than `LEAST_COVERED` of the test rows have one.
    """
    placed = place_rows(outside, BarGrid.of(data.panel, grace_ns=grace_ns))
    indices = [fold.index for fold in folds]
    if unknown := sorted(set(np.unique(placed.fold).tolist()) - {NO_FOLD, *indices}):
        raise CaptureError(
            f"column fold names {', '.join(map(str, unknown[:5]))}, and the folds are {indices}",
            hint="judge with the --since, --until and --at of the night whose folds they are, or leave the column out",
        )
    counts = dict.fromkeys(("no_opinion", "outside", "undecided", "valid", "test", "test_rows", "missing"), 0)
    counts |= {"rows": len(outside.ts_ns), "repeated": placed.repeated}
    has_opinion = np.isfinite(placed.value)
    counts["no_opinion"] = int((~has_opinion).sum())
    used = np.zeros(len(placed.step), dtype=bool)
    found = []
    for fold in folds:
        parts = split_rows(fold, data.labels.ts_decided_ns, data.labels.ts_span_end_ns)
        rows = fold_rows(data, parts, recipe)
        test, in_test = _pick(placed, has_opinion, fold, rows.test.numpy(), data, outside)
        valid, in_valid = _pick(placed, has_opinion, fold, rows.validated.numpy(), data, outside, named=True)
        used |= in_test | in_valid
        steps = np.unique(rows.test.numpy() % data.panel.n_steps)
        found.append(
            FoldPredictions(fold, test, valid, len(rows.test), steps, len(rows.train), len(rows.valid))
        )
    in_window = _in_windows(placed, data, folds)
    counts["outside"] = int((has_opinion & ~in_window).sum())
    counts["undecided"] = int((has_opinion & in_window & ~used).sum())
    counts["valid"] = sum(len(part.valid.step) for part in found)
    covered = [number for number, part in enumerate(found) if len(part.test.step)]
    if covered:
        found = found[covered[0] : covered[-1] + 1]
    counts["test"] = sum(len(part.test.step) for part in found)
    counts["test_rows"] = sum(part.test_rows for part in found)
    counts["missing"] = counts["test_rows"] - counts["test"]
    _refuse_sparse(counts, folds, covered)
    return found, counts


def _refuse_sparse(counts: Mapping[str, int], folds: Sequence[Fold], covered: Sequence[int]) -> None:
    tests = f"{iso(folds[0].test.start_ns)} to {iso(folds[-1].test.stop_ns)}"
    if not covered:
        raise RangeError(
            f"none of {counts['rows']} predictions is on a test row; the tests are decided from {tests}",
            hint="predict the rows of home.night(...).fold(k).dataset('test'), or change --since and --until",
        )
    if counts["test"] < LEAST_COVERED * counts["test_rows"]:
        raise RangeError(
            f"{counts['test']} of {counts['test_rows']} test rows have a prediction, at least {LEAST_COVERED:.0%} must",
            hint="write 0 where the model expects no move; for some instruments only, judge with a recipe that lists "
            "them",
        )


def _pick(
    placed: PlacedRows,
    has_opinion: np.ndarray,
    fold: Fold,
    rows: np.ndarray,
    data: NightData,
    outside: OutsidePredictions,
    *,
    named: bool = False,
) -> tuple[Predictions, np.ndarray]:
    """Return the opinions on some rows of a fold, by row number, and which rows of the file they are.

    Args:
        placed: rows of the file.
        has_opinion: which of them have a value.
        fold: whose rows.
        rows: (M,) row numbers, ascending.
        data: labels and scale.
        outside: says the unit.
        named: only rows of the file that name the fold.
    """
    n_steps = data.panel.n_steps
    number = placed.instrument * n_steps + placed.step
    inside = (placed.step >= 0) & (placed.step < n_steps) & has_opinion
    mine = inside & ((placed.fold == fold.index) | ((placed.fold == NO_FOLD) & (not named)))
    if len(rows):
        at = np.minimum(np.searchsorted(rows, number), len(rows) - 1)
        mine &= rows[at] == number
    else:
        mine &= False
    place = np.flatnonzero(mine)
    place = place[np.argsort(number[place], kind="stable")]
    index = number[place]
    value = placed.value[place]
    if outside.is_return:
        value = value / data.labels.scale.flatten().numpy()[index]
    label = np.where(
        data.labels.mask.flatten().numpy()[index], data.labels.label.flatten().numpy()[index], np.nan
    )
    return (
        Predictions(
            (index // n_steps).astype(np.int32),
            (index % n_steps).astype(np.int32),
            value.astype(np.float32),
            label.astype(np.float32),
        ),
        mine,
    )


def _in_windows(placed: PlacedRows, data: NightData, folds: Sequence[Fold]) -> np.ndarray:
    """Return which rows lie in the test of their fold, of any fold without one, or in the valid window of their own."""
    inside = (placed.step >= 0) & (placed.step < data.panel.n_steps)
    decided = data.labels.ts_decided_ns[np.where(inside, placed.step, 0)]
    found = np.zeros(len(decided), dtype=bool)
    for fold in folds:
        in_test = (decided >= fold.test.start_ns) & (decided < fold.test.stop_ns)
        in_valid = (decided >= fold.valid.start_ns) & (decided < fold.valid.stop_ns)
        found |= (placed.fold == NO_FOLD) & in_test
        found |= (placed.fold == fold.index) & (in_test | in_valid)
    return found & inside


def all_opinions(outside: OutsidePredictions, grid: BarGrid) -> Predictions:
    """Return every opinion of a file on a bar of the night; labels are NaN."""
    placed = place_rows(outside, grid)
    kept = np.isfinite(placed.value) & (placed.step >= 0) & (placed.step < grid.n_steps)
    return Predictions(
        placed.instrument[kept].astype(np.int32),
        placed.step[kept].astype(np.int32),
        placed.value[kept].astype(np.float32),
        np.full(int(kept.sum()), np.nan, dtype=np.float32),
    )


def describe_counts(counts: Mapping[str, Any]) -> list[str]:
    """Return the counts of `match_folds` as sentences."""
    judged = f"{counts['rows']:,} rows: {counts['test']:,} predictions on {counts['test_rows']:,} test rows are judged"
    said = [f"{judged}; {counts['missing']:,} test rows without one open no position"]
    reasons = {
        "no_opinion": "rows are null, which is no opinion",
        "repeated": "rows repeat an equal one",
        "outside": "predictions lie outside of the tests",
        "undecided": "predictions are on rows on which no model decides: in an embargo, not observed in time, or "
        "without features",
        "valid": "predictions are on validation rows, which decide nothing here",
    }
    return said + [f"{counts[name]:,} {text}" for name, text in reasons.items() if counts[name]]
