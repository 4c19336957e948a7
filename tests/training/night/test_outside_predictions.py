"""Rows of files of predictions: where they belong, what is refused, and that every row is counted."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from storage.errors import CaptureError, InstrumentError, RangeError
from tests.training.builders import GRACE_NS, MINUTE_NS, START_NS, panel_of, walk
from tests.training.memory_night import RECIPE, data_of, fold_of, rows_in
from training.data.folds import Fold, TimeSpan
from training.night.outside_judgement import judged_span
from training.night.outside_predictions import (
    NO_FOLD,
    BarGrid,
    OutsidePredictions,
    match_folds,
    place_rows,
)

STEPS: Final = 400
IDS: Final = ("hyperliquid|perp|BTC", "hyperliquid|perp|ETH", "gaiaex|perp|BTC")
GRID: Final = BarGrid(IDS, START_NS, STEPS, MINUTE_NS, grace_ns=GRACE_NS)
DATA: Final = data_of(panel_of(np.exp(walk(instruments=2, steps=STEPS, seed=1))))
FOLD: Final = fold_of(STEPS)


def rows_of(
    instruments: tuple[str, ...], ts_ns: np.ndarray, value: np.ndarray, **changes: Any
) -> OutsidePredictions:
    """Return a file with a row for every instrument at every time."""
    count = len(ts_ns)
    rows: dict[str, Any] = {
        "instrument": np.repeat(np.arange(len(instruments), dtype=np.int32), count),
        "ts_ns": np.tile(ts_ns, len(instruments)),
        "fold": np.full(len(instruments) * count, NO_FOLD, dtype=np.int32),
        "value": np.broadcast_to(value, (len(instruments), count)).flatten(),
        "is_open": True,
        "is_return": False,
    }
    return OutsidePredictions(name="mine", instruments=instruments, **rows | changes).sorted()


def opens(steps: np.ndarray | range) -> np.ndarray:
    return START_NS + MINUTE_NS * np.asarray(steps, dtype=np.int64)


def everywhere(**changes: Any) -> OutsidePredictions:
    value = np.random.default_rng(0).standard_normal((2, STEPS))
    return rows_of(("C0", "C1"), opens(range(STEPS)), value, **changes)


def test_opens_and_decisions_of_one_bar_are_one_row() -> None:
    steps = np.array([3, 7])
    by_open = place_rows(rows_of(("ETH",), opens(steps), np.ones(2)), GRID)
    assert by_open.step.tolist() == [3, 7]
    assert by_open.instrument.tolist() == [1, 1]
    for after_ns in (0, GRACE_NS // 2, GRACE_NS):
        decided = opens(steps) + MINUTE_NS + after_ns
        placed = place_rows(rows_of(("ETH",), decided, np.ones(2), is_open=False), GRID)
        assert placed.step.tolist() == [3, 7]


@pytest.mark.parametrize(("is_open", "after_ns"), [(True, 1), (True, -1), (False, GRACE_NS + 1), (False, -1)])
def test_a_time_between_bars_is_refused(is_open: bool, after_ns: int) -> None:
    """A decision later than the grace may have used the next bar."""
    outside = rows_of(("ETH",), opens([3]) + after_ns, np.ones(1), is_open=is_open)
    with pytest.raises(
        CaptureError, match=r"1 of 1 predictions have a time that is not .*; the first: ETH at"
    ):
        place_rows(outside, GRID)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("BTC", r"'BTC' is 2 instruments: hyperliquid\|perp\|BTC, gaiaex\|perp\|BTC .*in full"),
        ("ETC", r"1 instruments .*: 'ETC' .*the nearest is ETH"),
        ("eth", "'eth'"),
    ],
)
def test_a_name_must_be_one_instrument(name: str, message: str) -> None:
    with pytest.raises(InstrumentError, match=message):
        place_rows(rows_of((name,), opens([1]), np.ones(1)), GRID)
    assert place_rows(rows_of((IDS[2],), opens([1]), np.ones(1)), GRID).instrument.tolist() == [2]


def test_equal_rows_count_once_and_unequal_ones_are_refused() -> None:
    twice = np.repeat(opens([4]), 2)
    assert place_rows(rows_of(("ETH",), twice, np.array([1.0, 1.0])), GRID).repeated == 1
    assert place_rows(rows_of(("ETH",), twice, np.array([np.nan, np.nan])), GRID).repeated == 1
    # A name and its id are one instrument.
    assert place_rows(rows_of(("ETH", IDS[1]), opens([4]), np.ones(1)), GRID).repeated == 1
    for value in ([1.0, 2.0], [1.0, np.nan]):
        with pytest.raises(CaptureError, match=r"1 rows have more than one prediction; the first: ETH at"):
            place_rows(rows_of(("ETH",), twice, np.array(value)), GRID)


def test_every_row_is_counted_once_and_test_rows_are_those_of_the_models() -> None:
    """Predictions for all bars of the range: those of the train window are left out, and are counted."""
    parts, counts = match_folds(everywhere(), DATA, [FOLD], RECIPE, grace_ns=GRACE_NS)
    rows = rows_in(DATA, FOLD)
    number = parts[0].test.instrument.astype(np.int64) * STEPS + parts[0].test.step
    assert number.tolist() == rows.test.tolist()
    assert parts[0].steps.tolist() == sorted({row % STEPS for row in rows.test.tolist()})
    assert counts["test"] == counts["test_rows"] == len(rows.test) > 100
    assert counts["undecided"] > 0, "those of the embargo"
    assert counts["rows"] == 2 * STEPS
    assert counts["rows"] == sum(
        counts[name] for name in ("test", "valid", "outside", "undecided", "no_opinion")
    )


def test_rows_that_name_their_fold_may_be_of_its_validation() -> None:
    fold = np.zeros(2 * STEPS, dtype=np.int32)
    parts, counts = match_folds(everywhere(fold=fold), DATA, [FOLD], RECIPE, grace_ns=GRACE_NS)
    assert len(parts[0].valid.step) == len(rows_in(DATA, FOLD).validated) == counts["valid"] > 0
    with pytest.raises(CaptureError, match=r"column fold names 4, and the folds are \[0\]"):
        match_folds(everywhere(fold=fold + 4), DATA, [FOLD], RECIPE, grace_ns=GRACE_NS)


def test_returns_are_divided_by_the_scale_of_the_label() -> None:
    plain, _ = match_folds(everywhere(), DATA, [FOLD], RECIPE, grace_ns=GRACE_NS)
    divided, _ = match_folds(everywhere(is_return=True), DATA, [FOLD], RECIPE, grace_ns=GRACE_NS)
    scale = DATA.labels.scale.numpy()[plain[0].test.instrument, plain[0].test.step]
    assert np.allclose(divided[0].test.prediction, plain[0].test.prediction / scale, rtol=1e-6)


def test_null_is_no_opinion_and_too_few_opinions_are_refused() -> None:
    value = np.random.default_rng(0).standard_normal((2, STEPS))
    value[0, ::3] = np.nan
    sparse = rows_of(("C0", "C1"), opens(range(STEPS)), value)
    parts, counts = match_folds(sparse, DATA, [FOLD], RECIPE, grace_ns=GRACE_NS)
    assert counts["missing"] > 0
    assert counts["no_opinion"] == int(np.isnan(value).sum())
    assert np.isfinite(parts[0].test.prediction).all()
    value[0] = np.nan
    value[1, ::9] = np.nan
    with pytest.raises(RangeError, match=r"\d+ of \d+ test rows have a prediction, at least 50% must"):
        match_folds(
            rows_of(("C0", "C1"), opens(range(STEPS)), value), DATA, [FOLD], RECIPE, grace_ns=GRACE_NS
        )
    early = rows_of(("C0", "C1"), opens(range(60)), np.ones(60))
    with pytest.raises(
        RangeError, match="none of 120 predictions is on a test row; the tests are decided from"
    ):
        match_folds(early, DATA, [FOLD], RECIPE, grace_ns=GRACE_NS)


def test_tests_before_the_first_and_after_the_last_prediction_are_not_judged() -> None:
    """Of three tests of an hour, the file covers 40 minutes of the second."""
    starts = [START_NS + step * MINUTE_NS for step in (200, 260, 320, 380)]
    folds = [
        Fold(
            index,
            TimeSpan(START_NS, start - 50 * MINUTE_NS),
            TimeSpan(start - 50 * MINUTE_NS, start),
            TimeSpan(start, stop),
            0,
        )
        for index, (start, stop) in enumerate(pairwise(starts))
    ]
    outside = rows_of(("C0", "C1"), opens(range(270, 310)), np.ones(40))
    parts, counts = match_folds(outside, DATA, folds, RECIPE, grace_ns=GRACE_NS)
    assert [part.fold.index for part in parts] == [1]
    assert counts["test"] == 80
    assert judged_span(parts, DATA) == [START_NS + 270 * MINUTE_NS, START_NS + 310 * MINUTE_NS]
    whole, _ = match_folds(everywhere(), DATA, folds, RECIPE, grace_ns=GRACE_NS)
    assert [part.fold.index for part in whole] == [0, 1, 2]
    assert judged_span(whole, DATA) == [0, np.iinfo(np.int64).max]


def test_content_depends_on_the_rows_and_not_on_their_order(tmp_path: Path) -> None:
    one = everywhere()
    back = slice(None, None, -1)
    arrays = ("instrument", "ts_ns", "fold", "value")
    other = replace(one, **{name: getattr(one, name)[back] for name in arrays}).sorted()
    assert other.content == one.content
    assert replace(one, value=one.value + 1e-9).content != one.content
    one.write(tmp_path / "rows")
    assert OutsidePredictions.read(tmp_path / "rows").content == one.content
