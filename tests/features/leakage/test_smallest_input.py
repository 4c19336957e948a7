"""The smallest input of a leak: small, a file of its own, and it shows the leak."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from features.feature import Feature
from features.leakage.perturbation import prove_features
from features.leakage.smallest_input import reproduce, write_smallest_input
from features.panel.panel import PRINTED
from features.sets import get_set
from storage.errors import ContractError, LeakError
from tests.features.leakage.test_perturbation import (
    PANEL,
    centred_window,
    first_instrument,
    full_sample_z_score,
    label_among_features,
    planted,
    position_in_the_panel,
    running_sum,
    understated_lookback,
)


def shifted_back(close: Tensor) -> Tensor:
    return pad(close, (0, 1), value=math.nan)[:, 1:]


def leak_of(item: Feature) -> LeakError:
    with pytest.raises(LeakError) as caught:
        prove_features(PANEL, [item], seed=0)
    return caught.value


@pytest.mark.parametrize(
    ("function", "lookback_bars", "inputs", "rows"),
    [
        (centred_window, 5, ("log_price",), 60),
        (full_sample_z_score, 5, ("log_price",), 60),
        (label_among_features, 15, ("log_price",), 80),
        (shifted_back, 0, ("close",), 4),
        (running_sum, 5, ("volume",), 60),
        (understated_lookback, 9, ("volume",), 20),
        (position_in_the_panel, 0, ("volume",), 4),
        (first_instrument, 0, ("log_price",), 80),
    ],
)
def test_the_file_shows_the_leak_and_is_small(
    tmp_path: Path, function: Callable[..., Tensor], lookback_bars: int, inputs: tuple[str, ...], rows: int
) -> None:
    item = planted(function, lookback_bars=lookback_bars, inputs=inputs)
    error = leak_of(item)
    told = write_smallest_input(error, PANEL, [item], "candles", tmp_path)
    assert (told.message, told.facts["check"]) == (error.message, error.facts["check"])
    path = tmp_path / f"leak-{item.name}.parquet"
    assert told.facts["input"] == str(path)
    assert f"print(reproduce('{path}'))" in told.hint
    table = pq.read_table(path)
    assert table.num_rows <= rows, "of 2,100"
    assert len(table.column_names) <= 5
    assert path.stat().st_size < 10_000
    sentence = reproduce(path, feature=item)
    assert "when changed (" in sentence, sentence


def test_a_file_of_a_repaired_feature_says_so(tmp_path: Path) -> None:
    leak = planted(understated_lookback, lookback_bars=9, inputs=("volume",))
    write_smallest_input(leak_of(leak), PANEL, [leak], "candles", tmp_path)
    repaired = planted(understated_lookback, lookback_bars=10, inputs=("volume",))
    path = tmp_path / "leak-understated_lookback.parquet"
    assert "when changed" in reproduce(path, feature=leak)
    assert reproduce(path, feature=repaired).endswith(": no leak")


def test_a_feature_that_is_a_later_return_is_shown_by_a_few_hundred_bars(tmp_path: Path) -> None:
    """No change of bars shows it: the future is in a column."""
    close = PANEL.column("close")
    ahead = torch.full_like(close, math.nan)
    ahead[:, :-5] = torch.log(close[:, 5:] / close[:, :-5])
    values = {"close": close, "open_interest": ahead}
    panel = PANEL.__class__(
        PANEL.instruments, PANEL.width_ns, PANEL.ts_open_ns, values, torch.full_like(PANEL.status, PRINTED)
    )
    panel.values["close"] = torch.nan_to_num(close, nan=100.0)
    item = planted(lambda open_interest: open_interest, inputs=("open_interest",))
    error = LeakError(
        "it is a return",
        hint="look",
        check="foretold",
        feature=item.name,
        instrument=panel.instruments[0],
        ts_open_ns=int(panel.ts_open_ns[0]),
    )
    told = write_smallest_input(error, panel, [item], "candles", tmp_path)
    table = pq.read_table(str(told.facts["input"]))
    assert 200 <= table.num_rows < PANEL.n_steps
    assert "is a return of the bars after it" in reproduce(str(told.facts["input"]), feature=item)


def test_errors_that_bars_alone_cannot_show_stay_as_they_are(tmp_path: Path) -> None:
    blind = LeakError("the proof is blind", check="future", feature="canary_looks_ahead")
    assert write_smallest_input(blind, PANEL, get_set("candles"), "candles", tmp_path) is blind
    sound = get_set("candles")[0]
    false = LeakError(
        "it moved",
        check="hindsight",
        feature=sound.name,
        instrument=PANEL.instruments[0],
        ts_open_ns=int(PANEL.ts_open_ns[300]),
    )
    assert write_smallest_input(false, PANEL, [sound], "candles", tmp_path) is false
    assert list(tmp_path.iterdir()) == []


def test_other_files_and_unknown_features_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"close": [1.0]}), tmp_path / "other.parquet")
    with pytest.raises(ContractError, match="shows no leak"):
        reproduce(tmp_path / "other.parquet")
    leak = planted(understated_lookback, lookback_bars=9, inputs=("volume",))
    write_smallest_input(leak_of(leak), PANEL, [leak], "candles", tmp_path)
    with pytest.raises(ContractError, match="no feature set has the feature 'understated_lookback'"):
        reproduce(tmp_path / "leak-understated_lookback.parquet")
