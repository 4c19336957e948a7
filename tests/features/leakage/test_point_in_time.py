"""The point-in-time proof: it passes for every set, and names a label in the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import features.leakage.point_in_time
from features.leakage.point_in_time import (
    SUSPECT,
    Load,
    PointInTimeLake,
    log_mid,
    prove_point_in_time,
    rank_correlation,
)
from features.panel.panel import Panel, load_panel
from features.sets import get_set
from storage.clock import US_NS, ManualTime, iso
from storage.errors import LeakError, RangeError
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.features.panels import MINUTE_NS, START_NS, bar_rows

GRACE_NS = 2_000_000_000
STEPS = 420
NAMES = ("venue|perp|A", "venue|perp|B", "venue|perp|C")
LISTED_AT = 300
SETS = ("candles", "live")


def drawn_rows(*, lie_bars: int = 0) -> list[dict[str, Any]]:
    """Return bars with quotes, late revisions, silence, and a third instrument that begins at step 300.

    Args:
        lie_bars: put the return of so many coming bars into `funding_rate`, and say that it was knowable.
    """
    draw = np.random.default_rng(5)
    rows = []
    for number, name in enumerate(NAMES):
        price = 100.0 * np.exp(np.cumsum(draw.normal(0.0, 1e-3, STEPS + 60)))
        for step in range(LISTED_AT if number == 2 else 0, STEPS):
            last = float(price[step])
            row: dict[str, Any] = {"instrument": name, "step": step, "lag_ms": 300}
            row |= {"bid": last * 0.9999, "ask": last * 1.0001, "bid_size": 1.0, "ask_size": 2.0}
            row |= {
                "open": last,
                "high": last * 1.001,
                "low": last * 0.999,
                "close": last,
                "volume": 1.0 + step % 7,
            }
            row |= {
                "buy_volume": 0.5,
                "notional": last,
                "trades": 3,
                "vwap": last,
                "mark": last,
                "oracle": last,
            }
            row |= {"funding_rate": 1e-5 * draw.normal(), "quote_age_ms": 10, "context_age_ms": 10}
            if lie_bars:
                row["funding_rate"] = float(np.log(price[step + lie_bars] / last))
            if draw.random() < 0.1:
                row |= dict.fromkeys(("open", "high", "low", "close", "vwap"))
                row |= {"status": "quiet", "volume": 0.0, "buy_volume": 0.0, "notional": 0.0, "trades": 0}
            rows.append(row)
            if step % 17 == 0:
                rows.append(row | {"revision": 1, "lag_ms": 3_000_000, "volume": 50.0, "repaired": True})
    return rows


def lake_of(folder: Path, rows: list[dict[str, Any]]) -> Iterator[Lake]:
    with Lake.open(Settings(home=folder), clock=ManualTime(START_NS)) as opened:
        opened.commit({"bars": bar_rows(rows)}, batch_id="drawn")
        yield opened


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    yield from lake_of(tmp_path_factory.mktemp("honest"), drawn_rows())


def load(lake: Lake, **options: Any) -> Panel:
    return load_panel(lake, **({"width": "1m", "grace_ns": GRACE_NS} | options))


def shifted(bars: int) -> Load:
    """Return a loader that joins the close of `bars` bars later into a column, as a shift of the wrong sign does."""

    def with_join(lake: Lake) -> Panel:
        panel = load(lake)
        rows = lake.query(
            "SELECT instrument, epoch_us(ts_open) AS at_us, "
            "ln(lead(close, ?) OVER (PARTITION BY instrument ORDER BY ts_open) / close) AS ahead "
            "FROM bars WHERE revision = 0",
            (bars,),
        )
        return replace(panel, values=panel.values | {"funding_rate": spread(panel, rows)})

    return with_join


def spread(panel: Panel, rows: pa.Table) -> torch.Tensor:
    column = np.full(panel.status.shape, np.nan)
    for row in rows.to_pylist():
        step = (row["at_us"] * US_NS - int(panel.ts_open_ns[0])) // panel.width_ns
        if row["ahead"] is not None:
            column[panel.instruments.index(row["instrument"]), step] = row["ahead"]
    return torch.from_numpy(column)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("seed", range(2))
def test_every_set_is_proven_from_the_lake(lake: Lake, name: str, seed: int) -> None:
    result = prove_point_in_time(lake, load, get_set(name), grace_ns=GRACE_NS, seed=seed)
    assert len(result.cuts) == result.canaries_caught == 3
    assert result.compared > 2_000
    assert result.foretold > 20_000
    assert result.suspects == ()


def test_a_label_that_was_joined_into_a_column_is_caught_and_named(lake: Lake) -> None:
    with pytest.raises(LeakError) as caught:
        prove_point_in_time(lake, shifted(5), get_set("live"), grace_ns=GRACE_NS, seed=0)
    facts = caught.value.facts
    assert (facts["check"], facts["feature"]) == ("hindsight", "funding_level")
    prefix = (
        f"feature funding_level of {facts['instrument']} moved at bar {iso(int(str(facts['ts_open_ns'])))}"
    )
    assert prefix in caught.value.message
    assert "became knowable" in caught.value.message


def test_the_panel_proof_alone_misses_that_label(lake: Lake) -> None:
    """Why there are two proofs."""
    from features.leakage.perturbation import prove

    prove(shifted(5)(lake), "live", seed=0)


def test_a_loader_that_reads_later_revisions_is_caught(lake: Lake) -> None:
    def improved(lake: Lake) -> Panel:
        return load(lake, grace_ns=3_600_000_000_000)

    with pytest.raises(LeakError, match=r"feature .* moved at bar .* hidden in the lake"):
        prove_point_in_time(lake, improved, get_set("candles"), grace_ns=GRACE_NS, seed=0)


def test_a_later_listing_changes_nothing_before_it(lake: Lake) -> None:
    """A cut before the third instrument began leaves a panel of two; ranks and residuals do not change."""
    cuts = set()
    for seed in range(4):
        cuts |= set(prove_point_in_time(lake, load, get_set("candles"), grace_ns=GRACE_NS, seed=seed).cuts)
    assert min(cuts) < iso(START_NS + LISTED_AT * MINUTE_NS)


def test_a_loader_that_requires_an_instrument_skips_cuts_before_its_listing(lake: Lake) -> None:
    def insisting(lake: Lake) -> Panel:
        return load(lake, instruments=NAMES)

    with_all = [
        prove_point_in_time(lake, insisting, get_set("candles"), grace_ns=GRACE_NS, seed=seed).cuts
        for seed in (0, 1)
    ]
    assert all(cut >= iso(START_NS + LISTED_AT * MINUTE_NS) for cuts in with_all for cut in cuts)


def test_a_label_with_a_wrong_knowable_time_is_caught_by_its_correlation(tmp_path: Path) -> None:
    for lake in lake_of(tmp_path, drawn_rows(lie_bars=5)):
        with pytest.raises(LeakError) as caught:
            prove_point_in_time(lake, load, get_set("live"), grace_ns=GRACE_NS, seed=0)
    assert (caught.value.facts["check"], caught.value.facts["feature"]) == ("foretold", "funding_level")
    assert "is the return of the 5 bars after it" in caught.value.message
    assert caught.value.facts["instrument"] in NAMES


def test_a_highly_predictive_feature_is_reported_as_suspect(lake: Lake) -> None:
    def noisy(lake: Lake) -> Panel:
        panel = load(lake)
        price = log_mid(panel)
        ahead = torch.full_like(price, torch.nan)
        ahead[:, :-5] = price[:, 5:] - price[:, :-5]
        noise = torch.randn(ahead.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        return replace(
            panel, values=panel.values | {"funding_rate": ahead + 4e-4 * noise[:, : ahead.shape[1]]}
        )

    class Unhidden(PointInTimeLake):
        """Hides nothing, which leaves only the comparison with later returns."""

        def query(self, sql: str, params: Sequence[object] = (), *, at: int | None = None) -> pa.Table:
            return self._lake.query(sql, params, at=at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features.leakage.point_in_time, "PointInTimeLake", Unhidden)
        patch.setattr(features.leakage.point_in_time, "_require_caught", lambda *given: None)
        result = prove_point_in_time(lake, noisy, get_set("live"), grace_ns=GRACE_NS, seed=0)
    assert [item[:2] for item in result.suspects] == [("funding_level", 5)]
    assert SUSPECT < abs(result.suspects[0][2]) < 0.99


def test_a_proof_that_hides_nothing_fails(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        features.leakage.point_in_time, "PointInTimeLake", lambda lake, known_at_ns, rows: lake
    )
    with pytest.raises(LeakError, match="the proof is blind: its check of the lake did not catch a label"):
        prove_point_in_time(lake, load, get_set("candles"), grace_ns=GRACE_NS, seed=0)


def test_each_basis_is_proven_by_its_own_clock(lake: Lake) -> None:
    """Of repaired rows, which came an hour late, a panel of available rows is full, and one of served rows has none."""

    def available(lake: Lake) -> Panel:
        return load(lake, rows="available")

    assert not torch.equal(load(lake).column("volume"), available(lake).column("volume"))
    volume = [item for item in get_set("live") if "volume" in item.name]
    arguments: dict[str, Any] = {"grace_ns": GRACE_NS, "seed": 0}
    assert prove_point_in_time(lake, available, volume, rows="available", **arguments).compared > 100
    with pytest.raises(LeakError, match="that became knowable after step"):
        prove_point_in_time(lake, available, volume, rows="served", **arguments)


def test_a_loader_of_nothing_is_refused(lake: Lake) -> None:
    def late(lake: Lake) -> Panel:
        return load(lake, since_ns=START_NS + (STEPS - 1) * MINUTE_NS)

    with pytest.raises(RangeError, match="none of 1 steps can be proven from the lake"):
        prove_point_in_time(lake, late, get_set("candles"), grace_ns=GRACE_NS, seed=0)


def test_rank_correlation_agrees_with_scipy() -> None:
    from scipy.stats import spearmanr

    draw = np.random.default_rng(3)
    x, y = draw.normal(size=(3, 500)), draw.normal(size=(3, 500))
    y[1] += x[1]
    there = draw.random((3, 500)) < 0.8
    there[2, 150:] = False
    found, pairs = rank_correlation(*(torch.from_numpy(part) for part in (x, y, there)))
    expected = [spearmanr(x[row][there[row]], y[row][there[row]]).statistic for row in (0, 1)]
    assert found.tolist() == pytest.approx([*expected, 0.0], abs=1e-12)
    assert pairs == there[:2].sum()
