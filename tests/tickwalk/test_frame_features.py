"""`tickwalk.features(SET)(frame)`: the bits of a panel's features for frames of any library, and clear refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import tickwalk
from features.build import build_features
from features.panel.panel import COLUMNS, panel_from_table
from features.sets import FEATURE_SETS
from storage.contracts.tables import SESSIONS, STATUSES
from storage.errors import ContractError, SettingsError
from tests.features.panels import random_panel

PANEL = random_panel(3, 260, seed=4)
CANDLES = ("instrument", "ts_open", "close", "high", "low", "volume")


def table(*, names: tuple[str, ...] = ()) -> pa.Table:
    """Return the panel's bars as rows, without those that are unknown."""
    count = PANEL.n_instruments * PANEL.n_steps
    columns: dict[str, Any] = {
        "instrument": np.repeat(PANEL.instruments, PANEL.n_steps),
        "ts_open": pa.array(
            np.tile(PANEL.ts_open_ns // 1000, PANEL.n_instruments), pa.timestamp("us", "UTC")
        ),
        "status": [STATUSES[code] for code in PANEL.status.flatten().tolist()],
        "session": [
            SESSIONS[int(code)] if code == code else None
            for code in PANEL.column("session").flatten().tolist()
        ],
    }
    for name in COLUMNS:
        if name != "session":
            columns[name] = pa.array(PANEL.column(name).flatten().numpy(), from_pandas=True)
    rows = pa.table(columns)
    assert rows.num_rows == count
    rows = rows.filter(pa.array([status != "unknown" for status in columns["status"]]))
    return rows.select(names) if names else rows


ROWS = table()


@pytest.mark.parametrize(
    "name", ["mids", "live", *(pytest.param(name, marks=pytest.mark.drill) for name in FEATURE_SETS)]
)
def test_values_have_the_bits_of_a_built_block(name: str) -> None:
    block = build_features(panel_from_table(ROWS, width="1m"), name)
    found = tickwalk.features(name)(ROWS)
    assert found.column_names == ["instrument", "ts_open", *block.names]
    assert found["ts_open"].equals(ROWS["ts_open"])
    place = np.array([block.instruments.index(str(name)) for name in ROWS["instrument"].to_pylist()])
    step = (ROWS["ts_open"].cast(pa.int64()).to_numpy() * 1000 - block.ts_open_ns[0]) // block.width_ns
    for number, feature in enumerate(block.names):
        mask = block.mask.numpy()[place, step, number]
        assert np.array_equal(found[feature].is_valid().to_numpy(), mask), feature
        values = found[feature].to_numpy(zero_copy_only=False)
        expected = block.values.numpy()[place, step, number]
        assert values.dtype == np.float32
        assert np.array_equal(values[mask].view(np.int32), expected[mask].view(np.int32)), feature
    assert sum(found[feature].null_count < found.num_rows for feature in block.names) > 0.8 * len(block.names)


def libraries() -> dict[str, Any]:
    rows = table(names=(*CANDLES, "status"))
    return {
        "pyarrow": rows,
        "batch": rows.combine_chunks().to_batches()[0],
        "polars": pl.from_arrow(rows),
        "pandas": rows.to_pandas(),
        "categories": rows.to_pandas().astype({"instrument": "category", "status": "category"}),
        "stream": tickwalk.QueryResult(rows),
    }


@pytest.mark.parametrize("library", libraries())
def test_every_library_gets_its_own_kind_of_frame_with_equal_values(library: str) -> None:
    features_of = tickwalk.features("candles")
    frame = libraries()[library]
    found, expected = features_of(frame), features_of(libraries()["pyarrow"])
    kind = {"polars": pl.DataFrame, "pandas": pd.DataFrame, "categories": pd.DataFrame}.get(library, pa.Table)
    assert isinstance(found, kind)
    assert list(found.columns if kind is not pa.Table else found.column_names) == expected.column_names
    for name in features_of.names:
        values = (
            found[name].to_numpy() if kind is not pa.Table else found[name].to_numpy(zero_copy_only=False)
        )
        wanted = expected[name].to_numpy(zero_copy_only=False)
        assert np.array_equal(np.asarray(values, dtype=np.float32), wanted, equal_nan=True), name


def test_rows_keep_their_order_and_index() -> None:
    frame = table(names=CANDLES).to_pandas()
    features_of = tickwalk.features("candles")
    shuffled = frame.sample(frac=1.0, random_state=3)
    found = features_of(shuffled)
    assert found.index.equals(shuffled.index)
    pd.testing.assert_frame_equal(found.sort_index(), features_of(frame))


def test_times_without_a_zone_are_in_utc_and_the_width_is_found() -> None:
    frame = table(names=CANDLES).to_pandas()
    features_of = tickwalk.features("candles")
    expected = features_of(frame)[list(features_of.names)]
    plain = frame.assign(ts_open=frame["ts_open"].dt.tz_localize(None).astype("datetime64[ns]"))
    pd.testing.assert_frame_equal(features_of(plain)[list(features_of.names)], expected)
    abroad = frame.assign(ts_open=frame["ts_open"].dt.tz_convert("Asia/Kolkata"))
    pd.testing.assert_frame_equal(features_of(abroad)[list(features_of.names)], expected)
    wide = tickwalk.features("candles", width="2m")
    with pytest.raises(ContractError, match=r"'ts_open' is .* in row \d+, which is not on the grid of 2m"):
        wide(frame)


def test_a_row_without_a_status_is_watched_where_its_price_is_known() -> None:
    features_of = tickwalk.features("candles")
    frame = table(names=CANDLES).to_pandas()
    printed = np.where(np.isfinite(frame["close"]), "printed", "unknown")
    expected = features_of(frame.assign(status=printed))
    pd.testing.assert_frame_equal(features_of(frame), expected)
    pd.testing.assert_frame_equal(features_of(frame.assign(status=None)), expected)
    # A missing row is as unknown as one without a price.
    hole = frame.index % 7 == 3
    nulls = {name: frame[name].mask(hole) for name in ("close", "high", "low", "volume")}
    with_nulls = features_of(frame.assign(**nulls))
    pd.testing.assert_frame_equal(with_nulls[~hole], features_of(frame[~hole]))
    assert with_nulls[hole]["log_return_1"].isna().all()


def edited(**columns: Any) -> pd.DataFrame:
    return table(names=CANDLES).to_pandas().iloc[:40].assign(**columns)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (edited().drop(columns="high"), r"lacks the column 'high', which the set candles reads"),
        (edited().set_index("ts_open"), r"lacks the column 'ts_open'.*reset_index"),
        (edited(close="a lot"), r"the column 'close' is .*string, and it must be numeric"),
        (edited(close=[1.0, "x"] * 20), r"the column 'close' cannot be read"),
        (edited(ts_open=range(40)), r"the column 'ts_open' is int64, and it must be a timestamp"),
        (edited(instrument=None), r"the column 'instrument' is null in row 0"),
        (edited(instrument=7), r"the column 'instrument' is int64, and it must be text"),
        (edited(status="open"), r"the column 'status' is 'open' in row 0 .*one of unlisted, blind"),
        (edited(width=["1m", "5m"] * 20), r"the column 'width' has 2 values"),
        (pd.concat([edited(), edited().iloc[[5]]]), r"two rows are the bar of .* one of them row 40"),
        (edited().iloc[:0], r"the frame has no rows"),
        (pl.from_pandas(edited()).lazy(), r"LazyFrame has no rows yet \(pass frame.collect"),
        ([1, 2], r"a builtins.list is no frame \(pass a pandas or polars DataFrame"),
    ],
    ids=lambda item: item[:30] if isinstance(item, str) else "",
)
def test_wrong_frames_are_refused_by_column_and_rule(frame: Any, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        tickwalk.features("candles")(frame)


def test_far_apart_rows_and_a_lone_bar_are_refused() -> None:
    far = edited(ts_open=pd.date_range("1990-01-01", "2026-01-01", periods=40, tz="UTC").floor("s"))
    with pytest.raises(ContractError, match=r"the frame spans .* steps of 1s, .* at most 400,000,000"):
        tickwalk.features("candles", width="1s")(far)
    with pytest.raises(SettingsError, match="the width of a single bar cannot be found"):
        tickwalk.features("candles")(edited().iloc[:1])
    with pytest.raises(SettingsError, match="feature set 'candle' does not exist"):
        tickwalk.features("candle")


def test_the_callable_says_what_it_is() -> None:
    features_of = tickwalk.features("candles")
    assert features_of.columns == ("instrument", "ts_open", "close", "high", "low", "volume")
    assert features_of.lookback_bars == 151
    assert len(features_of.fingerprint) == 64
    assert repr(features_of) == f"FrameFeatures('candles', {len(features_of.names)} features)"
