"""On real candles of twelve perps: features are built, proven, and sane."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features.build import build_features
from features.panel import Panel, panel_from_table
from features.proof import prove
from features.sets import get_set
from storage.code import ROOT

CANDLES = ROOT.parent / "shared" / "data" / "hyperliquid" / "candles_5m_to_20250520.parquet"
CLOCK_FEATURES = ("hour_sin", "hour_cos")


@pytest.fixture(scope="module")
def panel() -> Panel:
    """The venue's own 5-minute candles; it fills a bar without a print with volume 0, so those are quiet."""
    if not CANDLES.exists():
        pytest.skip(f"{CANDLES} is absent")
    candles = pq.read_table(CANDLES)
    has_printed = pc.greater(candles["volume"], 0.0)
    table = pa.table(
        {
            "instrument": pc.binary_join_element_wise(
                "hyperliquid|perp", candles["coin"].cast(pa.string()), "|"
            ),
            "ts_open": candles["t"].cast(pa.timestamp("us", tz="UTC")),
            "status": pc.if_else(has_printed, "printed", "quiet"),
            **{name: candles[name] for name in ("open", "high", "low", "close", "volume")},
        }
    )
    return panel_from_table(table, width="5m")


def test_real_candles_make_a_dense_panel(panel: Panel) -> None:
    assert panel.n_instruments == 12
    assert int((~panel.column("close").isnan()).sum()) == 225_261
    assert int(panel.printed.sum()) > 200_000


def test_real_candles_are_proven(panel: Panel) -> None:
    result = prove(panel, "candles", seed=1)
    assert result.unproven == ()
    assert result.canaries_caught == 7
    assert min(result.compared.values()) > 3_000


def test_features_of_real_candles_are_sane(panel: Panel) -> None:
    block = build_features(panel, "candles")
    assert np.isfinite(block.values.numpy()).all()
    share = block.mask.float().mean(dim=(0, 1))
    for place, item in enumerate(get_set("candles")):
        values = block.values[:, :, place][block.mask[:, :, place]].double()
        assert share[place] > 0.95, item.name
        if item.name.startswith(("log_return", "market_residual")):
            assert 1e-4 < values.std() < 0.1, item.name
            assert abs(values.mean()) < 0.01, item.name
        if item.name.startswith(("realised", "parkinson")):
            # Two ways to measure one thing: 5-minute volatility of these coins is some tenths of a percent.
            assert 5e-4 < values.median() < 1e-2, item.name
        if item.name == "return_rank_5":
            assert abs(values.mean()) < 1e-6
            assert values.abs().max() == 0.5
        if item.name == "volume_score_120":
            assert abs(values.mean()) < 0.2
            assert 0.5 < values.std() < 2.0
        if item.name in CLOCK_FEATURES:
            assert values.std() == pytest.approx(1.0 / math.sqrt(2.0), rel=1e-2)
