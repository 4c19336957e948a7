"""Each feature says what its formula says, and is missing where its policy says so."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from features.inputs import CADENCES, View, leaves_of
from features.panel import Panel
from features.sets import FEATURE_SETS
from features.spec import Feature, evaluate
from tests.features.panels import CODE, random_panel
from tests.features.reference import REFERENCES, Rows

FEATURES = {item.name: item for features in FEATURE_SETS.values() for item in features}
# Windows are summed pairwise here and exactly in the reference, and a variance comes from two means: a few
# hundred roundings of 1e-16 on numbers of order one. The market's mean is rounded to 1e-12.
TOLERANCE = 1e-10
DRAWN = random_panel(4, 320, seed=3)
ROWS = Rows(DRAWN)


def cells(panel: Panel, item: Feature) -> tuple[np.ndarray, np.ndarray]:
    [(value, mask)] = evaluate(View(leaves_of(panel)), [item], shape=(panel.n_instruments, panel.n_steps))
    return value.numpy(), mask.numpy()


@pytest.mark.parametrize("name", FEATURES)
def test_feature_agrees_with_a_slow_loop(name: str) -> None:
    item, panel, rows = FEATURES[name], DRAWN, ROWS
    value, mask = cells(panel, item)
    loop, knobs = REFERENCES[item.function.__name__], dict[str, object](item.params)
    if item.inputs[0].startswith(tuple(f"{cadence}_" for cadence in CADENCES)):
        knobs["cadence"] = item.inputs[0].partition("_")[0]
    valid = 0
    for s in range(panel.n_instruments):
        for t in range(panel.n_steps):
            expected = loop(rows, s, t, **knobs) if t >= item.lookback_bars else None
            assert mask[s, t] == (expected is not None), (s, t, expected)
            if expected is not None:
                valid += 1
                assert value[s, t] == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE), (s, t)
            else:
                assert value[s, t] == 0.0
    assert valid > 150, "nothing was compared"
    assert valid < mask.size or item.is_clock, "no hole was met"


def bars(**columns: list[float]) -> Panel:
    """Return one instrument's panel from columns; None is missing, and `status` is by name."""
    status = columns.pop("status")
    numbers = {
        k: torch.tensor([[math.nan if v is None else v for v in x]], dtype=torch.float64)
        for k, x in columns.items()
    }
    return Panel(
        instruments=("venue|perp|A",),
        width_ns=60 * 10**9,
        ts_open_ns=60 * 10**9 * np.arange(len(status), dtype=np.int64),
        values=numbers,
        status=torch.tensor([[CODE[s] for s in status]], dtype=torch.uint8),
    )


def series(panel: Panel, name: str) -> list[float]:
    """Return an input's row, rounded, for reading."""
    return [round(x, 6) for x in View(leaves_of(panel))[name][0].tolist()]


NAN = pytest.approx(math.nan, nan_ok=True)


def test_a_last_price_passes_quiet_bars_and_not_a_hole() -> None:
    panel = bars(
        close=[math.e, None, None, math.e**2, None, None],
        status=["printed", "quiet", "blind", "printed", "quiet", "quiet"],
    )
    assert series(panel, "log_price") == [1.0, 1.0, NAN, 2.0, 2.0, 2.0]
    assert series(panel, "price_age") == [0.0, 1.0, NAN, 0.0, 1.0, 2.0]


def test_a_quiet_bar_after_a_hole_has_no_price() -> None:
    panel = bars(close=[math.e, None, None, None], status=["printed", "unknown", "quiet", "quiet"])
    assert series(panel, "log_price") == [1.0, NAN, NAN, NAN]


def test_a_last_price_is_carried_31_bars_and_no_further() -> None:
    panel = bars(close=[math.e] + [None] * 33, status=["printed"] + ["quiet"] * 33)
    assert series(panel, "price_age") == [*map(float, range(32)), NAN, NAN]


def test_quiet_volume_is_zero_and_blind_volume_is_missing() -> None:
    panel = bars(volume=[5.0, None, 0.0, 3.0, None], status=["printed", "quiet", "quiet", "blind", "printed"])
    assert series(panel, "volume") == [5.0, 0.0, 0.0, NAN, NAN]


def test_a_quote_known_to_be_stale_is_missing() -> None:
    panel = bars(
        bid=[1.0, 1.0, 1.0], quote_age_ms=[300_000, 300_001, None], status=["printed", "quiet", "quiet"]
    )
    assert series(panel, "bid") == [1.0, NAN, 1.0]


def test_a_column_that_the_panel_lacks_is_missing_throughout() -> None:
    panel = bars(close=[1.0, 1.0], status=["printed", "printed"])
    assert series(panel, "mark") == [NAN, NAN]


@pytest.mark.parametrize("volume", [7.3, 0.1, 3.0, 1e-3, 12_345.678, 2e9])
def test_volume_that_never_varies_has_no_score(volume: float) -> None:
    """What rounding leaves of its variance is not a variance."""
    panel = bars(volume=[volume] * 200, status=["printed"] * 200)
    value, mask = cells(panel, FEATURES["volume_score_120"])
    assert not mask.any()
    assert not value.any()


def test_no_return_spans_a_hole_of_a_fifth_of_its_window() -> None:
    def last_mask(hole: int) -> bool:
        status = ["printed"] * 60 + ["blind"] * hole + ["printed"] * (40 - hole)
        panel = bars(close=[1.0] * 100, status=status)
        return bool(cells(panel, FEATURES["log_return_60"])[1][0, -1])

    assert last_mask(12)
    assert not last_mask(13)


def test_equal_returns_share_a_rank() -> None:
    still = bars(close=[2.0] * 50, status=["printed"] * 50)
    three = Panel(
        instruments=("a", "b", "c"),
        width_ns=still.width_ns,
        ts_open_ns=still.ts_open_ns,
        values={"close": still.values["close"].repeat(3, 1)},
        status=still.status.repeat(3, 1),
    )
    value, mask = cells(three, FEATURES["return_rank_5"])
    assert mask[:, 36:].all()
    assert not value.any()


def test_one_instrument_has_no_rank_and_no_market() -> None:
    panel = random_panel(1, 200)
    for name in ("return_rank_5", "market_residual_5"):
        assert not cells(panel, FEATURES[name])[1].any()


def test_a_wholly_blind_panel_is_missing_but_for_the_clock() -> None:
    panel = random_panel(3, 200)
    blind = Panel(
        instruments=panel.instruments,
        width_ns=panel.width_ns,
        ts_open_ns=panel.ts_open_ns,
        values=panel.values,
        status=torch.full_like(panel.status, CODE["blind"]),
    )
    for item in FEATURES.values():
        value, mask = cells(blind, item)
        assert np.isfinite(value).all()
        assert mask.all() if item.is_clock else not mask.any(), item.name
