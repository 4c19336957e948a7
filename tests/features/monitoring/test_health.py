"""Health checks of feature blocks: figures, refusals, warnings and the training window."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from features.build import build_features
from features.feature import FeatureBlock
from features.monitoring.drift import drift, ks, psi
from features.monitoring.health import FeatureHealth, TrainingWindow, check_health
from features.panel.panel import Panel
from storage.errors import ContractError
from tests.features.panels import CODE, random_panel

STEPS = 1_600
SPLIT = 1_200
PANEL = random_panel(4, STEPS, seed=8)
BLOCK = build_features(PANEL, "live")
SPLIT_NS = int(PANEL.ts_open_ns[SPLIT])
NAMES = BLOCK.names


def health_of(block: FeatureBlock = BLOCK, panel: Panel = PANEL) -> FeatureHealth:
    return check_health(block, panel, split_ns=SPLIT_NS)


def changed(
    name: str, *, rows: object = slice(None), start: int = SPLIT, value: object, known: bool = True
) -> FeatureBlock:
    """Return the block with one feature replaced from a step on; `value` is a number or maps the old values."""
    values, mask, place = BLOCK.values.clone(), BLOCK.mask.clone(), NAMES.index(name)
    old = values[rows, start:, place]
    values[rows, start:, place] = value(old) if callable(value) else torch.full_like(old, value)
    mask[rows, start:, place] = known
    return replace(BLOCK, values=values, mask=mask)


def findings_of(health: FeatureHealth, feature: str) -> list[tuple[str, str]]:
    return [(item.verdict, item.what) for item in health.findings if item.feature == feature]


# Figures.


def test_coverage_and_nulls_agree_with_a_loop() -> None:
    health = health_of()
    first = BLOCK.lookback_bars
    compared, status, mask = 0, PANEL.status.tolist(), BLOCK.mask.tolist()
    for place, name in enumerate(NAMES):
        for row in range(PANEL.n_instruments):
            listed = [t for t in range(first, STEPS) if status[row][t] != CODE["unlisted"]]
            watched = [t for t in listed if status[row][t] in (CODE["printed"], CODE["quiet"])]
            known = sum(mask[row][t][place] for t in listed)
            missing = sum(not mask[row][t][place] for t in watched)
            assert health.coverage[place, row] == pytest.approx(known / len(listed)), name
            assert health.nulls[place, row] == pytest.approx(missing / len(watched)), name
            compared += 1
    assert compared == len(NAMES) * PANEL.n_instruments


@given(seed=st.integers(0, 200), n=st.integers(2, 300), m=st.integers(2, 300), tied=st.booleans())
def test_ks_agrees_with_scipy(seed: int, n: int, m: int, tied: bool) -> None:
    draw = np.random.default_rng(seed)
    x, y = draw.normal(size=n), draw.normal(0.5, 2.0, size=m)
    if tied:
        x, y = np.round(x), np.round(y)
    assert ks(x, y) == pytest.approx(ks_2samp(x, y, method="asymp").statistic, abs=1e-12)


def test_psi_of_known_shares_agrees_with_the_formula() -> None:
    """Deciles of the training window; the recent one has twice the share in the lowest and none in the highest."""
    trained = np.arange(1_000, dtype=np.float64)
    recent = np.concatenate([trained[:100], trained[:900]])
    expected = (0.2 - 0.1) * math.log(0.2 / 0.1) + (1e-4 - 0.1) * math.log(1e-4 / 0.1)
    assert psi(trained, recent) == pytest.approx(expected, rel=1e-2)
    assert psi(trained, trained) == 0.0


def test_psi_detects_a_shift_away_from_a_spike() -> None:
    """Nine tenths zeros: all deciles are one value, and a shift off it must still be seen."""
    trained = np.where(np.arange(1_000) % 10 == 0, 1.0, 0.0)
    assert psi(trained, trained) == 0.0
    assert psi(trained, np.full(1_000, -1.0)) > 1.0
    assert psi(np.zeros(500), np.full(500, 2.0)) > 1.0


# Limits.


def test_a_sound_block_is_not_refused() -> None:
    health = health_of()
    health.refuse()
    assert health.refusals == ()
    assert np.isfinite(health.psi[NAMES.index("log_return_1")]).all()
    assert np.isnan(health.psi[NAMES.index("hour_sin")]).all(), "clock features have no drift"
    assert not findings_of(health, "log_return_1")


def test_a_feature_whose_source_stopped_is_refused() -> None:
    died = changed("funding_level", value=0.0, known=False)
    health = health_of(died)
    [(verdict, what)] = findings_of(health, "funding_level")
    assert verdict == "refuse"
    assert "missing on 95% or more of the recent watched bars" in what
    with pytest.raises(ContractError, match=r"not fit for training: funding_level of \S+\|perp\|") as caught:
        health.refuse()
    assert caught.value.hint.endswith("tickwalk features health live")


def test_a_feature_that_stopped_on_one_instrument_of_four_is_a_warning() -> None:
    health = health_of(changed("funding_level", rows=slice(2, 3), value=0.0, known=False))
    assert [verdict for verdict, _ in findings_of(health, "funding_level")] == ["warn"]
    assert next(item for item in health.findings if item.feature == "funding_level").instruments == (
        PANEL.instruments[2],
    )


def test_an_outage_does_not_refuse_features() -> None:
    """The recent bars were not watched: everything is missing, and no source stopped."""
    status = PANEL.status.clone()
    status[:, SPLIT:] = CODE["blind"]
    dark = replace(PANEL, status=status)
    assert check_health(build_features(dark, "live"), dark, split_ns=SPLIT_NS).refusals == ()


def test_another_unit_is_refused() -> None:
    health = health_of(changed("relative_spread", value=lambda old: old * 1e4))
    assert ("refuse", True) in [
        (verdict, "times its whole range in training" in what)
        for verdict, what in findings_of(health, "relative_spread")
    ]


def test_a_range_within_the_lookback_is_refused() -> None:
    """Everything is masked, and must not be reported as healthy."""
    for steps, is_refused in ((BLOCK.lookback_bars, True), (BLOCK.lookback_bars + 1, False)):
        panel = PANEL.steps(0, steps)
        health = check_health(build_features(panel, "live"), panel, split_ns=int(panel.ts_open_ns[-1]))
        assert bool(health.refusals) == is_refused
        if is_refused:
            with pytest.raises(
                ContractError, match=f"has a lookback of {steps} bars, and the range has {steps}"
            ):
                health.refuse()


def test_a_non_finite_value_is_refused() -> None:
    for value, known in ((math.nan, True), (3.0, False)):
        health = health_of(
            changed("queue_imbalance", rows=slice(1, 2), start=STEPS - 1, value=value, known=known)
        )
        [first, *_] = health.refusals
        assert (first.feature, first.instruments) == ("queue_imbalance", PANEL.instruments[1:2])


def test_drift_beyond_training_is_a_warning_and_noise_is_not() -> None:
    health = health_of(changed("log_return_5", value=lambda old: old * 4.0))
    [(verdict, what)] = findings_of(health, "log_return_5")
    assert verdict == "warn"
    assert what.startswith("drifted: PSI up to")
    assert findings_of(health_of(), "log_return_5") == []


def test_a_feature_that_always_wanders_is_not_reported_as_drifting() -> None:
    """A slowly changing level differs from the whole in every quarter of the training window too."""
    place = NAMES.index("mark_basis")
    values, mask = BLOCK.values.clone(), BLOCK.mask.clone()
    values[:, :, place] = torch.sin(torch.arange(STEPS) / STEPS * 40.0).round(decimals=1)
    mask[:, :, place] = True
    assert findings_of(health_of(replace(BLOCK, values=values, mask=mask)), "mark_basis") == []


def test_never_known_or_constant_features_are_warnings() -> None:
    health = health_of(changed("print_rate_30", start=0, value=0.0, known=False))
    assert findings_of(health, "print_rate_30") == [("warn", "is never known")]
    health = health_of(changed("print_rate_30", start=0, value=0.25))
    assert ("warn", "never varies") in findings_of(health, "print_rate_30")


def test_a_short_window_has_no_drift_figures() -> None:
    health = check_health(BLOCK, PANEL, split_ns=int(PANEL.ts_open_ns[STEPS - 50]))
    assert np.isnan(health.psi).all()
    assert np.isfinite(health.coverage).all()


def learned(start: int, stop: int) -> TrainingWindow:
    """Return the training window of a champion trained on these steps."""
    first_ns = int(PANEL.ts_open_ns[0])
    return TrainingWindow(
        "mlp-night",
        first_ns + start * PANEL.width_ns,
        first_ns + stop * PANEL.width_ns,
        frozenset(PANEL.instruments),
    )


def test_the_recent_window_is_compared_with_the_champions_training_data() -> None:
    """The range before the recent window contains a change that the champion never saw."""
    block = changed("log_return_5", start=1_000, value=lambda old: old * 4.0)
    place = NAMES.index("log_return_5")
    health = check_health(block, PANEL, split_ns=SPLIT_NS, learned=learned(100, 1_000))
    assert (health.champion, health.trained_since_ns, health.trained_until_ns) == (
        "mlp-night", PANEL.ts_open_ns[100], PANEL.ts_open_ns[1_000],
    )  # fmt: skip
    for row in range(4):
        known, value = block.mask[row, :, place].numpy(), block.values[row, :, place].double().numpy()
        first = max(block.lookback_bars, 100)
        expected = drift(value[first:1_000][known[first:1_000]], value[SPLIT:][known[SPLIT:]])
        assert (health.psi[place, row], health.ks[place, row]) == (expected["psi"], expected["ks"])
    assert np.nanmin(health.psi[place]) > 0.5
    assert [verdict for verdict, _ in findings_of(health, "log_return_5")] == ["warn"]
    # Compared with the whole range it is not new.
    assert findings_of(health_of(block), "log_return_5") == []


@pytest.mark.parametrize(
    ("start", "stop", "is_used"),
    [
        (0, 1_300, True),  # trained on a part of the recent window too, which is not compared with itself
        (-1_500, 1_000, False),  # most of the training data lies before the range
        (200, 560, False),  # too short for statistics
    ],
)
def test_with_too_little_champion_data_the_whole_range_is_used(start: int, stop: int, is_used: bool) -> None:
    health = check_health(BLOCK, PANEL, split_ns=SPLIT_NS, learned=learned(start, stop))
    assert health.champion == ("mlp-night" if is_used else "")
    assert health.trained_until_ns == SPLIT_NS
    if not is_used:
        np.testing.assert_array_equal(health.psi, health_of().psi)


def test_an_instrument_unknown_to_the_champion_is_compared_with_its_own_past() -> None:
    """A coin listed since then has no values in the champion's window, and would otherwise never be checked."""
    whole = learned(100, 1_000)
    health = check_health(
        BLOCK, PANEL, split_ns=SPLIT_NS, learned=replace(whole, instruments=frozenset(PANEL.instruments[:2]))
    )
    of_champion, of_past = check_health(BLOCK, PANEL, split_ns=SPLIT_NS, learned=whole), health_of()
    assert health.champion == "mlp-night"
    np.testing.assert_array_equal(health.psi[:, :2], of_champion.psi[:, :2])
    np.testing.assert_array_equal(health.psi[:, 2:], of_past.psi[:, 2:])
    assert not np.array_equal(of_champion.psi[:, 2:], of_past.psi[:, 2:], equal_nan=True)


def test_health_written_before_champions_existed_is_read() -> None:
    plain = health_of().to_dict()
    for name in ("champion", "trained_since_ns", "trained_until_ns"):
        del plain[name]
    again = FeatureHealth.from_dict(plain)
    assert (again.champion, again.trained_since_ns, again.trained_until_ns) == ("", again.since_ns, SPLIT_NS)


def test_an_instrument_that_was_never_listed_has_no_figures() -> None:
    status = PANEL.status.clone()
    status[1] = CODE["unlisted"]
    gone = replace(PANEL, status=status)
    health = check_health(build_features(gone, "live"), gone, split_ns=SPLIT_NS)
    assert np.isnan(health.coverage[:, 1]).all()
    assert health.refusals == ()


def test_health_survives_json() -> None:
    health = health_of(changed("funding_level", value=0.0, known=False))
    again = FeatureHealth.from_dict(json.loads(json.dumps(health.to_dict())))
    assert again.findings == health.findings
    assert (again.names, again.instruments, again.split_ns) == (
        health.names,
        health.instruments,
        health.split_ns,
    )
    for name in ("coverage", "nulls", "constant", "psi", "ks", "usual"):
        np.testing.assert_allclose(getattr(again, name), getattr(health, name), atol=1e-6)


def test_a_block_of_other_bars_is_refused() -> None:
    with pytest.raises(ContractError, match="same instruments and clock"):
        health_of(BLOCK, PANEL.steps(1, None))
