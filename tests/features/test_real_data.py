"""Features of real data: candles of two venues and a recorded capture."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features.build import build_features
from features.leakage.perturbation import prove
from features.leakage.point_in_time import prove_point_in_time
from features.monitoring.health import FeatureHealth, check_health
from features.panel.panel import UNKNOWN, Panel, load_panel, panel_from_table
from features.sets import get_set
from ingest.journal.captures import read_capture
from ingest.replay.replay import replay
from serving.report.page import write_features
from storage.contracts.tables import STATUSES
from storage.lake.lake import Lake
from storage.settings import Settings, load_settings
from tests.conftest import recorded

CANDLES = "hyperliquid/candles_5m_to_20250520.parquet"
BITFINEX = "bitfinex/candles_1m_20180101_20180430.parquet"
FOUR_COINS = "hyperliquid/ws_20250904_4coins.ndjson.gz"
SOME_FRAMES = 32_000
"""Fourteen minutes, including the disconnect of 19:58:11."""
CLOCK_FEATURES = ("hour_sin", "hour_cos")


@pytest.fixture(scope="module")
def panel() -> Panel:
    """The venue's own 5-minute candles; it fills a bar without a print with volume 0, so those are quiet."""
    candles = pq.read_table(recorded(CANDLES))
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


def healthy(panel: Panel, name: str, *, newest: float = 0.2) -> FeatureHealth:
    """Build a set and check its health; no real data here is refused."""
    block = build_features(panel, name)
    assert np.isfinite(block.values.numpy()).all()
    health = check_health(block, panel, split_ns=int(panel.ts_open_ns[int(panel.n_steps * (1.0 - newest))]))
    assert health.refusals == ()
    return health


def assert_rendered(health: FeatureHealth, path: Path) -> str:
    """Write the page, and check that it lists each feature with its figures; return its text."""
    text = write_features(path, health).read_text(encoding="utf-8")
    assert len(text) < 400_000
    assert "fit for training" in text
    for name in health.names:
        assert text.count(f"{name}: known on") >= 1, name
    return text


def known(health: FeatureHealth, feature: str) -> float:
    return float(np.nanmean(health.coverage[health.names.index(feature)]))


def test_health_page_of_real_candles(panel: Panel, tmp_path: Path) -> None:
    health = healthy(panel, "candles", newest=0.1)
    text = assert_rendered(health, tmp_path / "candles.html")
    assert known(health, "log_return_5") > 0.95
    # Volatility of the last week of it had left what two months of training saw; returns had not.
    drifted = {item.feature for item in health.findings if item.what.startswith("drifted")}
    assert "realised_volatility_120" in drifted
    assert "log_return_1" not in drifted
    assert "drifted: PSI up to" in text


def test_features_that_candles_cannot_provide_are_reported_as_never_known(panel: Panel) -> None:
    health = healthy(panel, "live")
    never = {item.feature for item in health.findings if item.what == "is never known"}
    assert {"flow_imbalance_5", "relative_spread", "funding_level", "mark_basis"} <= never
    assert "log_return_1" not in never


# Bitfinex: a minute without a trade is absent, and truly silent.


@pytest.fixture(scope="module")
def bitfinex() -> Panel:
    """Three weeks of 1-minute candles of seven spot pairs of 2018."""
    # The file's clock has no zone; it is UTC.
    weeks = [datetime.fromisoformat(f"2018-01-{day}") for day in ("08", "29")]
    table = pq.read_table(recorded(BITFINEX), filters=[("t", ">=", weeks[0]), ("t", "<", weeks[1])])
    rows = pa.table(
        {
            "instrument": pc.binary_join_element_wise("bitfinex|spot", table["coin"].cast(pa.string()), "|"),
            "ts_open": table["t"].cast(pa.timestamp("us", tz="UTC")),
            "status": pa.array(["printed"] * table.num_rows),
            **{name: table[name] for name in ("open", "high", "low", "close", "volume")},
        }
    )
    panel = panel_from_table(rows, width="1m")
    status = panel.status.clone()
    status[status == UNKNOWN] = STATUSES.index("quiet")
    return replace(panel, status=status)


@pytest.mark.drill
def test_bitfinex_candles_pass_proof_and_health_check(bitfinex: Panel, tmp_path: Path) -> None:
    assert bitfinex.n_instruments == 7
    assert bitfinex.n_steps > 30_000
    silent = (bitfinex.status == STATUSES.index("quiet")).double().mean(dim=1)
    assert float(silent.max()) > 0.03, "silence is real here"
    result = prove(bitfinex, "candles", seed=2)
    assert min(result.compared.values()) > 1_500
    # A spot venue has no perp that others could follow.
    assert not [name for name in result.unproven if not name.startswith(("btc_", "eth_"))]
    health = healthy(bitfinex, "candles")
    assert_rendered(health, tmp_path / "bitfinex.html")
    assert known(health, "empty_share_30") == 1.0
    assert known(health, "log_return_1") > 0.9
    # What is silent is known to be silent, and its share is what the panel holds.
    place = health.names.index("price_age")
    assert float(np.nanmin(health.coverage[place])) > 0.8


# A real capture: four coins, one second a bar, with a real disconnect.


def replayed(folder: Path, frames: int | None) -> Settings:
    settings = load_settings(overrides={"home": folder / "home", "bars.widths": "1s,1m"}, environ={})
    settings.ensure_home()
    path = recorded(FOUR_COINS)
    if frames is not None:
        part = folder / "part.ndjson"
        with part.open("w", encoding="utf-8") as out:
            for recv_ns, body in itertools.islice(read_capture(path), frames):
                out.write(json.dumps({"recv_ns": recv_ns, "msg": json.loads(body)}) + "\n")
        path = part
    with Lake.open(settings) as lake:
        replay(path, settings, lake)
    return settings


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Lake]]:
    settings = replayed(tmp_path_factory.mktemp("capture"), SOME_FRAMES)
    with Lake.open(settings, read_only=True) as lake:
        yield settings, lake


def check_capture(settings: Settings, lake: Lake, page: Path) -> dict[str, int]:
    """Prove a capture's features, check their health and write the page; return the number of compared values."""
    grace_ns = settings.bars.grace_ns

    def load(lake: Lake) -> Panel:
        return load_panel(lake, width="1s", grace_ns=grace_ns)

    panel = load(lake)
    assert panel.n_instruments == 4
    blind = panel.status == STATUSES.index("blind")
    assert int(blind.all(dim=0).sum()) >= 16, "the disconnect of 18 s"
    result = prove(panel, "live", seed=3)
    found = prove_point_in_time(lake, load, get_set("live"), grace_ns=grace_ns, seed=3)
    assert found.suspects == ()
    assert len(found.cuts) == 3
    health = healthy(panel, "live")
    assert_rendered(health, page)
    for feature, least in (("relative_spread", 0.95), ("log_return_1", 0.95), ("queue_imbalance", 0.95)):
        assert known(health, feature) > least, feature
    assert known(health, "funding_level") == 0.0, "the capture holds no contexts"
    block = build_features(panel, "live")
    outage = blind.all(dim=0).nonzero().flatten()
    others = [
        place for place, item in enumerate(get_set("live")) if item.lookback_bars == 0 and not item.is_clock
    ]
    assert not block.mask[:, outage][:, :, others].any(), "nobody watched, and nothing is known"
    return result.compared | {"lake": found.compared, "foretold": found.foretold}


@pytest.mark.drill
def test_a_real_capture_passes_proof_and_health_check(capture: tuple[Settings, Lake], tmp_path: Path) -> None:
    compared = check_capture(*capture, tmp_path / "capture.html")
    assert min(compared.values()) > 1_000


@pytest.mark.drill
@pytest.mark.timeout(900)
def test_the_whole_capture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = replayed(tmp_path, None)
    with Lake.open(settings, read_only=True) as lake:
        compared = check_capture(settings, lake, tmp_path / "capture.html")
    with capsys.disabled():
        print("\nfour coins: " + ", ".join(f"{name} {count:,}" for name, count in compared.items()))
